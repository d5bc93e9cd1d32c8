import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql"
import type { SessionId } from "../../src/api/Session.ts"
import { type EndedTurn, type NewTurn, TurnsRepo } from "../../src/turns/TurnsRepo.ts"
import * as TestDb from "../support/TestDb.ts"

const newTurn = (sessionId: string, message: string, mayRun = true): NewTurn => ({
  turnId: crypto.randomUUID(),
  sessionId: sessionId as SessionId,
  userId: undefined,
  messageId: crypto.randomUUID(),
  message,
  context: undefined,
  owner: "me",
  mayRun
})

const ended = (turnId: string, content: string): EndedTurn => ({
  turnId,
  owner: "me",
  status: "completed",
  model: "m",
  errorCode: null,
  traceId: "",
  reply: { messageId: crypto.randomUUID(), content },
  metadata: {},
  calls: [
    {
      step: 0,
      id: "call_1",
      name: "calculator",
      arguments: `{"expression":"6*7"}`,
      textOffset: 0,
      result: "42",
      success: true,
      durationMillis: 1.5
    }
  ],
  usage: []
})

layer(TurnsRepo.layer.pipe(Layer.provideMerge(TestDb.layer)), { excludeTestServices: true })(
  "TurnsRepo.accept",
  (it) => {
    it.effect("answers the turns before, tool calls included, to a turn that runs at once", () =>
      Effect.gen(function* () {
        const repo = yield* TurnsRepo
        const first = newTurn("known", "first")
        assert.deepStrictEqual(yield* repo.accept(first), { number: 1, running: true, history: [] })
        assert.isTrue(yield* repo.end(ended(first.turnId, "First “reply”.\n名")))
        const second = yield* repo.accept(newTurn("known", "second"))
        assert.deepInclude(second, { number: 2, running: true })
        assert.strictEqual(second.history?.[0]?.reply, "First “reply”.\n名")
        assert.deepStrictEqual(second.history, yield* repo.history("known" as SessionId, 2))
      })
    )

    it.effect("answers none to a turn that has to wait", () =>
      Effect.gen(function* () {
        const repo = yield* TurnsRepo
        yield* repo.accept(newTurn("waits", "first"))
        for (const mayRun of [true, false]) {
          const { history, running } = yield* repo.accept(newTurn("waits", "next", mayRun))
          assert.isFalse(running)
          assert.isUndefined(history)
        }
      })
    )

    describe.skipIf(TestDb.serverUrl === undefined)("on a server (TEST_DATABASE_URL)", () => {
      it.effect("answers none when the turn before ended while the session was locked", () =>
        Effect.gen(function* () {
          const repo = yield* TurnsRepo
          const sql = yield* SqlClient.SqlClient
          const first = newTurn("race", "first")
          yield* repo.accept(first)
          // Outside the transaction, whose connection it would use.
          const fork = Effect.runForkWith(yield* Effect.context<never>())
          const second = yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`SELECT FROM sessions WHERE id = 'race' FOR UPDATE`
              const accepting = fork(repo.accept(newTurn("race", "second")))
              // A transaction sees the activity of when it first looked, unless it is told to look again.
              yield* Effect.repeat(
                Effect.andThen(
                  sql`SELECT pg_stat_clear_snapshot()::text`,
                  sql`SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO sessions%'`
                ),
                { until: (rows) => rows.length > 0 }
              )
              assert.isTrue(yield* repo.end(ended(first.turnId, "First.")))
              return accepting
            })
          )
          const { history, running } = yield* Fiber.join(second)
          assert.isTrue(running)
          assert.isUndefined(history)
        })
      )
    })
  }
)
