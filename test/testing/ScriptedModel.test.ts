import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Schema, Stream } from "effect"
import { LanguageModel, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { Reply, ScriptedModel, type ScriptedReply } from "voice-agent-api/testing"
import type { LlmProvider } from "../../src/llm/Llm.ts"
import * as LlmOpenAi from "../../src/llm/openai/LlmOpenAi.ts"
import { announced, settings } from "../llm/OpenAiProvider.ts"

const replies: Readonly<Record<string, ScriptedReply>> = {
  text: Reply.text(["Hel", "lo"], { delayMillis: 0 }),
  "reasoning first": Reply.text("Well.", { reasoning: ["hm"] }),
  "no usage": Reply.text("Well.", { usage: null }),
  "cached usage": Reply.text("Well.", {
    usage: { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 4 } }
  }),
  "tool calls": Reply.toolCalls(
    [
      { name: "add", arguments: { a: 1 }, id: "x" },
      { name: "add", arguments: "{broken", id: "y" }
    ],
    { text: "One moment.", interleaved: true }
  ),
  "a refusal": Reply.status(401),
  "too many": Reply.status(429, { retryAfter: 7 }),
  outage: Reply.status(503),
  "plain text": Reply.status(502, { body: "Bad gateway" }),
  "a cut": Reply.cut,
  "a cut in the middle": Reply.text(["One", "two"], { delayMillis: 0, fault: { after: 1, kind: "cut" } }),
  "an early end": Reply.text(["One", "two"], { delayMillis: 0, fault: { after: 1, kind: "end" } }),
  "a malformed chunk": Reply.text(["One", "two"], { delayMillis: 0, fault: { after: 1, kind: "malformed" } }),
  "an error in the middle": Reply.text(["One", "two"], {
    delayMillis: 0,
    fault: { after: 1, kind: "error" }
  }),
  raw: Reply.raw([
    'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n',
    "data: [DONE]\n\n"
  ])
}

/** How texts and arguments are cut is the network's affair: texts in a row are one, and of calls only the whole is kept. */
const joined = (parts: ReadonlyArray<{ readonly type: string; readonly [key: string]: unknown }>) => {
  const result: Array<Record<string, unknown>> = []
  for (const part of parts) {
    if (part.type.startsWith("tool-params-")) continue
    const last = result.at(-1)
    if (last?.type === part.type && "delta" in part) last.delta = `${last.delta}${part.delta}`
    else result.push({ ...part })
  }
  return result
}

const collect = Effect.fnUntraced(function* (provider: LlmProvider["Service"]) {
  const model = yield* provider.languageModel({ model: "m", temperature: 0.5 })
  const parts: Array<{ readonly type: string }> = []
  const exit = yield* Effect.exit(
    Stream.runForEach(model.streamText({ prompt: "Hi", ...announced }), (part) =>
      Effect.sync(() => void parts.push(part))
    )
  )
  const failure = Exit.isFailure(exit) ? yield* Effect.flip(exit) : undefined
  return { parts: joined(parts), reason: failure?.reason._tag, retryable: failure?.isRetryable }
})

const withoutHeaders = ({ body }: { readonly body: unknown }) => body

describe("a scripted model in process and over HTTP", () => {
  for (const [name, reply] of Object.entries(replies)) {
    it.effect(`are the same to who asks: ${name}`, () =>
      Effect.gen(function* () {
        const server = yield* ScriptedModel.serve([reply])
        const { model, provider } = ScriptedModel.make([reply])
        const overHttp = yield* collect(yield* LlmOpenAi.make(settings({ baseUrl: server.baseUrl })))
        assert.deepStrictEqual(yield* collect(provider), overHttp)
        assert.isTrue(overHttp.parts.length > 0 || overHttp.reason !== undefined)
        assert.deepStrictEqual(model.requests.map(withoutHeaders), server.requests.map(withoutHeaders))
      })
    )
  }
})

const add = Tool.make("add", {
  parameters: Schema.Struct({ a: Schema.Int, b: Schema.Int }),
  success: Schema.Int
})
const toolkit = Toolkit.make(add)

describe("a scripted model in process", () => {
  it.effect("passes delays by the test's clock, and tells what became of an exchange", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel
      const seen: Array<string> = []
      const ask = Stream.runForEach(LanguageModel.streamText({ prompt: "Hi" }), (part) =>
        Effect.sync(() => void (part.type === "text-delta" && seen.push(part.delta)))
      )
      const fiber = yield* Effect.forkChild(ask)
      const request = yield* Effect.promise(() => model.received(0))
      yield* TestClock.adjust("59 seconds")
      assert.isEmpty(seen)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, ["One "])
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual(seen, ["One ", "two"])
      assert.isUndefined(request.outcome)
      yield* TestClock.adjust("2 minutes")
      yield* Fiber.join(fiber)
      assert.strictEqual(request.outcome, "completed")

      const interrupted = yield* Effect.forkChild(ask)
      const second = yield* Effect.promise(() => model.received(1))
      yield* Fiber.interrupt(interrupted)
      assert.isTrue(second.aborted)
    }).pipe(
      Effect.provide(
        ScriptedModel.layer([
          Reply.text(["One ", "two"], { headDelayMillis: 60_000, delayMillis: 120_000 }),
          Reply.hang
        ])
      )
    )
  )

  it.effect("records the prompt and what the tools answered", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel
      const response = yield* LanguageModel.generateText({ prompt: "What is 2 + 3?", toolkit })
      assert.deepStrictEqual(
        response.toolResults.map(({ result }) => result),
        [5]
      )
      yield* LanguageModel.generateText({
        prompt: [
          { role: "user", content: "What is 2 + 3?" },
          {
            role: "assistant",
            content: [
              { type: "tool-call", id: "c1", name: "add", params: { a: 2, b: 3 }, providerExecuted: false }
            ]
          },
          {
            role: "tool",
            content: [{ type: "tool-result", id: "c1", name: "add", isFailure: false, result: 5 }]
          }
        ]
      })
      assert.deepStrictEqual(
        model.requests.map(({ message }) => message),
        ["What is 2 + 3?", "What is 2 + 3?"]
      )
      assert.deepStrictEqual(model.requests[0]?.toolResults, [])
      assert.deepStrictEqual(model.requests[1]?.toolResults, [{ id: "c1", name: "add", content: "5" }])
    }).pipe(
      Effect.provide([
        ScriptedModel.layer([
          Reply.toolCalls([{ name: "add", arguments: { a: 2, b: 3 } }]),
          Reply.text("It is 5.")
        ]),
        toolkit.toLayer({ add: ({ a, b }) => Effect.succeed(a + b) })
      ])
    )
  )

  it.effect("says so when the script has no reply left, or fails", () =>
    Effect.gen(function* () {
      const { provider } = ScriptedModel.make([])
      assert.strictEqual((yield* collect(provider)).reason, "InvalidRequestError")
      const failing = ScriptedModel.make(() => {
        throw new Error("oops")
      })
      const languageModel = yield* failing.provider.languageModel({ model: "m" })
      const error = yield* Effect.flip(Stream.runDrain(languageModel.streamText({ prompt: "Hi" })))
      assert.include(error.message, "The script failed: Error: oops")
    })
  )
})
