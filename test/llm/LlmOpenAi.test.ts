import { IncomingMessage } from "node:http"
import { type AddressInfo, createServer, Socket } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Fiber, Layer, Redacted, Schema, Stream } from "effect"
import { type LanguageModel, Prompt, Tool, Toolkit } from "effect/ai"
import type { LlmSettings } from "../../src/Config.ts"
import { LlmProvider, type ModelSettings } from "../../src/llm/Llm.ts"
import * as LlmOpenAi from "../../src/llm/LlmOpenAi.ts"
import { CompletionParts } from "../../src/llm/LlmOpenAiParts.ts"
import { isReasoningModel } from "../../src/llm/LlmOpenAiRequest.ts"
import { PartsReader } from "../../src/llm/LlmOpenAiStream.ts"
import { Reply, type Script, ScriptedModel, type ScriptedRequestBody } from "../support/ScriptedModel.ts"

const settings = (given: Partial<LlmSettings>): LlmSettings => ({
  baseUrl: undefined,
  apiKey: undefined,
  model: undefined,
  modelFast: undefined,
  modelCreative: undefined,
  fallbackModels: [],
  historyTokens: 8000,
  connectTimeout: Duration.seconds(10),
  firstTokenTimeout: Duration.seconds(30),
  tokenTimeout: Duration.seconds(30),
  totalTimeout: Duration.seconds(120),
  ...given
})

const start = Effect.fnUntraced(function* (script: Script, given: Partial<LlmSettings> = {}) {
  const server = yield* ScriptedModel.make(script)
  const provider = yield* LlmOpenAi.make(settings({ baseUrl: server.baseUrl, ...given }))
  const model = (of: Partial<ModelSettings> = {}) => provider.languageModel({ model: "test-model", ...of })
  return { server, provider, model }
})

const weather = Tool.make("get_weather", {
  description: "Tells the weather.",
  parameters: Schema.Struct({ location: Schema.String.annotate({ description: "A city" }) }),
  success: Schema.String
})
const toolkit = Toolkit.make(weather)
const withHandlers = toolkit.pipe(
  Effect.provide(toolkit.toLayer({ get_weather: () => Effect.succeed("sunny") }))
)

const announced = { disableToolCallResolution: true, toolCallValidation: "deferred" } as const

const stream = (model: LanguageModel.LanguageModel, prompt: Prompt.RawInput = "hi") =>
  model.streamText({ prompt, ...announced })

const collect = (model: LanguageModel.LanguageModel, prompt?: Prompt.RawInput) =>
  Stream.runCollect(stream(model, prompt))

const textOf = (parts: ReadonlyArray<{ readonly type: string; readonly delta?: string }>) =>
  parts.map((part) => (part.type === "text-delta" ? (part.delta ?? "") : "")).join("")

describe("normalizeBaseUrl", () => {
  it("appends /v1 to a URL without a path, and keeps every other path", () => {
    const cases: ReadonlyArray<readonly [string | undefined, string]> = [
      [undefined, "https://api.openai.com/v1"],
      ["http://localhost:11434", "http://localhost:11434/v1"],
      ["http://localhost:11434/", "http://localhost:11434/v1"],
      ["http://localhost:11434/v1", "http://localhost:11434/v1"],
      ["http://localhost:11434/v1/", "http://localhost:11434/v1"],
      ["https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"],
      ["https://example.com/v1beta/openai/", "https://example.com/v1beta/openai"],
      ["https://example.com/v1/chat/completions", "https://example.com/v1"],
      ["https://example.com/chat/completions", "https://example.com/v1"],
      [
        "https://x.azure.com/openai/deployments/d?api-version=1",
        "https://x.azure.com/openai/deployments/d?api-version=1"
      ]
    ]
    for (const [given, expected] of cases) assert.strictEqual(LlmOpenAi.normalizeBaseUrl(given), expected)
  })

  it("recognises OpenAI's reasoning models, with a vendor's prefix too", () => {
    for (const model of [
      "gpt-5",
      "gpt-5-mini",
      "gpt-5.1",
      "openai/gpt-5-mini",
      "o1",
      "o3-mini",
      "o4-mini",
      "vendor/openai/o3"
    ]) {
      assert.isTrue(isReasoningModel(model), model)
    }
    for (const model of ["gpt-4o", "gpt-4o-mini", "gpt-50", "o1x", "llama-o3", "qwen3", "foo3-mini", "o2"]) {
      assert.isFalse(isReasoningModel(model), model)
    }
  })
})

