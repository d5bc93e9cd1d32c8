import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Schema, Stream, Tracer } from "effect"
import { Response } from "effect/ai"
import { TestClock } from "effect/testing"
import { Reply, TestApp } from "voice-agent-api/testing"
import * as Db from "../../src/db/Db.ts"
import { Llm } from "../../src/llm/Llm.ts"
import * as LlmOffline from "../../src/llm/offline/LlmOffline.ts"
import { defineTool, Tools } from "../../src/tools/Tools.ts"

layer(TestApp.layer())("an app in process", (it) => {
  it.effect("runs a turn with tools, and hands back what all saw of it", () =>
    Effect.gen(function* () {
      const app = yield* TestApp
      app.model.push(
        Reply.toolCalls([{ id: "c1", name: "calculator", arguments: { expression: "6*7" } }], {
          text: "Wait. "
        }),
        Reply.text("It is 42.")
      )
      const turn = yield* app.turn({ message: "What is 6 * 7?", session_id: "tools" })
      assert.strictEqual(turn.reply, "Wait. It is 42.")
      assert.strictEqual(turn.sessionId, "tools")
      assert.deepInclude(turn.end, { type: "end", content: "Wait. It is 42." })
      const [result] = app.model.requests[1]?.toolResults ?? []
      assert.deepInclude(result, { id: "c1", name: "calculator" })
      assert.strictEqual(JSON.parse(result?.content ?? "").result, 42)

      const trace = yield* app.trace(turn)
      assert.deepStrictEqual(trace.outline, [
        "POST /api/v1/chat/stream",
        "  api.send_message",
        "    agent.process_message",
        "      agent.build_messages",
        "      agent.call_llm",
        "      agent.handle_tools",
        "        tool.execute",
        "          tool.calculate",
        "      agent.build_messages",
        "      agent.call_llm",
        "      agent.format_response"
      ])
      assert.strictEqual(trace.root.children[0]?.attributes.turn_id, turn.turnId)
      assert.isTrue(trace.spans.every(({ status }) => status === "ok"))
      assert.isNotEmpty(trace.named("database.query"))
      const history = yield* app.history("tools")
      assert.deepStrictEqual(
        history.map(({ content }) => content),
        ["What is 6 * 7?", "Wait. It is 42."]
      )
    })
  )

  it.effect("streams: what was said is there before the rest is", () =>
    Effect.gen(function* () {
      const app = yield* TestApp
      const asked = app.model.requests.length
      app.model.push(Reply.text(["One ", "two"], { delayMillis: 20_000 }))
      const response = yield* Effect.promise(() =>
        app.fetch("/api/v1/chat/stream", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ message: "Count." })
        })
      )
      const reader = (response.body ?? new ReadableStream()).pipeThrough(new TextDecoderStream()).getReader()
      let text = ""
      const readUntil = (part: string) =>
        Effect.promise(async () => {
          while (!text.includes(part)) {
            const { done, value } = await reader.read()
            if (done) throw new Error(`It never came. What did: ${text}`)
            text += value
          }
        })
      yield* readUntil('"One "')
      assert.notInclude(text, '"two"')
      yield* TestClock.adjust("20 seconds")
      yield* readUntil('"two"')
      // Nobody reads on: the turn is stopped, and lets go of the model.
      yield* Effect.promise(() => reader.cancel())
      const outcome = yield* Effect.promise(() => app.model.requests[asked]?.ended ?? Promise.reject())
      assert.strictEqual(outcome, "aborted")
    })
  )

  it.effect("retries by the test's clock, and shows it on the span", () =>
    Effect.gen(function* () {
      const app = yield* TestApp
      const asked = app.model.requests.length
      app.model.push(Reply.status(503, { retryAfter: 5 }), Reply.text("Here I am."))
      const running = yield* Effect.forkChild(app.turn("Hello?"))
      yield* Effect.promise(() => app.model.received(asked))
      yield* TestClock.adjust("5 seconds")
      const turn = yield* Fiber.join(running)
      assert.strictEqual(turn.reply, "Here I am.")
      const [first, second] = app.model.requests.slice(asked)
      assert.strictEqual((second?.receivedAt ?? 0) - (first?.receivedAt ?? 0), 5000)
      const [call] = (yield* app.trace(turn)).named("agent.call_llm")
      assert.deepInclude(call?.events[0], { name: "llm.retry" })
      assert.deepInclude(call?.events[0]?.attributes, { reason: "server_error", delay_ms: 5000 })
    })
  )

  it.effect("tells failures: to the client, and in the trace", () =>
    Effect.gen(function* () {
      const app = yield* TestApp
      app.model.push(Reply.status(401))
      const turn = yield* app.turn("Hello?")
      assert.deepInclude(turn.end, { type: "error", error_code: "LLM_UNAVAILABLE" })
      const trace = yield* app.trace(turn)
      assert.strictEqual(trace.named("agent.call_llm")[0]?.status, "error")
    })
  )

  it.effect("answers the client's typed errors, and dies of a turn that is refused", () =>
    Effect.gen(function* () {
      const app = yield* TestApp
      const problem = yield* Effect.flip(
        app.client.tools.execute({ params: { name: "no_such_tool" }, payload: {} })
      )
      assert.deepInclude(problem, { error_code: "TOOL_NOT_FOUND" })
      assert.strictEqual((yield* Effect.exit(app.turn("")))._tag, "Failure")
    })
  )
})

