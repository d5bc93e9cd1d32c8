import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import type { Duplex } from "node:stream"
import { PgConnection } from "@effect/sql-pg"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import * as Embedded from "../../src/db/Embedded.ts"
import * as EmbeddedTemplate from "../../src/db/EmbeddedTemplate.ts"

// A database takes half a second to start, and much more on a machine that is busy.
vi.setConfig({ testTimeout: 60_000 })

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-embedded-"))),
  (path) => Effect.sync(() => fs.rmSync(path, { recursive: true }))
)

const memory = Embedded.make({ dataDir: undefined, template: true })

/** A connection of the driver, together with the stream under it. */
const connect = Effect.fnUntraced(function* (embedded: Embedded.Embedded) {
  const streams: Array<Duplex> = []
  const connection = yield* PgConnection.make({
    username: "postgres",
    connectTimeout: "30 seconds",
    stream: () => {
      const stream = embedded.connect()
      streams.push(stream)
      return stream
    }
  })
  const [stream] = streams
  assert.isDefined(stream)
  return { connection, stream: stream as Duplex }
})

const one = Effect.fnUntraced(function* (connection: PgConnection.PgConnection, statement: string) {
  const { rows } = yield* connection.query(statement)
  return Object.values(rows[0] ?? {})[0]
})

const onDisk = (dataDir: string) =>
  Layer.effectContext(Db.embedded({ dataDir })).pipe(Layer.provide(Reactivity.layer))

describe("a connection that takes over the session", () => {
  it.effect("finds the transaction of a lost one rolled back", () =>
    Effect.gen(function* () {
      const embedded = yield* memory
      const first = yield* connect(embedded)
      yield* first.connection.query("create table t (id int)")
      yield* first.connection.query("begin")
      yield* first.connection.query("insert into t values (1)")
      first.stream.destroy()
      const second = yield* connect(embedded)
      assert.strictEqual(yield* one(second.connection, "select count(*)::int from t"), 0)
      assert.strictEqual(yield* one(second.connection, "select pg_current_xact_id_if_assigned()::text"), null)
    })
  )

  it.effect("finds nothing that the last one left in it", () =>
    Effect.gen(function* () {
      const embedded = yield* memory
      const scope = yield* Scope.make()
      const first = yield* Scope.provide(connect(embedded), scope)
      yield* first.connection.query("set search_path to pg_catalog")
      yield* first.connection.query("create temp table t (id int)")
      yield* first.connection.query("select pg_advisory_lock(7)::text")
      assert.isAbove(
        Number(yield* one(first.connection, "select count(*)::int from pg_prepared_statements")),
        0
      )
      yield* Scope.close(scope, Exit.void)
      const { connection } = yield* connect(embedded)
      const count = (what: string) => connection.query(`select count(*)::int as n from ${what}`, [], false)
      assert.deepStrictEqual((yield* count("pg_prepared_statements")).rows, [{ n: 0 }])
      assert.deepStrictEqual((yield* count("pg_locks where locktype = 'advisory'")).rows, [{ n: 0 }])
      assert.deepStrictEqual((yield* count("pg_class where relname = 't'")).rows, [{ n: 0 }])
      assert.strictEqual(yield* one(connection, "show search_path"), "public")
    })
  )

  it.effect("waits until the one before has ended", () =>
    Effect.gen(function* () {
      const embedded = yield* memory
      const first = yield* connect(embedded)
      yield* first.connection.query("create table t (id int)")
      const second = yield* Effect.forkChild(
        Effect.flatMap(connect(embedded), ({ connection }) => one(connection, "select count(*)::int from t"))
      )
      // Each is a round trip through the thread: the second one would long be through.
      for (let i = 0; i < 20; i++) yield* first.connection.query("insert into t values (1)")
      assert.isUndefined(second.pollUnsafe())
      first.stream.destroy()
      assert.strictEqual(yield* Fiber.join(second), 20)
    })
  )

  it.effect("does not get the answer to a statement that was lost with the one before", () =>
    Effect.gen(function* () {
      const embedded = yield* memory
      const first = yield* connect(embedded)
      const slow = yield* Effect.forkChild(
        Effect.exit(first.connection.query("select count(*)::int as stale from generate_series(1, 200000)"))
      )
      yield* Effect.yieldNow
      first.stream.destroy()
      assert.isTrue(Exit.isFailure(yield* Fiber.join(slow)))
      const second = yield* connect(embedded)
      assert.deepStrictEqual((yield* second.connection.query("select 1 as fresh")).rows, [{ fresh: 1 }])
    })
  )

  it.effect("of a pool comes by itself, when the one before is lost in a transaction", () =>
    Effect.gen(function* () {
      const embedded = yield* memory
      const streams: Array<Duplex> = []
      const sql = yield* Db.client({
        ...embedded,
        connect: () => {
          const stream = embedded.connect()
          streams.push(stream)
          return stream
        }
      })
      yield* sql`create table t (id int)`
      const error = yield* sql
        .withTransaction(
          Effect.gen(function* () {
            yield* sql`insert into t values (1)`
            streams.at(-1)?.destroy()
            yield* sql`insert into t values (2)`
          })
        )
        .pipe(Db.guard, Effect.flip)
      assert.strictEqual(error._tag, "DbUnavailable")
      assert.strictEqual(error.reason, "connection")
      assert.deepStrictEqual(yield* sql`select * from t`, [])
      assert.isAbove(streams.length, 1)
    }).pipe(Effect.provide(Reactivity.layer))
  )
})

