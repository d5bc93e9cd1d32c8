import { assert, describe, it, vi } from "@effect/vitest"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Ref, Tracer } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import * as Db from "../../src/db/Db.ts"
import * as TestDb from "../support/TestDb.ts"

// A database takes half a second to start, and much more on a machine that is busy.
vi.setConfig({ testTimeout: 60_000 })

const sqlError = (reason: SqlError.SqlErrorReason) => new SqlError.SqlError({ reason })

const state = (code: string) => ({ cause: Object.assign(new Error(`state ${code}`), { code }) })

const conflict = sqlError(new SqlError.SerializationError(state("40001")))
const deadlock = sqlError(new SqlError.DeadlockError(state("40P01")))
const refused = sqlError(
  new SqlError.ConnectionError({ cause: new Error("ECONNREFUSED"), operation: "connect" })
)
const lost = sqlError(new SqlError.ConnectionError({ cause: new Error("ECONNRESET"), operation: "query" }))
const unknown = (code: string, operation = "query") =>
  sqlError(new SqlError.UnknownError({ ...state(code), operation }))

/** Fails as told, once for each, and then answers how often it was run. */
const flaky = Effect.fnUntraced(function* (failures: ReadonlyArray<SqlError.SqlError>) {
  const runs = yield* Ref.make(0)
  const run = Effect.gen(function* () {
    const failure = failures[yield* Ref.getAndUpdate(runs, (n) => n + 1)]
    return failure === undefined ? yield* Ref.get(runs) : yield* failure
  })
  return { run, runs: Ref.get(runs) }
})

/** Runs with time going by as it is waited for. */
const soon = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkChild(effect)
    yield* TestClock.adjust("2 seconds")
    return yield* Fiber.await(fiber)
  })

const unavailable = (exit: Exit.Exit<unknown, unknown>) => {
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  return error instanceof Db.DbUnavailable ? error.reason : undefined
}

describe("guard", () => {
  it.effect("passes results and the errors of others", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Db.guard(Effect.succeed(1)), 1)
      assert.strictEqual(yield* Effect.flip(Db.guard(Effect.fail("mine" as const))), "mine")
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(Db.guard(Effect.interrupt))))
    })
  )

  const outages: ReadonlyArray<readonly [SqlError.SqlError, Db.DbUnavailable["reason"]]> = [
    [conflict, "conflict"],
    [deadlock, "conflict"],
    [refused, "connection"],
    [lost, "connection"],
    [sqlError(new SqlError.AuthenticationError(state("28P01"))), "connection"],
    [sqlError(new SqlError.StatementTimeoutError(state("57014"))), "timeout"],
    [sqlError(new SqlError.LockTimeoutError(state("55P03"))), "timeout"],
    [unknown("57P01"), "connection"],
    [unknown("57P03", "connect"), "connection"],
    [unknown("25P03"), "connection"],
    [unknown("25006"), "connection"],
    [unknown("53300", "connect"), "overloaded"],
    [unknown("53100"), "overloaded"]
  ]
  for (const [error, reason] of outages) {
    const { _tag, cause } = error.reason
    it.effect(`knows ${_tag} (${cause instanceof Error ? cause.message : ""}) as ${reason}`, () =>
      Effect.gen(function* () {
        const failure = yield* Effect.flip(Db.guard(error))
        assert.strictEqual(failure.reason, reason)
        assert.strictEqual(failure.cause, error)
        assert.strictEqual(unavailable(yield* Effect.exit(Db.guard(Effect.die(error)))), reason)
      })
    )
  }

  it.effect("lets bugs die", () =>
    Effect.gen(function* () {
      for (const bug of [
        sqlError(new SqlError.SqlSyntaxError(state("42601"))),
        unknown("22012"),
        unknown("XX000")
      ]) {
        const exit = yield* Effect.exit(Db.guard(bug))
        assert.isTrue(Exit.hasDies(exit) && !Exit.hasFails(exit))
        assert.strictEqual(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, bug)
      }
    })
  )

  it.effect("waits five seconds and no longer", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Effect.exit(Db.guard(Effect.never)))
      yield* TestClock.adjust("4999 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(unavailable(yield* Fiber.join(fiber)), "timeout")
    })
  )
})

describe("guard, out of time,", () => {
  it.effect("does not wait for what takes long to give up, but has it give up", () =>
    Effect.gen(function* () {
      const ended = yield* Deferred.make<void>()
      const reluctant = Effect.onInterrupt(Effect.never, () =>
        Effect.andThen(Effect.sleep("1 minute"), Deferred.succeed(ended, undefined))
      )
      const fiber = yield* Effect.forkChild(Effect.exit(Db.guard(reluctant)))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(unavailable(yield* Fiber.join(fiber)), "timeout")
      yield* TestClock.adjust("1 minute")
      yield* Deferred.await(ended)
    })
  )

  it.effect("waits for its end where the caller is interrupted", () =>
    Effect.gen(function* () {
      const ended = yield* Ref.make(false)
      const fiber = yield* Effect.forkChild(
        Db.guard(
          Effect.onInterrupt(Effect.never, () => Effect.andThen(Effect.yieldNow, Ref.set(ended, true)))
        )
      )
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.isTrue(yield* Ref.get(ended))
    })
  )
})

