import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { Db, LlmOpenAi } from "voice-agent-api"
import { Cassette, dbContract, llmContract, Reply, ScriptedModel, TestApp } from "voice-agent-api/testing"

describe("a turn", () => {
  it.effect("calls a tool", () =>
    Effect.gen(function* () {
      const app = yield* TestApp.make({
        script: [
          Reply.toolCalls([{ name: "calculator", arguments: { expression: "6*7" } }]),
          Reply.text("It is 42.")
        ]
      })
      const turn = yield* app.turn({ message: "What is 6 * 7?", session_id: "sums" })
      assert.strictEqual(turn.reply, "It is 42.")
      // What the model was given:
      assert.include(app.model.requests[1]?.toolResults[0]?.content, "42")
      // What is kept:
      assert.strictEqual((yield* app.history("sums"))[1]?.content, "It is 42.")
      // What the turn did:
      const trace = yield* app.trace(turn)
      assert.strictEqual(trace.named("tool.calculate")[0]?.status, "ok")
      assert.include(trace.outline, "    agent.process_message")
    })
  )

  it.effect("waits for a model that is slow, by the test's clock", () =>
    Effect.gen(function* () {
      const app = yield* TestApp.make({ script: [Reply.text("At last.", { headDelayMillis: 25_000 })] })
      const running = yield* Effect.forkChild(app.turn("Are you there?"))
      yield* Effect.promise(() => app.model.received(0))
      yield* TestClock.adjust("25 seconds")
      assert.strictEqual((yield* Fiber.join(running)).reply, "At last.")
    })
  )

  it.effect("keeps what was said before the model broke off", () =>
    Effect.gen(function* () {
      const app = yield* TestApp.make({
        script: [Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "cut" } })]
      })
      const turn = yield* app.turn({ message: "Count.", session_id: "cut" })
      assert.deepInclude(turn.end, { type: "error", error_code: "LLM_UNAVAILABLE" })
      assert.strictEqual((yield* app.history("cut"))[1]?.content, "One two")
    })
  )
})

// The recording was made with a stand-in for the real server.
it.effect("a recorded model", () =>
  Effect.gen(function* () {
    const cassette = yield* Cassette.make({
      file: `${import.meta.dirname}/cassettes/greeting.json`,
      upstream: "https://api.openai.com/v1",
      // The system prompt may change; the conversation may not.
      normalize: (body) => (body as { messages: ReadonlyArray<unknown> }).messages.slice(1)
    })
    const app = yield* TestApp.make({
      provider: LlmOpenAi.layer,
      settings: { LLM_BASE_URL: cassette.baseUrl, LLM_MODEL: "gpt-4o-mini" }
    })
    assert.strictEqual((yield* app.turn("Say hello.")).reply, "Hello!")
  })
)

layer(Db.layerMemory)("my database", dbContract)
layer(ScriptedModel.layer())("my model", llmContract)
