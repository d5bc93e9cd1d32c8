import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import { eventually } from "../support/ChatClient.ts"
import * as TestDb from "../support/TestDb.ts"
import { record } from "../tools/RecordingTracer.ts"

/** What the policy told: why each retry was made. */
const retriesOf = (spans: Effect.Success<ReturnType<typeof record>>["spans"]) =>
  spans.flatMap(({ events }) =>
    events.filter(([name]) => name === "db.retry").map(([, , attributes]) => attributes?.["error.type"])
  )

/** Runs in a span, as everything in a turn does. */
const inSpan = <A, E, R>(effect: Effect.Effect<A, E, R>) => record(Effect.withSpan(effect, "work"))

const makeRows = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table counters (id int primary key, n int not null)`
  yield* sql`insert into counters values (1, 0), (2, 0)`
})

const counters = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const rows = yield* sql<{ n: number }>`select n from counters order by id`
  return rows.map(({ n }) => n)
})

describe.skipIf(TestDb.serverUrl === undefined)("SQL on a server (TEST_DATABASE_URL)", () => {
  it.live("that finds a deadlock is run again", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* makeRows
      const locked = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
      let runs = 0
      const add = (first: number, second: number, mine: 0 | 1) =>
        Db.retrying(
          sql.withTransaction(
            Effect.gen(function* () {
              runs++
              yield* sql`update counters set n = n + 1 where id = ${first}`
              yield* Deferred.succeed(locked[mine], undefined)
              yield* Deferred.await(locked[mine === 0 ? 1 : 0])
              yield* sql`update counters set n = n + 1 where id = ${second}`
            })
          )
        )
      const { spans } = yield* inSpan(Effect.all([add(1, 2, 0), add(2, 1, 1)], { concurrency: 2 }))
      assert.deepStrictEqual(yield* counters, [2, 2])
      assert.strictEqual(runs, 3)
      assert.deepStrictEqual(retriesOf(spans), ["DeadlockError"])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.live("that can't be serialized is run again", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* makeRows
      const read = [yield* Deferred.make<void>(), yield* Deferred.make<void>()] as const
      let runs = 0
      const add = (mine: 0 | 1) =>
        Db.retrying(
          sql.withTransaction(
            Effect.gen(function* () {
              runs++
              yield* sql`set transaction isolation level serializable`
              const [row] = yield* sql<{ n: number }>`select n from counters where id = 1`
              yield* Deferred.succeed(read[mine], undefined)
              yield* Deferred.await(read[mine === 0 ? 1 : 0])
              yield* sql`update counters set n = ${(row?.n ?? 0) + 1} where id = 1`
            })
          )
        )
      const { spans } = yield* inSpan(Effect.all([add(0), add(1)], { concurrency: 2 }))
      assert.deepStrictEqual(yield* counters, [2, 0])
      assert.strictEqual(runs, 3)
      assert.deepStrictEqual(retriesOf(spans), ["SerializationError"])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  /** The statement waits in the server; meanwhile its connection is ended from another. */
  const losing = (
    run: (
      statement: Effect.Effect<unknown, SqlError.SqlError>,
      sql: SqlClient.SqlClient
    ) => Effect.Effect<unknown, Db.DbUnavailable | SqlError.SqlError>
  ) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* makeRows
      let runs = 0
      const statement = Effect.suspend(() =>
        ++runs === 1 ? sql`select pg_sleep(4), 'to be lost'` : sql`update counters set n = n + 1 where id = 1`
      )
      const running = yield* Effect.forkChild(inSpan(Effect.exit(run(statement, sql))))
      const ended = yield* eventually(
        sql<{ ok: boolean }>`
          select pg_terminate_backend(pid) as ok from pg_stat_activity
          where query like '%to be lost%' and pid <> pg_backend_pid() and state = 'active'`,
        (rows) => rows.length > 0
      )
      assert.deepStrictEqual(
        ended.map(({ ok }) => ok),
        [true]
      )
      const { result, spans } = yield* Fiber.join(running)
      return { result, retries: retriesOf(spans), runs, counters: yield* counters }
    }).pipe(Effect.provide(TestDb.layerEmpty))

  it.live("that loses its connection is run again, if it is idempotent", () =>
    Effect.gen(function* () {
      const { counters, result, retries, runs } = yield* losing((statement) =>
        Db.retrying(statement, { idempotent: true })
      )
      assert.strictEqual(result._tag, "Success")
      assert.deepStrictEqual([runs, retries, counters], [2, ["ConnectionError"], [1, 0]])
    })
  )

  it.live("that loses its connection is not run again otherwise", () =>
    Effect.gen(function* () {
      const { counters, result, retries, runs } = yield* losing((statement) => Db.retrying(statement))
      assert.strictEqual(result._tag, "Failure")
      assert.include(String(result), "connection")
      assert.deepStrictEqual([runs, retries, counters], [1, [], [0, 0]])
    })
  )

  it.live("that loses its connection in a transaction is not run again by itself, but the whole is", () =>
    Effect.gen(function* () {
      let inner = 0
      const { counters, result, retries, runs } = yield* losing((statement, sql) => {
        const within = Effect.suspend(() => {
          inner++
          return Db.retrying(statement, { idempotent: true })
        })
        return Db.retrying(sql.withTransaction(within), { idempotent: true })
      })
      assert.strictEqual(result._tag, "Success")
      assert.deepStrictEqual([inner, runs, retries, counters], [2, 2, ["ConnectionError"], [1, 0]])
    })
  )
})
