import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { SessionId } from "../../src/api/Session.ts"
import { makeSseBodies, SseBody } from "../../src/http/SseBody.ts"
import { TurnLog } from "../../src/turns/TurnLog.ts"
import type { CancelReason, Turn } from "../../src/turns/Turns.ts"
import { endedTurn } from "../support/endedTurn.ts"

const makeTurn = () => {
  const cancelled: Array<CancelReason> = []
  const sessionId = SessionId.make("s")
  const log = new TurnLog("0190d5a1-0000-7000-8000-0123456789ab", sessionId, () => 0)
  const turn: Turn = {
    id: log.turnId,
    sessionId,
    feed: log,
    result: Effect.never,
    cancel: (reason) => void cancelled.push(reason)
  }
  log.append({ type: "accepted", model: "m" })
  return { turn, log, cancelled }
}

/** Lets microtasks run: frames that come together are written in one. */
const settle = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

const take = (body: SseBody) => Effect.map(settle, () => String(body.read() ?? ""))

describe("SseBody", () => {
  it.effect("sends a comment at least every 15 s while nothing else is sent", () =>
    Effect.gen(function* () {
      const { turn, log } = makeTurn()
      const body = (yield* makeSseBodies)(turn)
      assert.include(yield* take(body), '"type":"start"')
      let quietFor = 0
      let comments = 0
      for (let second = 1; second <= 60; second++) {
        yield* TestClock.adjust("1 second")
        const text = yield* take(body)
        quietFor = text === "" ? quietFor + 1 : 0
        if (text !== "") {
          comments++
          assert.match(text, /^:.*\n\n$/)
        }
        assert.isBelow(quietFor, 15)
      }
      assert.isAtLeast(comments, 4)
      assert.isAtMost(comments, 12)
      log.end(endedTurn)
      assert.match(yield* take(body), /^id: [^\n]+:2\ndata: [^\n]+\n\n$/)
    })
  )

  it.effect("sends no comment while there are events", () =>
    Effect.gen(function* () {
      const { turn, log } = makeTurn()
      const body = (yield* makeSseBodies)(turn)
      for (let n = 0; n < 60; n++) {
        log.append({ type: "text", text: "x" })
        yield* TestClock.adjust("1 second")
        assert.notMatch(yield* take(body), /^:/m)
      }
    })
  )

  it.effect("a reader slow to take the end gets all of it, however long it takes", () =>
    Effect.gen(function* () {
      const { turn, log, cancelled } = makeTurn()
      const errors: Array<Error> = []
      const body = (yield* makeSseBodies)(turn)
      body.on("error", (error) => errors.push(error))
      log.append({ type: "text", text: "x".repeat(100_000) })
      log.end(endedTurn)
      yield* settle
      yield* TestClock.adjust("2 minutes")
      const text = yield* Effect.promise(async () => Buffer.concat(await body.toArray()).toString())
      assert.include(text, "x".repeat(100_000))
      assert.match(text, /"type":"cancelled"[^\n]+\n\n$/)
      assert.deepStrictEqual(errors, [])
      assert.deepStrictEqual(cancelled, [])
    })
  )

  it.effect("cuts off a reader that is megabytes behind, and its turn with it", () =>
    Effect.gen(function* () {
      const { turn, log, cancelled } = makeTurn()
      const body = (yield* makeSseBodies)(turn)
      body.on("error", () => {})
      for (let n = 0; n < 5; n++) {
        log.append({ type: "text", text: "x".repeat(1024 * 1024) })
        yield* settle
      }
      assert.isTrue(body.destroyed)
      assert.deepStrictEqual(cancelled, ["client_disconnected"])
    })
  )

  it.effect("cancels the turn when its reader leaves, and not when it has ended", () =>
    Effect.gen(function* () {
      const left = makeTurn()
      new SseBody(left.turn, 0, () => {}).destroy()
      yield* settle
      assert.deepStrictEqual(left.cancelled, ["client_disconnected"])

      const ended = makeTurn()
      const body = new SseBody(ended.turn, 0, () => {})
      ended.log.end(endedTurn)
      body.destroy()
      yield* settle
      assert.deepStrictEqual(ended.cancelled, [])
    })
  )
})
