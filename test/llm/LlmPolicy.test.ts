import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Stream } from "effect"
import type { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import type * as LlmPolicy from "../../src/llm/LlmPolicy.ts"
import { assertWithin, call, complete, failureOf, modelOf, request, start, textOf, waits } from "./LlmCall.ts"
import {
  type Answer,
  fails,
  finish,
  hangs,
  inTurn,
  reason,
  says,
  saysSlowly,
  token
} from "./PartsProvider.ts"

describe("Llm, before the first token", () => {
  for (const [name, passing] of [
    ["a broken connection", reason.network],
    ["408", reason.status(408)],
    ["409", reason.status(409)],
    ["429", reason.rateLimit()],
    ["5xx", reason.server]
  ] as const) {
    it.effect(`tries again three times after ${name}, twice as late each time`, () =>
      Effect.gen(function* () {
        const { asked, llm } = yield* start({
          main: [fails(passing), fails(passing), fails(passing), says("ok")]
        })
        const { exit, parts } = yield* complete(llm)
        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(textOf(parts), "ok")
        const [first, second, third, ...more] = waits(asked)
        assertWithin(first, 400, 600)
        assertWithin(second, 800, 1200)
        assertWithin(third, 1600, 2400)
        assert.isEmpty(more)
        assert.notDeepEqual([first, second, third], [500, 1000, 2000])
        assert.isTrue(asked.every((entry) => entry.isOver))
      })
    )
  }

  it.effect("gives up after the third retry", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({ main: [fails(reason.server)] })
      const { exit, parts } = yield* complete(llm)
      assert.strictEqual(asked.length, 4)
      assert.isEmpty(parts)
      assert.deepInclude(failureOf(exit), { model: "main", reason: "server_error", midStream: false })
    })
  )

  it.effect("does not ask again what was refused or made no sense", () =>
    Effect.gen(function* () {
      for (const [refusal, as] of [
        [reason.auth, "rejected"],
        [reason.notFound, "rejected"],
        [reason.status(418), "rejected"],
        [reason.badResponse, "bad_response"]
      ] as const) {
        const { asked, llm } = yield* start({ main: [fails(refusal)] })
        const { exit } = yield* complete(llm)
        assert.strictEqual(asked.length, 1)
        assert.strictEqual(failureOf(exit).reason, as)
      }
    })
  )

  it.effect("waits as long as Retry-After says, up to a limit", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({
        main: [
          fails(reason.rateLimit(Duration.seconds(7))),
          fails(reason.rateLimit(Duration.minutes(5))),
          // Shorter than the backoff, which counts then.
          fails(reason.rateLimit(Duration.millis(1))),
          says("ok")
        ]
      })
      yield* complete(llm)
      const [first, second, third] = waits(asked)
      assert.strictEqual(first, 7000)
      assert.strictEqual(second, 10_000)
      assertWithin(third, 1600, 2400)
    })
  )

  it.effect("reads Retry-After of a 503 in seconds and as a date", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({
        main: [
          fails(reason.serverAfter("4")),
          fails(reason.serverAfter("Thu, 01 Jan 1970 00:00:09 GMT")),
          says("ok")
        ]
      })
      yield* complete(llm)
      // At 4 s the date is 5 s away.
      assert.deepStrictEqual(waits(asked), [4000, 5000])
    })
  )

  it.effect("waits 30 s for the first token, then asks the next model", () =>
    Effect.gen(function* () {
      const silent: Answer = inTurn(
        Stream.make({ type: "response-metadata", modelId: "main" } as const),
        hangs
      )
      const { asked, llm } = yield* start(
        { main: [silent], backup: [inTurn(Stream.make(token("ok")), hangs)] },
        { fallbackModels: ["backup"] }
      )
      const { fiber, parts } = yield* call(llm)
      yield* TestClock.adjust("29999 millis")
      assert.strictEqual(asked.length, 1)
      assert.isFalse(asked[0]?.isOver)
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(waits(asked), [30_000])
      assert.isTrue(asked[0]?.isOver)
      assert.isFalse(asked[1]?.isOver)
      assert.strictEqual(textOf(parts), "ok")
      yield* Fiber.interrupt(fiber)
      // Nothing of the silent model is left in the reply.
      assert.strictEqual(modelOf(parts), "backup")
      assert.strictEqual(parts.filter((part) => part.type === "response-metadata").length, 1)
    })
  )

  it.effect("takes reasoning and the start of a tool call for a first token", () =>
    Effect.gen(function* () {
      const begins = (part: Response.StreamPartEncoded): Answer =>
        inTurn(
          Stream.make(part),
          inTurn(
            Stream.drain(Stream.fromEffect(Effect.sleep("29 seconds"))),
            inTurn(
              Stream.make(part),
              inTurn(Stream.drain(Stream.fromEffect(Effect.sleep("29 seconds"))), says("ok"))
            )
          )
        )
      const { llm } = yield* start({
        main: [
          begins({ type: "reasoning-delta", id: "r", delta: "hm" }),
          begins({ type: "tool-params-start", id: "t", name: "f" })
        ]
      })
      for (let n = 0; n < 2; n++) {
        const { exit, parts } = yield* complete(llm)
        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(textOf(parts), "ok")
      }
    })
  )

  it.effect("takes a timeout for the reason when no model is left", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({ main: [hangs] })
      const { exit } = yield* complete(llm)
      assert.strictEqual(asked.length, 1)
      assert.deepInclude(failureOf(exit), { reason: "timeout", midStream: false })
    })
  )

  it.effect("fails a stream that ends with nothing, or with a defect", () =>
    Effect.gen(function* () {
      const { llm } = yield* start({
        main: [Stream.empty, Stream.die("bug"), Stream.make({ type: "error", error: "no" } as const)]
      })
      for (let n = 0; n < 3; n++) {
        const { exit } = yield* complete(llm)
        assert.deepInclude(failureOf(exit), { reason: "bad_response", midStream: false })
      }
    })
  )

  it.effect("stops 120 s after it began, however many models are left", () =>
    Effect.gen(function* () {
      const plan = ["b", "c", "d", "e", "f"]
      const { asked, llm } = yield* start(
        { main: [hangs], b: [hangs], c: [hangs], d: [hangs], e: [hangs], f: [hangs] },
        { fallbackModels: plan }
      )
      const { fiber } = yield* call(llm)
      yield* TestClock.adjust("120 seconds")
      const exit = yield* Fiber.await(fiber)
      assert.strictEqual(failureOf(exit).reason, "timeout")
      assert.isBelow(asked.length, 6)
      assert.isTrue(asked.every((entry) => entry.isOver))
    })
  )

  it.effect("interrupting lets go of the model at once", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({ main: [hangs, inTurn(Stream.make(token("a")), hangs)] })
      for (let n = 0; n < 2; n++) {
        const { fiber } = yield* call(llm)
        yield* TestClock.adjust("1 second")
        assert.isFalse(asked[n]?.isOver)
        yield* Fiber.interrupt(fiber)
        assert.isTrue(asked[n]?.isOver)
      }
    })
  )
})

