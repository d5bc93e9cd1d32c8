import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Metric, Stream, Tracer } from "effect"
import { Prompt, type Response } from "effect/ai"
import { CircuitBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"
import { Llm, LlmProvider, type LlmRequest, LlmUnavailable } from "../../src/llm/Llm.ts"
import * as LlmMetrics from "../../src/llm/LlmMetrics.ts"
import * as LlmOpenAi from "../../src/llm/LlmOpenAi.ts"
import type { LlmBreaker } from "../../src/llm/LlmPolicy.ts"
import { Reply, ScriptedModel } from "../support/ScriptedModel.ts"
import {
  type Answer,
  fails,
  finish,
  hangs,
  inTurn,
  reason,
  says,
  saysSlowly,
  scriptedProvider,
  token
} from "./ScriptedProvider.ts"

const timeouts = {
  firstToken: Duration.seconds(30),
  betweenTokens: Duration.seconds(30),
  total: Duration.seconds(120)
}

const makeLlm = (
  provider: LlmProvider["Service"],
  options: { readonly fallbackModels?: ReadonlyArray<string>; readonly breaker?: LlmBreaker } = {}
) =>
  Llm.make({ fallbackModels: [], timeouts, ...options }).pipe(
    Effect.provideService(LlmProvider, provider),
    Effect.provide(CircuitBreaker.layerStoreMemory())
  )

const start = Effect.fnUntraced(function* (
  script: Readonly<Record<string, ReadonlyArray<Answer>>>,
  options?: Parameters<typeof makeLlm>[1]
) {
  const { asked, provider } = scriptedProvider(script)
  return { asked, llm: yield* makeLlm(provider, options) }
})

const request = (given: Partial<LlmRequest> = {}): LlmRequest => ({
  prompt: Prompt.make("hi"),
  toolkit: undefined,
  variant: "default",
  override: {},
  ...given
})

type Parts = ReadonlyArray<Response.AnyPart>
const textOf = (parts: Parts) => parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join("")
const modelOf = (parts: Parts) => parts.find((part) => part.type === "response-metadata")?.modelId

/** Runs a call in the background; `parts` fills while it runs. */
const call = Effect.fnUntraced(function* (llm: Llm["Service"], given?: Partial<LlmRequest>) {
  const parts: Array<Response.AnyPart> = []
  const fiber = yield* llm.stream(request(given)).pipe(
    Stream.runForEach((part) => Effect.sync(() => void parts.push(part))),
    Effect.forkChild
  )
  // The clock waits for the fibers it wakes, but not for those that have only begun: let these come to their first wait.
  yield* Effect.repeat(Effect.yieldNow, { times: 50 })
  return { parts, fiber }
})

/** Runs a call for as long as it can take. */
const complete = Effect.fnUntraced(function* (llm: Llm["Service"], given?: Partial<LlmRequest>) {
  const { fiber, parts } = yield* call(llm, given)
  yield* TestClock.adjust("130 seconds")
  const exit = yield* Fiber.await(fiber)
  return { parts, exit }
})

const failureOf = (exit: Exit.Exit<void, LlmUnavailable>): LlmUnavailable => {
  const error = Exit.isFailure(exit)
    ? exit.cause.reasons.find((part) => part._tag === "Fail")?.error
    : undefined
  assert.instanceOf(error, LlmUnavailable)
  return error
}

const waits = (asked: ReadonlyArray<{ readonly atMillis: number }>) =>
  asked.slice(1).map((entry, n) => entry.atMillis - (asked[n]?.atMillis ?? 0))

const assertWithin = (value: number | undefined, least: number, most: number) => {
  assert.isAtLeast(value ?? Number.NaN, least)
  assert.isAtMost(value ?? Number.NaN, most)
}

describe("Llm, models and settings", () => {
  it.effect("picks the model by variant, unless a request names one", () =>
    Effect.gen(function* () {
      const { llm } = yield* start({})
      assert.strictEqual(llm.modelFor("default", {}), "main")
      assert.strictEqual(llm.modelFor("fast", {}), "quick")
      assert.strictEqual(llm.modelFor("creative", {}), "free")
      assert.strictEqual(llm.modelFor("fast", { model: "own" }), "own")
    })
  )

  it.effect("sets the temperature by variant, unless a request does", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({
        main: [says("a")],
        quick: [says("a")],
        free: [says("a")],
        own: [says("a")]
      })
      yield* complete(llm)
      yield* complete(llm, { variant: "fast" })
      yield* complete(llm, { variant: "creative" })
      yield* complete(llm, { variant: "creative", override: { model: "own", temperature: 0, maxTokens: 7 } })
      assert.deepStrictEqual(
        asked.map((entry) => [entry.model, entry.settings.temperature, entry.settings.maxTokens]),
        [
          ["main", 0.7, undefined],
          ["quick", 0.3, undefined],
          ["free", 1, undefined],
          ["own", 0, 7]
        ]
      )
    })
  )

  it.effect("emits the parts, led by the model that answers", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({ main: [says("Hel", "lo")] })
      const { exit, parts } = yield* complete(llm)
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(
        parts.map((part) => part.type),
        ["response-metadata", "text-start", "text-delta", "text-delta", "text-end", "finish"]
      )
      assert.strictEqual(modelOf(parts), "main")
      assert.strictEqual(textOf(parts), "Hello")
      assert.isTrue(asked[0]?.isOver)
    })
  )

  it.effect("leaves the provider's own word on who answers", () =>
    Effect.gen(function* () {
      const named: Answer = Stream.make(
        { type: "response-metadata", modelId: "main-2026" } as const,
        token("a"),
        finish
      )
      const { llm } = yield* start({ main: [named] })
      const { parts } = yield* complete(llm)
      assert.deepStrictEqual(
        parts.flatMap((part) => (part.type === "response-metadata" ? [part.modelId] : [])),
        ["main-2026"]
      )
    })
  )

  it.effect("passes tool calls with wrong arguments and empty replies through", () =>
    Effect.gen(function* () {
      const calls: Answer = Stream.make(
        { type: "tool-call", id: "1", name: "nope", params: "{broken" } as const,
        finish
      )
      const { llm } = yield* start({ main: [calls, Stream.make(finish)] })
      const { parts } = yield* complete(llm)
      assert.deepInclude(
        parts.find((part) => part.type === "tool-call"),
        { name: "nope", params: "{broken" }
      )
      const empty = yield* complete(llm)
      assert.isTrue(Exit.isSuccess(empty.exit))
      assert.deepStrictEqual(
        empty.parts.map((part) => part.type),
        ["response-metadata", "finish"]
      )
    })
  )
})

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
        { main: [silent], backup: [says("ok")] },
        { fallbackModels: ["backup"] }
      )
      const { fiber, parts } = yield* call(llm)
      yield* TestClock.adjust("29999 millis")
      assert.strictEqual(asked.length, 1)
      assert.isFalse(asked[0]?.isOver)
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(waits(asked), [30_000])
      assert.isTrue(asked[0]?.isOver)
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