describe("LlmOpenAi", () => {
  it.effect("streams text, and says first which model answers", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([Reply.text(["Hel", "lo ", "wörld 🌍"], { model: "real-name" })])
      const parts = yield* collect(yield* model({ temperature: 0.5, maxTokens: 100 }), [
        { role: "system", content: "Be brief." },
        { role: "user", content: "hi" }
      ])
      assert.deepInclude(parts[0], { type: "response-metadata", modelId: "real-name" })
      assert.strictEqual(textOf(parts), "Hello wörld 🌍")
      assert.deepInclude(parts.at(-1), { type: "finish", reason: "stop" })
      const last = parts.at(-1)
      assert.strictEqual(last?.type === "finish" ? last.usage.outputTokens.total : undefined, 3)
      const request = server.requests[0]
      assert.strictEqual(request?.path, "/v1/chat/completions")
      assert.isUndefined(request?.headers.authorization)
      assert.deepStrictEqual<unknown>(request?.body, {
        model: "test-model",
        messages: [
          { role: "system", content: "Be brief." },
          { role: "user", content: "hi" }
        ],
        temperature: 0.5,
        max_tokens: 100,
        stream: true,
        stream_options: { include_usage: true }
      })
    })
  )

  it.effect("sends the key it is given", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([Reply.text("ok")], { apiKey: Redacted.make("secret") })
      yield* collect(yield* model())
      assert.strictEqual(server.requests[0]?.headers.authorization, "Bearer secret")
    })
  )

  it.effect("emits what arrives together as one chunk", () =>
    Effect.gen(function* () {
      const event = (content: string) =>
        `data: {"model":"m","choices":[{"delta":{"content":"${content}"},"finish_reason":null}]}\n\n`
      const { model } = yield* start([
        Reply.raw([
          event("a") + event("b") + event("c"),
          'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
        ])
      ])
      const chunks = yield* stream(yield* model()).pipe(Stream.chunks, Stream.runCollect)
      const deltas = chunks.flat().flatMap((part) => (part.type === "text-delta" ? [part.delta] : []))
      assert.deepStrictEqual(deltas, ["abc"])
      assert.isAtMost(chunks.length, 2)
    })
  )

  it.effect("translates prompts with tool calls and their results, and tools", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([Reply.text("ok")])
      const languageModel = yield* model()
      yield* Stream.runDrain(
        languageModel.streamText({
          prompt: Prompt.fromMessages([
            Prompt.systemMessage({ content: "S" }),
            Prompt.userMessage({ content: [Prompt.textPart({ text: "weather?" })] }),
            Prompt.assistantMessage({
              content: [
                Prompt.reasoningPart({ text: "secret thought" }),
                Prompt.textPart({ text: "Let me see." }),
                Prompt.toolCallPart({
                  id: "c1",
                  name: "get_weather",
                  params: { location: "Paris" },
                  providerExecuted: false
                }),
                Prompt.toolCallPart({
                  id: "c2",
                  name: "get_weather",
                  params: '{"loc',
                  providerExecuted: false
                })
              ]
            }),
            Prompt.toolMessage({
              content: [
                Prompt.toolResultPart({
                  id: "c1",
                  name: "get_weather",
                  isFailure: false,
                  result: { t: 20 },
                  providerExecuted: false
                }),
                Prompt.toolResultPart({
                  id: "c2",
                  name: "get_weather",
                  isFailure: true,
                  result: "bad arguments",
                  providerExecuted: false
                })
              ]
            }),
            Prompt.assistantMessage({
              content: [
                Prompt.toolCallPart({
                  id: "c3",
                  name: "get_weather",
                  params: { location: "Rome" },
                  providerExecuted: false
                })
              ]
            }),
            Prompt.toolMessage({
              content: [
                Prompt.toolResultPart({
                  id: "c3",
                  name: "get_weather",
                  isFailure: false,
                  result: null,
                  providerExecuted: false
                })
              ]
            }),
            Prompt.userMessage({ content: [Prompt.textPart({ text: "thanks" })] })
          ]),
          toolkit: yield* withHandlers,
          ...announced
        })
      )
      const call = (id: string, args: string) => ({
        id,
        type: "function",
        function: { name: "get_weather", arguments: args }
      })
      const body = server.requests[0]?.body
      assert.deepStrictEqual<unknown>(body?.messages, [
        { role: "system", content: "S" },
        { role: "user", content: "weather?" },
        {
          role: "assistant",
          content: "Let me see.",
          tool_calls: [call("c1", '{"location":"Paris"}'), call("c2", '{"unparsed":"{\\"loc"}')]
        },
        { role: "tool", tool_call_id: "c1", content: '{"t":20}' },
        { role: "tool", tool_call_id: "c2", content: "bad arguments" },
        { role: "assistant", content: null, tool_calls: [call("c3", '{"location":"Rome"}')] },
        { role: "tool", tool_call_id: "c3", content: "null" },
        { role: "user", content: "thanks" }
      ])
      assert.strictEqual(body?.tools?.length, 1)
      assert.deepInclude(body?.tools?.[0]?.function, {
        name: "get_weather",
        description: "Tells the weather."
      })
      assert.deepNestedInclude(body?.tools?.[0], {
        "function.parameters.type": "object",
        "function.parameters.required": ["location"],
        "function.parameters.properties.location.type": "string"
      })
      assert.notProperty(body, "tool_choice")
    })
  )

  it.effect("lets wrong arguments and unknown tools through", () =>
    Effect.gen(function* () {
      const { model } = yield* start([
        Reply.toolCalls(
          [
            { name: "get_weather", arguments: { location: 7 } },
            { name: "no_such_tool", arguments: {} },
            { name: "get_weather", arguments: "{broken" }
          ],
          { text: "One moment." }
        )
      ])
      const parts = yield* (yield* model())
        .streamText({ prompt: "hi", toolkit: yield* withHandlers, ...announced })
        .pipe(Stream.runCollect)
      assert.strictEqual(textOf(parts), "One moment.")
      assert.deepStrictEqual(
        parts.flatMap((part) => (part.type === "tool-call" ? [[part.id, part.name, part.params]] : [])),
        [
          ["call_0_0", "get_weather", { location: 7 }],
          ["call_0_1", "no_such_tool", {}],
          ["call_0_2", "get_weather", "{broken"]
        ]
      )
      assert.deepInclude(parts.at(-1), { type: "finish", reason: "tool-calls" })
    })
  )

  it.effect("answers without streaming", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([
        Reply.text("Hello there", { reasoning: ["hm"] }),
        Reply.toolCalls([{ name: "get_weather", arguments: { location: "Oslo" } }])
      ])
      const languageModel = yield* model()
      const reply = yield* languageModel.generateText({ prompt: "hi" })
      assert.strictEqual(reply.text, "Hello there")
      assert.strictEqual(reply.reasoningText, "hm")
      assert.strictEqual(reply.finishReason, "stop")
      assert.strictEqual(server.requests[0]?.body.stream, false)
      assert.notProperty(server.requests[0]?.body, "stream_options")
      const called = yield* languageModel.generateText({
        prompt: "hi",
        toolkit: yield* withHandlers,
        ...announced
      })
      assert.deepStrictEqual(
        called.toolCalls.map((call) => [call.name, call.params]),
        [["get_weather", { location: "Oslo" }]]
      )
    })
  )

  it.effect("takes a whole answer from a server that cannot stream", () =>
    Effect.gen(function* () {
      const { model } = yield* start([
        Reply.raw(['{"model":"m","choices":[{"message":{"content":"whole"},"finish_reason":"stop"}]}'], {
          contentType: "application/json"
        }),
        Reply.raw(['{"error":{"message":"overloaded"}}'], { contentType: "application/json" })
      ])
      const languageModel = yield* model()
      assert.strictEqual(textOf(yield* collect(languageModel)), "whole")
      const error = yield* Effect.flip(collect(languageModel))
      assert.strictEqual(error.reason._tag, "InternalProviderError")
    })
  )

  it.effect("asks reasoning models for max_completion_tokens and without a temperature", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([Reply.text("ok")])
      yield* collect(yield* model({ model: "openai/gpt-5-mini", temperature: 0.7, maxTokens: 50 }))
      const body = server.requests[0]?.body
      assert.strictEqual(body?.max_completion_tokens, 50)
      assert.notProperty(body, "max_tokens")
      assert.notProperty(body, "temperature")
    })
  )

  it.effect("learns once what a server does not take", () =>
    Effect.gen(function* () {
      const refuse = (message: string) =>
        Reply.status(400, { body: { error: { message, type: "invalid_request_error" } } })
      const picky = (body: ScriptedRequestBody) => {
        if (body.stream_options !== undefined) return refuse("Extra inputs are not permitted: stream_options")
        if (body.max_tokens !== undefined)
          return refuse("'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
        if (body.temperature !== undefined)
          return refuse("Unsupported value: 'temperature' does not support 0.7")
        return Reply.text("ok")
      }
      const { model, server } = yield* start(picky)
      const asked = { temperature: 0.7, maxTokens: 9 }
      assert.strictEqual(textOf(yield* collect(yield* model(asked))), "ok")
      assert.strictEqual(server.requests.length, 4)
      yield* collect(yield* model(asked))
      assert.strictEqual(server.requests.length, 5)
      assert.strictEqual(server.requests[4]?.body.max_completion_tokens, 9)
      // What a model refuses says nothing of other models; what the server refuses does.
      yield* collect(yield* model({ ...asked, model: "other" }))
      assert.notProperty(server.requests[5]?.body, "stream_options")
      assert.property(server.requests[5]?.body, "max_tokens")
    })
  )

  it.effect("gives every other refusal back", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start(() =>
        Reply.status(400, { body: { error: { message: "temperature must be at most 1", code: "bad" } } })
      )
      const error = yield* Effect.flip(collect(yield* model({ temperature: 1.5 })))
      assert.strictEqual(error.reason._tag, "InvalidRequestError")
      assert.include(error.message, "temperature must be at most 1")
      assert.strictEqual(server.requests.length, 1)
    })
  )

  it.effect("turns statuses into reasons", () =>
    Effect.gen(function* () {
      const statuses = [400, 401, 402, 403, 404, 408, 409, 429, 500, 503] as const
      const { model } = yield* start([
        ...statuses.map((status) => Reply.status(status)),
        Reply.status(429, { body: { error: { message: "pay", code: "insufficient_quota" } } }),
        Reply.status(502, { body: "<html>Bad gateway</html>" })
      ])
      const languageModel = yield* model()
      const tags: Array<string> = []
      for (let n = 0; n < statuses.length + 2; n++)
        tags.push((yield* Effect.flip(collect(languageModel))).reason._tag)
      assert.deepStrictEqual(tags, [
        "InvalidRequestError",
        "AuthenticationError",
        "QuotaExhaustedError",
        "AuthenticationError",
        "InvalidRequestError",
        "UnknownError",
        "UnknownError",
        "RateLimitError",
        "InternalProviderError",
        "InternalProviderError",
        "QuotaExhaustedError",
        "InternalProviderError"
      ])
    })
  )

  it.effect("reads Retry-After in seconds, milliseconds and as a date", () =>
    Effect.gen(function* () {
      const { model } = yield* start([
        Reply.status(429, { retryAfter: 7 }),
        Reply.status(429, { retryAfter: 7, headers: { "retry-after-ms": "1500" } }),
        // The test's clock begins in 1970.
        Reply.status(429, { retryAfter: "Thu, 01 Jan 1970 00:00:20 GMT" }),
        Reply.status(429, { retryAfter: "soon" }),
        Reply.status(503, { retryAfter: 3 })
      ])
      const languageModel = yield* model()
      const waits: Array<number | undefined> = []
      for (let n = 0; n < 4; n++) {
        const { reason } = yield* Effect.flip(collect(languageModel))
        const wait = reason._tag === "RateLimitError" ? reason.retryAfter : undefined
        waits.push(wait === undefined ? undefined : Duration.toMillis(wait))
      }
      assert.deepStrictEqual(waits, [7000, 1500, 20_000, undefined])
      const { reason } = yield* Effect.flip(collect(languageModel))
      assert.deepNestedInclude(reason, { "http.response.headers.retry-after-ms": "3000" })
    })
  )

  it.effect("fails for what breaks off, with what had come before", () =>
    Effect.gen(function* () {
      const fault = (kind: "cut" | "end" | "malformed" | "error") =>
        Reply.text(["a", "b", "c", "d"], { delayMillis: 0, fault: { after: 2, kind } })
      const { model } = yield* start([
        // First, on a connection of its own: one that is cut on a used connection is taken for a stale one.
        Reply.cut,
        fault("cut"),
        fault("end"),
        fault("malformed"),
        fault("error")
      ])
      const languageModel = yield* model()
      const results: Array<[string, string]> = []
      for (let n = 0; n < 5; n++) {
        let text = ""
        const error = yield* stream(languageModel).pipe(
          Stream.runForEach((part) =>
            Effect.sync(() => {
              if (part.type === "text-delta") text += part.delta
            })
          ),
          Effect.flip
        )
        results.push([text, error.reason._tag])
      }
      assert.deepStrictEqual(results, [
        ["", "NetworkError"],
        ["ab", "NetworkError"],
        ["ab", "NetworkError"],
        ["ab", "InvalidResponseError"],
        ["ab", "InternalProviderError"]
      ])
    })
  )

  it.effect("fails when nobody listens", () =>
    Effect.gen(function* () {
      const server = yield* Effect.scoped(ScriptedModel.make())
      const provider = yield* LlmOpenAi.make(settings({ baseUrl: server.baseUrl }))
      const error = yield* Effect.flip(collect(yield* provider.languageModel({ model: "m" })))
      assert.strictEqual(error.reason._tag, "NetworkError")
      assert.include(error.message, "ECONNREFUSED")
    })
  )

  it.effect("gives up connecting after the limit, TLS included", () =>
    Effect.gen(function* () {
      // Accepts connections and never says a word of TLS.
      const port = yield* Effect.acquireRelease(
        Effect.callback<{ readonly close: () => void; readonly port: number }>((resume) => {
          const sockets = new Set<Socket>()
          const server = createServer((socket) => sockets.add(socket.on("error", () => {})))
          server.listen(0, "127.0.0.1", () =>
            resume(
              Effect.succeed({
                port: (server.address() as AddressInfo).port,
                close: () => {
                  for (const socket of sockets) socket.destroy()
                  server.close()
                }
              })
            )
          )
        }),
        ({ close }) => Effect.sync(close)
      ).pipe(Effect.map(({ port }) => port))
      const provider = yield* LlmOpenAi.make(
        settings({ baseUrl: `https://127.0.0.1:${port}`, connectTimeout: Duration.millis(30) })
      )
      const error = yield* Effect.flip(collect(yield* provider.languageModel({ model: "m" })))
      assert.strictEqual(error.reason._tag, "NetworkError")
      assert.include(error.message, "within 30 ms")
    })
  )

  for (const [when, reply, sees] of [
    ["before the response", Reply.hang, false],
    ["before the first token", Reply.text(["a"], { fault: { after: 0, kind: "hang" } }), false],
    ["after some tokens", Reply.text(["a", "b"], { fault: { after: 1, kind: "hang" } }), true]
  ] as const) {
    it.effect(`interrupting ends the request at once, ${when}`, () =>
      Effect.gen(function* () {
        const { model, server } = yield* start([reply])
        const languageModel = yield* model()
        const { promise: seen, resolve } = Promise.withResolvers<void>()
        const fiber = yield* stream(languageModel).pipe(
          Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && resolve())),
          Effect.forkChild
        )
        const request = yield* Effect.promise(() => server.received(0))
        if (sees) yield* Effect.promise(() => seen)
        assert.isUndefined(request.outcome)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* Effect.promise(() => request.ended), "aborted")
      })
    )
  }

  it.effect("ending the stream early ends the request", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([Reply.text(["a", "b"], { fault: { after: 1, kind: "hang" } })])
      const parts = yield* stream(yield* model()).pipe(
        Stream.takeUntil((part) => part.type === "text-delta"),
        Stream.runCollect
      )
      assert.strictEqual(textOf(parts), "a")
      const request = yield* Effect.promise(() => server.received(0))
      assert.strictEqual(yield* Effect.promise(() => request.ended), "aborted")
    })
  )

  it.effect("uses a connection again, and asks anew when it has gone stale", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([
        Reply.text("one"),
        Reply.text("two"),
        Reply.cut,
        Reply.text("three")
      ])
      const languageModel = yield* model()
      assert.strictEqual(textOf(yield* collect(languageModel)), "one")
      yield* Effect.promise(async () => (await server.received(0)).ended)
      assert.strictEqual(textOf(yield* collect(languageModel)), "two")
      assert.strictEqual(yield* Effect.promise(server.connections), 1)
      yield* Effect.promise(async () => (await server.received(1)).ended)
      // The cut hits a connection that has been used, which looks like one the server had closed already.
      assert.strictEqual(textOf(yield* collect(languageModel)), "three")
      assert.strictEqual(server.requests.length, 4)
    })
  )

  it.effect("keeps a model per set of settings", () =>
    Effect.gen(function* () {
      const { provider } = yield* start([])
      const one = yield* provider.languageModel({ model: "m", temperature: 0.5 })
      assert.strictEqual(yield* provider.languageModel({ model: "m", temperature: 0.5 }), one)
      assert.notStrictEqual(yield* provider.languageModel({ model: "m", temperature: 0.6 }), one)
    })
  )

  it.effect("names the models of the variants", () =>
    Effect.gen(function* () {
      const models = (given: Partial<LlmSettings>) =>
        Effect.map(LlmOpenAi.make(settings(given)), (provider) => provider.models)
      assert.deepStrictEqual(yield* models({ model: "a" }), { default: "a", fast: "a", creative: "a" })
      assert.deepStrictEqual(yield* models({ model: "a", modelFast: "b", modelCreative: "c" }), {
        default: "a",
        fast: "b",
        creative: "c"
      })
    })
  )
})

