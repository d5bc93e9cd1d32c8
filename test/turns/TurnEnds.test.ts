import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Logger } from "effect"
import { TestClock } from "effect/testing"
import { DbUnavailable } from "../../src/db/DbUnavailable.ts"
import { makeTurnEnds } from "../../src/turns/TurnEnds.ts"
import type { EndedTurn } from "../../src/turns/TurnsRepo.ts"

const completed: EndedTurn = {
  turnId: "t",
  owner: "me",
  status: "completed",
  model: "m",
  errorCode: null,
  traceId: "trace",
  reply: { messageId: "a", content: "Hello" },
  metadata: { model: "m", tool_calls: 1 },
  calls: [
    {
      step: 0,
      id: "c",
      name: "calculator",
      arguments: "{}",
      textOffset: 0,
      result: "2",
      success: true,
      durationMillis: 1
    }
  ],
  usage: [{ step: 0, model: "m", promptTokens: 1, completionTokens: 1 }]
}

type Answer = "stored" | "not there" | "away" | "bug"

/** A repository that answers as told, the last answer for ever, and keeps what it was asked to store. */
const makeRepo = (...answers: [Answer, ...Array<Answer>]) => {
  const asked: Array<EndedTurn> = []
  const repo = {
    end: (turn: EndedTurn) =>
      Effect.suspend((): Effect.Effect<boolean, DbUnavailable> => {
        asked.push(turn)
        const answer = answers.length > 1 ? answers.shift() : answers[0]
        switch (answer) {
          case "away":
            return Effect.fail(new DbUnavailable({ reason: "connection", cause: new Error("away") }))
          case "bug":
            return Effect.die(new Error("a value no column takes"))
          default:
            return Effect.succeed(answer === "stored")
        }
      })
  }
  return { repo, asked, become: (answer: Answer) => answers.splice(0, answers.length, answer) }
}

const quiet = Effect.provide(Logger.layer([]))

describe("TurnEnds", () => {
  it.effect("waits for a database that comes back, and stores the end as it was", () =>
    Effect.gen(function* () {
      const { asked, repo } = makeRepo("away", "away", "stored")
      const kept = yield* Effect.forkChild(makeTurnEnds(repo, "me", () => false).keep(completed))
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(yield* Fiber.join(kept))
      assert.deepStrictEqual(asked, [completed, completed, completed])
    }).pipe(quiet)
  )

  it.effect("gives up after a while, and stores the end as failed once the database is back", () =>
    Effect.gen(function* () {
      const { asked, become, repo } = makeRepo("away")
      const ends = makeTurnEnds(repo, "me", () => false)
      const kept = yield* Effect.forkChild(ends.keep(completed))
      yield* TestClock.adjust("1 minute")
      assert.isFalse(yield* Fiber.join(kept))
      const tries = asked.length
      assert.isAtLeast(tries, 10)

      yield* TestClock.adjust("10 minutes")
      yield* ends.keepLate
      become("stored")
      yield* ends.keepLate
      assert.strictEqual(asked.length, tries + 2)
      assert.deepStrictEqual(asked.at(-1), {
        ...completed,
        status: "failed",
        errorCode: "SERVICE_UNAVAILABLE",
        metadata: { ...completed.metadata, status: "failed" }
      })
      yield* ends.keepLate
      assert.strictEqual(asked.length, tries + 2)
    }).pipe(quiet)
  )

  it.effect("waits for nothing when there is no time", () =>
    Effect.gen(function* () {
      const { asked, repo } = makeRepo("away")
      assert.isFalse(yield* makeTurnEnds(repo, "me", () => true).keep(completed))
      assert.strictEqual(asked.length, 1)
    }).pipe(quiet)
  )

  it.effect("stores at least the reply of a turn that the database does not take as it is", () =>
    Effect.gen(function* () {
      const { asked, repo } = makeRepo("bug", "stored")
      assert.isTrue(yield* makeTurnEnds(repo, "me", () => false).keep(completed))
      assert.deepInclude(asked[1], { status: "completed", reply: completed.reply, calls: [], usage: [] })
    }).pipe(quiet)
  )

  it.effect("an end that can't be stored in any way is told as not stored, and given up in time", () =>
    Effect.gen(function* () {
      const { asked, repo } = makeRepo("bug")
      const ends = makeTurnEnds(repo, "me", () => false)
      assert.isFalse(yield* ends.keep(completed))
      yield* ends.keepLate
      yield* TestClock.adjust("1 minute")
      yield* ends.keepLate
      const tries = asked.length
      yield* ends.keepLate
      assert.strictEqual(asked.length, tries)
    }).pipe(quiet)
  )

  it.effect("an end that is not there to be stored is told so", () =>
    Effect.gen(function* () {
      const { asked, repo } = makeRepo("not there")
      const ends = makeTurnEnds(repo, "me", () => false)
      assert.isFalse(yield* ends.keep(completed))
      yield* ends.keepLate
      assert.strictEqual(asked.length, 1)
    }).pipe(quiet)
  )

  it.effect("a disowned turn is ended when it turns up, and looked for as long as it may", () =>
    Effect.gen(function* () {
      const found = makeRepo("not there", "stored")
      const ends = makeTurnEnds(found.repo, "me", () => false)
      yield* ends.disown("lost")
      for (let n = 0; n < 3; n++) yield* ends.keepLate
      assert.strictEqual(found.asked.length, 2)
      assert.deepInclude(found.asked[1], { turnId: "lost", owner: "me", status: "failed", reply: undefined })

      const never = makeRepo("not there")
      const others = makeTurnEnds(never.repo, "me", () => false)
      yield* others.disown("lost")
      for (let n = 0; n < 100; n++) {
        yield* TestClock.adjust(Duration.seconds(2))
        yield* others.keepLate
      }
      assert.isAtLeast(never.asked.length, 5)
      assert.isBelow(never.asked.length, 50)
    }).pipe(quiet)
  )
})