describe("Llm, in the middle of a reply", () => {
  it.effect("never asks again once text is out", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start(
        { main: [inTurn(Stream.make(token("par"), token("tial")), fails(reason.network))], b: [says("no")] },
        { fallbackModels: ["b"] }
      )
      const { exit, parts } = yield* complete(llm)
      assert.strictEqual(asked.length, 1)
      assert.strictEqual(textOf(parts), "partial")
      assert.deepInclude(failureOf(exit), { model: "main", reason: "connection", midStream: true })
    })
  )

  it.effect("waits 30 s between tokens, not more", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({
        main: [
          saysSlowly("29 seconds", "a", "b", "c"),
          inTurn(saysSlowly("1 second", "a").pipe(Stream.take(1)), hangs)
        ]
      })
      const patient = yield* complete(llm)
      assert.isTrue(Exit.isSuccess(patient.exit))
      assert.strictEqual(textOf(patient.parts), "abc")
      const { fiber, parts } = yield* call(llm)
      yield* TestClock.adjust("30999 millis")
      assert.isFalse(asked[1]?.isOver)
      yield* TestClock.adjust("1 millis")
      const exit = yield* Fiber.await(fiber)
      assert.strictEqual(textOf(parts), "a")
      assert.deepInclude(failureOf(exit), { reason: "timeout", midStream: true })
      assert.isTrue(asked[1]?.isOver)
    })
  )

  it.effect("ends a reply that takes more than 120 s in all", () =>
    Effect.gen(function* () {
      const { llm } = yield* start({ main: [saysSlowly("21 seconds", "1", "2", "3", "4", "5", "6", "7")] })
      const { exit, parts } = yield* complete(llm)
      assert.strictEqual(textOf(parts), "12345")
      assert.deepInclude(failureOf(exit), { reason: "timeout", midStream: true })
    })
  )

  it.effect("does not blame the model for a slow reader", () =>
    Effect.gen(function* () {
      const many = Array.from({ length: 100 }, (_, n) => `${n} `)
      const { llm } = yield* start({ main: [Stream.rechunk(says(...many), 1)] })
      let text = ""
      const fiber = yield* llm.stream(request()).pipe(
        Stream.runForEachArray((parts) =>
          Effect.suspend(() => {
            text += textOf(parts)
            return text.length < 20 ? Effect.sleep("50 seconds") : Effect.void
          })
        ),
        Effect.forkChild
      )
      yield* TestClock.adjust("110 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(text, many.join(""))
    })
  )

  it.effect("gives the model its whole time again once the reader has caught up", () =>
    Effect.gen(function* () {
      // One of these numbers of tokens fills the mailbox to the brim, so that the last one is held up by the reader.
      for (let length = 14; length <= 22; length++) {
        const many = Array.from({ length }, (_, n) => `${n} `)
        const { llm } = yield* start({
          main: [
            inTurn(Stream.rechunk(Stream.fromIterable(many.map(token)), 1), saysSlowly("20 seconds", "last"))
          ]
        })
        let chunks = 0
        let text = ""
        const fiber = yield* llm.stream(request()).pipe(
          Stream.runForEachArray((parts) =>
            Effect.suspend(() => {
              text += textOf(parts)
              return chunks++ === 0 ? Effect.sleep("29 seconds") : Effect.void
            })
          ),
          Effect.forkChild
        )
        yield* TestClock.adjust("60 seconds")
        yield* Fiber.join(fiber)
        assert.strictEqual(text, `${many.join("")}last`)
      }
    })
  )

  it.effect("fails a reply without an end", () =>
    Effect.gen(function* () {
      const { llm } = yield* start({ main: [Stream.make(token("a"))] })
      const { exit, parts } = yield* complete(llm)
      assert.strictEqual(textOf(parts), "a")
      assert.deepInclude(failureOf(exit), { reason: "bad_response", midStream: true })
    })
  )

  it.effect("fails for an error part, with what came before it", () =>
    Effect.gen(function* () {
      const { llm } = yield* start({
        main: [Stream.make(token("a"), { type: "error", error: "no" } as const, finish)]
      })
      const { exit, parts } = yield* complete(llm)
      assert.strictEqual(textOf(parts), "a")
      assert.deepInclude(failureOf(exit), { reason: "bad_response", midStream: true })
    })
  )
})