describe("PartsReader", () => {
  it.effect("pauses the socket when nobody reads, and goes on when somebody does", () =>
    Effect.gen(function* () {
      const incoming = new IncomingMessage(new Socket())
      const parts = new CompletionParts({ method: "streamText", model: "m" })
      const reader = new PartsReader(incoming, parts, { method: "streamText", url: "u" })
      const event = `data: {"choices":[{"delta":{"content":"${"x".repeat(1000)}"},"finish_reason":null}]}\n\n`
      const nextTurn = Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))
      for (let n = 0; n < 60; n++) incoming.push(event)
      yield* nextTurn
      assert.isFalse(incoming.isPaused())
      for (let n = 0; n < 60; n++) incoming.push(event)
      yield* nextTurn
      assert.isTrue(incoming.isPaused())
      const chunk = yield* reader.pull
      assert.isFalse(incoming.isPaused())
      assert.isAtLeast(chunk.length, 2)
      reader.release()
      assert.isTrue(incoming.destroyed)
    })
  )
})

describe("LlmOpenAi.layer", () => {
  it.effect("is a provider", () =>
    Effect.gen(function* () {
      const provider = yield* LlmProvider
      assert.strictEqual(provider.name, "openai")
      assert.isFalse(provider.isOffline)
    }).pipe(Effect.provide(Layer.effect(LlmProvider, LlmOpenAi.make(settings({ model: "a" })))))
  )
})
