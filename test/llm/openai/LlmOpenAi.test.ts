import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted, Stream } from "effect"
import { Prompt } from "effect/ai"
import { Reply, ScriptedModel, type ScriptedRequestBody } from "voice-agent-api/testing"
import type { LlmSettings } from "../../../src/Config.ts"
import { LlmProvider } from "../../../src/llm/Llm.ts"
import * as LlmOpenAi from "../../../src/llm/openai/LlmOpenAi.ts"
import { isReasoningModel } from "../../../src/llm/openai/LlmOpenAiRequest.ts"

import { announced, collect, settings, start, stream, textOf, withHandlers } from "../OpenAiProvider.ts"

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
      ["https://x.azure.com/openai/deployments/d?api-version=1", "https://x.azure.com/openai/deployments/d"]
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

  it.effect("keeps the path and the query of its URL", () =>
    Effect.gen(function* () {
      const server = yield* ScriptedModel.serve([Reply.text("ok")])
      const provider = yield* LlmOpenAi.make(
        settings({ baseUrl: `${server.url}/v1beta/openai/?api-version=1` })
      )
      yield* collect(yield* provider.languageModel({ model: "m" }))
      assert.strictEqual(server.requests[0]?.path, "/v1beta/openai/chat/completions?api-version=1")
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

describe("LlmOpenAi.layer", () => {
  it.effect("is a provider", () =>
    Effect.gen(function* () {
      const provider = yield* LlmProvider
      assert.strictEqual(provider.name, "openai")
      assert.isFalse(provider.isOffline)
    }).pipe(Effect.provide(Layer.effect(LlmProvider, LlmOpenAi.make(settings({ model: "a" })))))
  )
})
