import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { assert, describe, it, vi } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { AppConfig } from "../../src/Config.ts"
import * as Db from "../../src/db/Db.ts"
import * as Migrations from "../../src/db/Migrations.ts"
import * as TestDb from "../support/TestDb.ts"

// A database takes half a second to start, and much more on a machine that is busy.
vi.setConfig({ testTimeout: 60_000 })

const wired = (environment: Readonly<Record<string, string>>) =>
  Db.layer.pipe(
    Layer.provide(AppConfig.layer),
    Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(environment)))
  )

const startError = (environment: Readonly<Record<string, string>>) =>
  Effect.map(Effect.flip(Effect.scoped(Layer.build(wired(environment)))), (error) => {
    assert.strictEqual(error._tag, "DbStartError")
    assert.notInclude(error.message, "\n")
    assert.notInclude(error.message, "s3cret")
    return error.message
  })

/** A server that answers a connection as told. */
const fakeServer = (answer: (socket: net.Socket) => void) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<net.Server>((resume) => {
        const server = net.createServer(answer)
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) => Effect.sync(() => void server.close())
    ),
    (server) => (server.address() as net.AddressInfo).port
  )

/** An ErrorResponse of the protocol. */
const refusal = (code: string, message: string) => {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C${code}\0M${message}\0\0`)
  const frame = Buffer.alloc(5 + fields.length)
  frame.write("E")
  frame.writeUInt32BE(4 + fields.length, 1)
  fields.copy(frame, 5)
  return frame
}

describe("the database that is configured", () => {
  it.effect("is the embedded one, when there is no DATABASE_URL, with the newest schema", () =>
    Effect.gen(function* () {
      const dataDir = yield* Effect.acquireRelease(
        Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-db-"))),
        (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
      )
      yield* Effect.gen(function* () {
        const { kind, description } = yield* Db.DbInfo
        assert.strictEqual(kind, "embedded")
        assert.match(description, /^embedded PostgreSQL \d+\.\d+ \(PGlite\) in /)
        assert.isTrue(description.endsWith(dataDir))
        const all = yield* Migrations.load()
        assert.strictEqual((yield* Migrations.applied).length, all.length)
      }).pipe(Effect.provide(wired({ DATA_DIR: dataDir })))
    })
  )

  it.effect("says in one line that nobody listens there", () =>
    Effect.gen(function* () {
      const port = yield* Effect.scoped(fakeServer((socket) => socket.destroy()))
      const message = yield* startError({ DATABASE_URL: `postgres://me:s3cret@127.0.0.1:${port}/voice` })
      assert.strictEqual(
        message,
        `DATABASE_URL: PostgreSQL at 127.0.0.1:${port}/voice cannot be reached: connect ECONNREFUSED 127.0.0.1:${port}`
      )
    })
  )

  it.effect("says that the host is unknown", () =>
    Effect.gen(function* () {
      const message = yield* startError({ DATABASE_URL: "postgres://me:s3cret@no-such-host.invalid/voice" })
      assert.match(
        message,
        /^DATABASE_URL: PostgreSQL at no-such-host\.invalid:5432\/voice cannot be reached: .*no-such-host/
      )
    })
  )

  it.effect("says that the credentials are refused", () =>
    Effect.gen(function* () {
      const port = yield* fakeServer((socket) =>
        socket.once("data", () =>
          socket.end(refusal("28P01", `password authentication failed for user "me"`))
        )
      )
      const message = yield* startError({ DATABASE_URL: `postgres://me:s3cret@127.0.0.1:${port}/voice` })
      assert.include(
        message,
        `127.0.0.1:${port}/voice refuses the credentials: password authentication failed`
      )
    })
  )

  it.effect("says that there is no such database", () =>
    Effect.gen(function* () {
      const port = yield* fakeServer((socket) =>
        socket.once("data", () => socket.end(refusal("3D000", `database "voice" does not exist`)))
      )
      const message = yield* startError({ DATABASE_URL: `postgres://me:s3cret@127.0.0.1:${port}/voice` })
      assert.include(message, `refuses the connection: database "voice" does not exist (3D000)`)
    })
  )

  it.effect("says that the folder cannot be used", () =>
    Effect.gen(function* () {
      const message = yield* startError({ DATA_DIR: path.join(import.meta.filename, "below-a-file") })
      assert.match(message, /^DATA_DIR: .*ENOTDIR/)
    })
  )
})

if (TestDb.serverUrl !== undefined) {
  describe("a server", () => {
    it.live("that ends the connection inside a transaction leaves DbUnavailable, and the pool goes on", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table t (id int)`
        const error = yield* sql
          .withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into t values (1)`
              yield* sql`select pg_terminate_backend(pg_backend_pid())`
            })
          )
          .pipe(Db.guard, Effect.flip)
        assert.strictEqual(error.reason, "connection")
        assert.deepStrictEqual(yield* sql`select * from t`, [])
      }).pipe(Effect.provide(TestDb.layerEmpty))
    )

    it.live("is told to stop what nobody waits for any more", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const slow = yield* Effect.forkChild(sql`select pg_sleep(60)::text /* given up */`)
        const running = Effect.map(
          sql`select 1 from pg_stat_activity where state = 'active' and query like '%/* given up */%'
              and pid <> pg_backend_pid()`,
          (rows) => rows.length
        )
        yield* Effect.repeat(running, { until: (n) => n === 1 })
        yield* Fiber.interrupt(slow)
        yield* Effect.repeat(running, { until: (n) => n === 0 })
      }).pipe(Effect.provide(TestDb.layerEmpty))
    )

    it.live("has the limits of ours on every connection", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const settings = ["application_name", "idle_in_transaction_session_timeout", "statement_timeout"]
        const rows =
          yield* sql`select name, setting from pg_settings where ${sql.in("name", settings)} order by name`
        assert.deepStrictEqual(rows, [
          { name: "application_name", setting: "voice-agent-api" },
          { name: "idle_in_transaction_session_timeout", setting: "60000" },
          { name: "statement_timeout", setting: "5000" }
        ])
      }).pipe(Effect.provide(TestDb.layerEmpty))
    )

    it.live("lets deadlocks be resolved by running the loser again", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table t (id int primary key, n int not null)`
        yield* sql`insert into t values (1, 0), (2, 0)`
        const both = (first: number, second: number) =>
          Db.retrying(
            sql.withTransaction(
              Effect.gen(function* () {
                yield* sql`update t set n = n + 1 where id = ${first}`
                yield* sql`select pg_sleep(0.05)::text`
                yield* sql`update t set n = n + 1 where id = ${second}`
              })
            )
          )
        const exits = yield* Effect.all([both(1, 2), both(2, 1)].map(Effect.exit), {
          concurrency: "unbounded"
        })
        assert.isTrue(exits.every(Exit.isSuccess))
        assert.deepStrictEqual(yield* sql`select n from t`, [{ n: 2 }, { n: 2 }])
      }).pipe(Effect.provide(TestDb.layerEmpty))
    )
  })
}