describe("a database on disk", () => {
  it.effect("is there again after it was closed, and was closed clean", () =>
    Effect.gen(function* () {
      const dataDir = path.join(yield* folder, "made/when/missing")
      yield* Effect.flatMap(
        SqlClient.SqlClient,
        (sql) => sql`create table kept as select 'here' as word`
      ).pipe(Effect.provide(onDisk(dataDir)))
      assert.deepStrictEqual(fs.readdirSync(dataDir), ["postgres"])
      assert.isFalse(fs.existsSync(path.join(dataDir, "postgres/postmaster.pid")))
      const rows = yield* Effect.flatMap(SqlClient.SqlClient, (sql) => sql`select word from kept`).pipe(
        Effect.provide(onDisk(dataDir))
      )
      assert.deepStrictEqual(rows, [{ word: "here" }])
    })
  )

  it.effect("is refused while it is open, with a message that says by whom", () =>
    Effect.gen(function* () {
      const dataDir = yield* folder
      yield* Layer.build(onDisk(dataDir))
      const error = yield* Effect.flip(Effect.scoped(Layer.build(onDisk(dataDir))))
      assert.strictEqual(error._tag, "DbStartError")
      assert.include(error.message, `process ${process.pid} is using it`)
      assert.notInclude(error.message, "\n")
    })
  )

  it.effect("is made anew when a kill left it half made", () =>
    Effect.gen(function* () {
      const dataDir = yield* folder
      fs.mkdirSync(path.join(dataDir, "postgres/base"), { recursive: true })
      fs.writeFileSync(path.join(dataDir, "postgres/PG_VERSION"), "18\n")
      fs.writeFileSync(path.join(dataDir, "postgres.initializing"), "")
      const rows = yield* Effect.flatMap(SqlClient.SqlClient, (sql) => sql`select 1 as one`).pipe(
        Effect.provide(onDisk(dataDir))
      )
      assert.deepStrictEqual(rows, [{ one: 1 }])
      assert.deepStrictEqual(fs.readdirSync(dataDir), ["postgres"])
    })
  )

  it.effect("that is damaged says so in one line, and gives the folder back", () =>
    Effect.gen(function* () {
      const dataDir = yield* folder
      fs.mkdirSync(path.join(dataDir, "postgres"))
      assert.isTrue(EmbeddedTemplate.unpack(path.join(dataDir, "postgres")))
      fs.truncateSync(path.join(dataDir, "postgres/global/pg_control"), 100)
      const error = yield* Effect.flip(Effect.scoped(Layer.build(onDisk(dataDir))))
      assert.strictEqual(error._tag, "DbStartError")
      assert.strictEqual(
        error.message,
        `The embedded database did not start: could not read file "global/pg_control": read 100 of 296`
      )
      assert.deepStrictEqual(fs.readdirSync(dataDir), ["postgres"])
    })
  )

  // Waits for the grace that a cancelled statement gets, and for the recovery.
  it.live("survives a statement that does not end, once its caller gives up", () =>
    Effect.gen(function* () {
      const dataDir = yield* folder
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`create table kept as select 'here' as word`
        const lost = yield* sql
          .withTransaction(
            Effect.andThen(
              sql`insert into kept values ('gone')`,
              sql`select count(*) from generate_series(1, 1e12)`
            )
          )
          .pipe(Effect.timeoutOption("100 millis"))
        assert.strictEqual(lost._tag, "None")
        assert.deepStrictEqual(yield* Db.retrying(sql`select word from kept`, { idempotent: true }), [
          { word: "here" }
        ])
      }).pipe(Effect.provide(onDisk(dataDir)))
    })
  )
})

describe("a new database", () => {
  it("has a packed one to start from, for the version of PGlite that is installed", () => {
    assert.isTrue(
      fs.existsSync(EmbeddedTemplate.file()),
      `${EmbeddedTemplate.file()} is missing. Make it: node src/db/EmbeddedTemplate.ts`
    )
  })

  it.effect(
    "can do without",
    () =>
      Effect.gen(function* () {
        const dataDir = path.join(yield* folder, "postgres")
        const embedded = yield* Embedded.make({ dataDir, template: false })
        const { connection } = yield* connect(embedded)
        assert.match(String(yield* one(connection, "show server_version")), /^\d+\.\d+$/)
        assert.strictEqual(yield* one(connection, "show server_encoding"), "UTF8")
      }),
    60_000
  )

  it.effect("is durable on disk", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const settings = ["fsync", "synchronous_commit", "full_page_writes", "wal_sync_method"]
      const rows = yield* sql<{ name: string; setting: string }>`
        select name, setting from pg_settings where ${sql.in("name", settings)} order by name`
      assert.deepStrictEqual(
        rows.map(({ name, setting }) => `${name}=${setting}`),
        ["fsync=on", "full_page_writes=on", "synchronous_commit=on", "wal_sync_method=fsync"]
      )
    }).pipe(Effect.provide(Layer.unwrap(Effect.map(folder, onDisk))))
  )
})
