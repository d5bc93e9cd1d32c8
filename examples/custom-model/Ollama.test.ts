import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { FetchHttpClient } from "effect/http"
import { llmContractUnscripted, TestApp } from "voice-agent-api/testing"
import * as Ollama from "./Ollama.ts"

interface Asked {
  readonly messages: ReadonlyArray<{
    readonly role: string
    readonly content: string
    readonly tool_name?: string
  }>
}

/** Ollama as far as its bytes go: each answer is a list of lines, or a status. The last is given again and again. */
const ollama = (answers: ReadonlyArray<ReadonlyArray<object> | number>) => {
  const asked: Array<Asked> = []
  const fetch = async (_: unknown, init?: RequestInit) => {
    const answer = answers[Math.min(asked.length, answers.length - 1)] ?? []
    asked.push(JSON.parse(await new Response(init?.body ?? null).text()))
    return typeof answer === "number"
      ? new Response("{}", { status: answer })
      : new Response(answer.map((line) => `${JSON.stringify(line)}\n`).join(""))
  }
  const provider = Ollama.layer({ url: "http://ollama.test", model: "llama3.1" }).pipe(
    Layer.provide(FetchHttpClient.layer),
    Layer.provide(Layer.succeed(FetchHttpClient.Fetch, fetch as typeof globalThis.fetch))
  )
  return { asked, provider }
}

const says = (...tokens: ReadonlyArray<string>) => [
  ...tokens.map((content) => ({ message: { content }, done: false })),
  {
    message: { content: "" },
    done: true,
    done_reason: "stop",
    prompt_eval_count: 26,
    eval_count: tokens.length
  }
]

layer(ollama([says("Hello", " there.")]).provider)("Ollama, as every provider", llmContractUnscripted)

describe("Ollama", () => {
  it.effect("answers a turn with tools", () =>
    Effect.gen(function* () {
      const { asked, provider } = ollama([
        [
          {
            message: {
              content: "",
              tool_calls: [{ function: { name: "calculator", arguments: { expression: "6*7" } } }]
            }
          },
          ...says()
        ],
        says("It ", "is 42.")
      ])
      const app = yield* TestApp.make({ provider })
      const turn = yield* app.turn("What is 6 * 7?")
      assert.strictEqual(turn.reply, "It is 42.")
      assert.deepInclude(turn.end, { type: "end" })
      const result = asked[1]?.messages.at(-1)
      assert.deepInclude(result, { role: "tool", tool_name: "calculator" })
      assert.include(result?.content, "42")
      const [call] = (yield* app.trace(turn)).named("agent.call_llm")
      assert.deepInclude(call?.attributes, {
        "gen_ai.provider.name": "ollama",
        "gen_ai.usage.input_tokens": 26
      })
    })
  )

  it.effect("tells what went wrong, so that the policy knows what to do", () =>
    Effect.gen(function* () {
      const { asked, provider } = ollama([
        503,
        [{ error: "out of memory" }],
        [{ message: { content: "Half a" } }]
      ])
      const app = yield* TestApp.make({ provider, settings: { LLM_RETRIES: "1", LLM_RETRY_DELAY: "0" } })
      const failed = yield* app.turn("Hi")
      assert.deepInclude(failed.end, { type: "error", error_code: "LLM_UNAVAILABLE" })
      assert.strictEqual(asked.length, 2)
      const broken = yield* app.turn("Hi")
      assert.deepInclude(broken.end, { type: "error", error_code: "LLM_UNAVAILABLE" })
      assert.strictEqual(broken.reply, "Half a")
    })
  )
})