describe("Llm, the breaker", () => {
  const breaker: LlmPolicy.LlmBreaker = { failures: 2, openFor: Duration.seconds(30) }

  it.effect("opens, sheds, probes and closes", () =>
    Effect.gen(function* () {
      const down = Array(8).fill(fails(reason.server))
      const { asked, llm } = yield* start({ main: [...down, says("back"), says("on")] }, { breaker })
      for (let n = 0; n < 2; n++) {
        const { fiber } = yield* call(llm)
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(failureOf(yield* Fiber.await(fiber)).reason, "server_error")
      }
      assert.strictEqual(asked.length, 8)
      // Open: the model is left alone, and the reason is the one that opened it.
      const shed = yield* Effect.exit(Stream.runDrain(llm.stream(request())))
      assert.deepInclude(failureOf(shed), { reason: "server_error", midStream: false })
      assert.strictEqual(asked.length, 8)
      yield* TestClock.adjust("30 seconds")
      const probe = yield* Stream.runCollect(llm.stream(request()))
      assert.strictEqual(textOf(probe), "back")
      assert.strictEqual(textOf(yield* Stream.runCollect(llm.stream(request()))), "on")
      assert.strictEqual(asked.length, 10)
    })
  )

  it.effect("lets one probe through at a time, and opens again when it fails", () =>
    Effect.gen(function* () {
      const down = Array(8).fill(fails(reason.server))
      const { asked, llm } = yield* start({ main: [...down, hangs, says("x")] }, { breaker })
      for (let n = 0; n < 2; n++) {
        const { fiber } = yield* call(llm)
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.await(fiber)
      }
      yield* TestClock.adjust("30 seconds")
      const { fiber } = yield* call(llm)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(asked.length, 9)
      failureOf(yield* Effect.exit(Stream.runDrain(llm.stream(request()))))
      assert.strictEqual(asked.length, 9)
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual(failureOf(yield* Fiber.await(fiber)).reason, "timeout")
      failureOf(yield* Effect.exit(Stream.runDrain(llm.stream(request()))))
      assert.strictEqual(asked.length, 9)
    })
  )

  it.effect("goes to the next model at once while open, and counts each model apart", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start(
        { main: [fails(reason.server)], b: [says("ok")] },
        { breaker, fallbackModels: ["b"] }
      )
      for (let n = 0; n < 2; n++) {
        const { fiber, parts } = yield* call(llm)
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(fiber)
        assert.strictEqual(modelOf(parts), "b")
      }
      const before = asked.length
      assert.strictEqual(modelOf(yield* Stream.runCollect(llm.stream(request()))), "b")
      assert.strictEqual(asked.length, before + 1)
    })
  )

  it.effect("does not open for refusals", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({ main: [fails(reason.notFound)] }, { breaker })
      for (let n = 0; n < 5; n++) failureOf(yield* Effect.exit(Stream.runDrain(llm.stream(request()))))
      assert.strictEqual(asked.length, 5)
    })
  )
})