describe("Llm, fallbacks", () => {
  it.effect("goes on to the next model, each once", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start(
        { main: [fails(reason.auth)], b: [fails(reason.notFound)], c: [says("ok")] },
        { fallbackModels: ["b", "main", "b", "c"] }
      )
      const { parts } = yield* complete(llm)
      assert.deepStrictEqual(
        asked.map((entry) => entry.model),
        ["main", "b", "c"]
      )
      assert.strictEqual(modelOf(parts), "c")
      assert.strictEqual(textOf(parts), "ok")
    })
  )

  it.effect("retries each model of the plan before the next", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start(
        { main: [fails(reason.network)], b: [fails(reason.server)] },
        { fallbackModels: ["b"] }
      )
      const { exit } = yield* complete(llm)
      assert.deepStrictEqual(
        asked.map((entry) => entry.model),
        [...Array(4).fill("main"), ...Array(4).fill("b")]
      )
      assert.deepInclude(failureOf(exit), { model: "b", reason: "server_error", midStream: false })
    })
  )

  it.effect("starts with the model a request names", () =>
    Effect.gen(function* () {
      const { asked, llm } = yield* start({ b: [says("ok")] }, { fallbackModels: ["b", "unknown"] })
      yield* complete(llm, { override: { model: "unknown" } })
      assert.deepStrictEqual(
        asked.map((entry) => entry.model),
        ["unknown", "b"]
      )
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
  const breaker: LlmBreaker = { failures: 2, openFor: Duration.seconds(30) }

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

describe("Llm, what is told", () => {
  it.effect("tells retries and fallbacks on the span, and counts them", () =>
    Effect.gen(function* () {
      const { llm } = yield* start(
        {
          own: [fails(reason.rateLimit(Duration.seconds(3))), fails(reason.auth)],
          b: [inTurn(Stream.make(token("a")), fails(reason.network))]
        },
        { fallbackModels: ["b"] }
      )
      const span = yield* Effect.gen(function* () {
        yield* complete(llm, { override: { model: "own" } })
        return yield* Effect.currentSpan
      }).pipe(Effect.withSpan("call"))
      assert.instanceOf(span, Tracer.NativeSpan)
      const events = span.events.map(([name, , attributes]) => [name, attributes])
      assert.deepStrictEqual(events, [
        ["llm.retry", { model: "own", attempt: 1, reason: "rate_limited", delay_ms: 3000 }],
        ["llm.fallback", { from: "own", to: "b", reason: "rejected" }]
      ])
      const count = (
        metric: Metric.Metric<number, Metric.CounterState<number>>,
        attributes: Record<string, string>
      ) => Effect.map(Metric.value(Metric.withAttributes(metric, attributes)), (state) => state.count)
      // A model that a request made up is no label of its own.
      assert.strictEqual(yield* count(LlmMetrics.retries, { model: "other", reason: "rate_limited" }), 1)
      assert.strictEqual(
        yield* count(LlmMetrics.fallbacks, { from: "other", to: "b", reason: "rejected" }),
        1
      )
      assert.strictEqual(
        yield* count(LlmMetrics.errors, { model: "other", reason: "rate_limited", mid_stream: "false" }),
        1
      )
      assert.strictEqual(
        yield* count(LlmMetrics.errors, { model: "b", reason: "connection", mid_stream: "true" }),
        1
      )
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )
})

describe("Llm over HTTP", () => {
  it.effect("moves on from a model that hangs, ending its request, and from one that does not exist", () =>
    Effect.gen(function* () {
      const server = yield* ScriptedModel.make((body) => {
        if (body.model === "main") return Reply.hang
        return body.model === "gone" ? Reply.status(404) : Reply.text(["Hi"])
      })
      const provider = yield* LlmOpenAi.make({
        baseUrl: server.baseUrl,
        apiKey: undefined,
        model: "main",
        modelFast: undefined,
        modelCreative: undefined,
        fallbackModels: [],
        historyTokens: 8000,
        connectTimeout: Duration.seconds(10),
        firstTokenTimeout: timeouts.firstToken,
        tokenTimeout: timeouts.betweenTokens,
        totalTimeout: timeouts.total
      })
      const llm = yield* makeLlm(provider, { fallbackModels: ["gone", "last"] })
      const { fiber, parts } = yield* call(llm)
      const first = yield* Effect.promise(() => server.received(0))
      yield* TestClock.adjust("30 seconds")
      yield* Fiber.join(fiber)
      assert.strictEqual(yield* Effect.promise(() => first.ended), "aborted")
      assert.strictEqual(modelOf(parts), "last")
      assert.strictEqual(textOf(parts), "Hi")
      assert.deepStrictEqual(
        server.requests.map((entry) => entry.body.model),
        ["main", "gone", "last"]
      )
    })
  )
})