describe("retrying", () => {
  it.effect("runs conflicts, deadlocks and refused connections again, whatever the effect does", () =>
    Effect.gen(function* () {
      const { run } = yield* flaky([conflict, deadlock, refused])
      assert.deepStrictEqual(yield* soon(Db.retrying(run)), Exit.succeed(4))
    })
  )

  it.effect("gives up after the third time", () =>
    Effect.gen(function* () {
      const { run, runs } = yield* flaky(Array.from({ length: 9 }, () => conflict))
      assert.strictEqual(unavailable(yield* soon(Db.retrying(run))), "conflict")
      assert.strictEqual(yield* runs, 4)
    })
  )

  it.effect("runs a lost connection again only where the caller says that it may", () =>
    Effect.gen(function* () {
      const careful = yield* flaky([lost])
      assert.strictEqual(unavailable(yield* soon(Db.retrying(careful.run))), "connection")
      assert.strictEqual(yield* careful.runs, 1)
      const shutDown = yield* flaky([unknown("57P01")])
      assert.strictEqual(unavailable(yield* soon(Db.retrying(shutDown.run))), "connection")
      const idempotent = yield* flaky([lost, unknown("57P01")])
      assert.deepStrictEqual(yield* soon(Db.retrying(idempotent.run, { idempotent: true })), Exit.succeed(3))
    })
  )

  it.effect("does not run timeouts, bugs or the errors of others again", () =>
    Effect.gen(function* () {
      for (const error of [sqlError(new SqlError.StatementTimeoutError(state("57014"))), unknown("22012")]) {
        const { run, runs } = yield* flaky([error])
        assert.isTrue(Exit.isFailure(yield* soon(Db.retrying(run, { idempotent: true }))))
        assert.strictEqual(yield* runs, 1)
      }
      const runs = yield* Ref.make(0)
      const mine = Effect.andThen(
        Ref.update(runs, (n) => n + 1),
        Effect.fail("mine" as const)
      )
      const exit = yield* soon(Db.retrying(mine, { idempotent: true }))
      assert.strictEqual(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, "mine")
      assert.strictEqual(yield* Ref.get(runs), 1)
    })
  )

  it.effect("waits 50 ms, 100 ms and 200 ms, give or take a fifth", () =>
    Effect.gen(function* () {
      const { run, runs } = yield* flaky([conflict, conflict, conflict])
      const fiber = yield* Effect.forkChild(Db.retrying(run))
      for (const [millis, expected] of [
        [39, 1],
        [21, 2], // at 60, the latest for the second run
        [59, 2], // at 119, just before the earliest for the third
        [61, 3], // at 180, the latest
        [99, 3], // at 279, just before the earliest for the fourth
        [141, 4] // at 420, the latest
      ] as const) {
        yield* TestClock.adjust(Duration.millis(millis))
        assert.strictEqual(yield* runs, expected)
      }
      assert.strictEqual(yield* Fiber.join(fiber), 4)
    })
  )

  it.effect("leaves an event on the span for each time", () =>
    Effect.gen(function* () {
      const { run } = yield* flaky([conflict, refused])
      const span = yield* Effect.makeSpan("outer")
      yield* soon(Effect.withParentSpan(Db.retrying(run), span))
      assert.instanceOf(span, Tracer.NativeSpan)
      const events = (span as Tracer.NativeSpan).events.map(([name, , attributes]) => [name, attributes])
      assert.deepStrictEqual(events, [
        ["db.retry", { attempt: 1, "error.type": "SerializationError" }],
        ["db.retry", { attempt: 2, "error.type": "ConnectionError" }]
      ])
    })
  )

  it.live("runs a whole transaction again, and nothing inside of an open one", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* sql`create table t (id int)`
      const outer = yield* flaky([conflict])
      yield* Db.retrying(sql.withTransaction(Effect.andThen(sql`insert into t values (1)`, outer.run)))
      assert.strictEqual(yield* outer.runs, 2)
      assert.deepStrictEqual(yield* sql`select * from t`, [{ id: 1 }])
      const inner = yield* flaky([conflict])
      const exit = yield* Effect.exit(sql.withTransaction(Db.retrying(inner.run)))
      assert.strictEqual(unavailable(exit), "conflict")
      assert.strictEqual(yield* inner.runs, 1)
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )
})
