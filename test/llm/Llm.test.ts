import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Metric, Stream, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import * as LlmMetrics from "../../src/llm/LlmMetrics.ts"
import * as LlmPolicy from "../../src/llm/LlmPolicy.ts"
import * as LlmOpenAi from "../../src/llm/openai/LlmOpenAi.ts"
import { call, complete, failureOf, makeLlm, modelOf, start, textOf, timeouts } from "./LlmCall.ts"
import { type Answer, fails, finish, inTurn, reason, says, token } from "./PartsProvider.ts"

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

  it.effect("says which model was asked, and leaves the provider's own word on who answers", () =>
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
        ["main", "main-2026"]
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
      const server = yield* ScriptedModel.serve((body) => {
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
        totalTimeout: timeouts.total,
        retries: LlmPolicy.defaultRetries,
        breaker: LlmPolicy.defaultBreaker
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