const shout = defineTool({
  name: "shout",
  description: "Says it louder.",
  parameters: Schema.Struct({ text: Schema.String }),
  success: Schema.String,
  handler: ({ text }) => Effect.succeed(`${text.toUpperCase()}!`)
})

describe("an app in process, with parts of one's own", () => {
  it.effect("tools", () =>
    Effect.gen(function* () {
      const app = yield* TestApp.make({
        tools: Tools.layerOf([shout]),
        script: [Reply.toolCalls([{ name: "shout", arguments: { text: "ahoy" } }]), Reply.text("Done.")]
      })
      yield* app.turn("Go")
      assert.deepStrictEqual(app.model.requests[1]?.toolResults[0]?.content, '"AHOY!"')
      assert.deepStrictEqual(
        (yield* app.client.tools.list()).tools.map(({ name }) => name),
        ["shout"]
      )
    })
  )

  it.effect("a provider of models, whose policy stays", () =>
    Effect.gen(function* () {
      const app = yield* TestApp.make({ provider: LlmOffline.layer })
      assert.strictEqual((yield* app.turn("What is 6 * 7?")).reply, "6 * 7 = 42.")
      assert.isEmpty(app.model.requests)
    })
  )

  it.effect("a model as a whole", () =>
    Effect.gen(function* () {
      const llm = Layer.mock(Llm, {
        provider: "mine",
        isOffline: false,
        models: { default: "mine", fast: "mine", creative: "mine" },
        fallbackModels: [],
        modelFor: () => "mine",
        stream: () =>
          Stream.make(
            Response.makePart("text-delta", { id: "1", delta: "Mine." }),
            Response.makePart("finish", {
              reason: "stop",
              usage: new Response.Usage({
                inputTokens: { uncached: 0, total: 0, cacheRead: 0, cacheWrite: 0 },
                outputTokens: { total: 0, text: 0, reasoning: 0 }
              }),
              response: undefined
            })
          )
      })
      const app = yield* TestApp.make({ llm })
      assert.strictEqual((yield* app.turn("Hi")).reply, "Mine.")
    })
  )

  it.effect("a database, which two apps may share", () =>
    Effect.gen(function* () {
      const db = Layer.succeedContext(yield* Layer.build(Db.layerMemory))
      const one = yield* TestApp.make({ db, script: [Reply.text("Noted.")] })
      const other = yield* TestApp.make({ db })
      yield* one.turn({ message: "我叫小明", session_id: "shared" })
      assert.deepStrictEqual(
        (yield* other.history("shared")).map(({ content }) => content),
        ["我叫小明", "Noted."]
      )
    })
  )

  it.effect("a tracer", () =>
    Effect.gen(function* () {
      const names: Array<string> = []
      const tracer = Tracer.make({
        span: (options) => {
          names.push(options.name)
          return new Tracer.NativeSpan(options)
        }
      })
      const app = yield* TestApp.make({
        tracer: Layer.succeed(Tracer.Tracer, tracer),
        script: [Reply.text("Yes.")]
      })
      const turn = yield* app.turn("Hi")
      assert.include(names, "agent.process_message")
      assert.strictEqual((yield* Effect.exit(app.trace(turn)))._tag, "Failure")
    })
  )

  it.effect("settings", () =>
    Effect.gen(function* () {
      const app = yield* TestApp.make({
        settings: { API_KEYS: "first-key, second", MAX_CONCURRENT_TURNS: "1", LLM_RETRIES: "0" },
        script: [Reply.status(503), Reply.text("Better.")]
      })
      assert.deepInclude((yield* app.turn("Hi")).end, { type: "error", error_code: "LLM_UNAVAILABLE" })
      assert.strictEqual((yield* app.turn("Hi")).reply, "Better.")
      assert.strictEqual((yield* Effect.promise(() => app.fetch("/api/v1/info"))).status, 401)
    })
  )
})
