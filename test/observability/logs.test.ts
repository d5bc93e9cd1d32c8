import { assert, describe, it, layer } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Layer } from "effect"
import { Reply } from "voice-agent-api/testing"
import { AppConfig } from "../../src/Config.ts"
import { layerLoggingTo } from "../../src/observability/Logging.ts"
import { Redaction } from "../../src/observability/Redaction.ts"
import { makeAgentTools } from "../support/AgentTools.ts"
import { ask, eventually, openSocket } from "../support/ChatClient.ts"
import { type Logged, make } from "./LoggedApp.ts"

class LoggedApp extends Context.Service<LoggedApp, Logged>()("voice-agent/test/LoggedApp") {
  static readonly layer = Layer.effect(LoggedApp, make([], { tools: makeAgentTools().layer }))
}

const callsExplode = [Reply.toolCalls([{ name: "explode", arguments: {} }]), Reply.text("Oh.")]

const parse = (line: string): Record<string, unknown> => JSON.parse(line)

layer(LoggedApp.layer, { excludeTestServices: true })("log lines of a server", (it) => {
  it.effect("in a turn: one JSON object each, with all ids", () =>
    Effect.gen(function* () {
      const { lines, model, url } = yield* LoggedApp
      model.push(...callsExplode)
      const before = lines.length
      const { headers } = yield* ask(`${url}/api/v1/chat`, undefined, {
        method: "POST",
        headers: { "content-type": "application/json", "x-request-id": "my-request" },
        body: JSON.stringify({ message: "hi", session_id: "log-1" })
      })
      const [line, ...others] = lines.slice(before).map(parse)
      assert.lengthOf(others, 0)
      assert.strictEqual(line?.level, "Error")
      assert.strictEqual(line?.message, "The tool explode failed unexpectedly")
      assert.match(String(line?.timestamp), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
      assert.strictEqual(line?.trace_id, headers.get("traceparent")?.split("-")[1])
      assert.match(String(line?.span_id), /^[0-9a-f]{16}$/)
      assert.strictEqual(line?.request_id, "my-request")
      assert.strictEqual(line?.session_id, "log-1")
      assert.include(String(line?.cause), "secret of the implementation")
    })
  )

  it.effect("in a turn over WebSocket: the turn's own trace, and the connection's request", () =>
    Effect.gen(function* () {
      const { lines, model, url } = yield* LoggedApp
      model.push(...callsExplode)
      const before = lines.length
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "hi", session_id: "log-2" })
      const end = yield* socket.until("end")
      const [line] = lines.slice(before).map(parse)
      assert.strictEqual(line?.trace_id, end.metadata.trace_id)
      assert.match(String(line?.request_id), /^req_[0-9a-f]{32}$/)
      assert.strictEqual(line?.session_id, "log-2")
    })
  )

  it.effect("about a model that fails: what its server said", () =>
    Effect.gen(function* () {
      const { lines, model, url } = yield* LoggedApp
      model.push(Reply.status(404, { body: { error: { message: "There is no model scripted" } } }))
      const before = lines.length
      yield* ask(`${url}/api/v1/chat`, { message: "hi", session_id: "log-3" })
      const [line, ...others] = lines.slice(before).map(parse)
      assert.lengthOf(others, 0)
      assert.strictEqual(line?.level, "Warn")
      assert.match(
        String(line?.message),
        /^The model failed: scripted: rejected: .*There is no model scripted/
      )
      assert.strictEqual(line?.session_id, "log-3")
    })
  )

  it.effect("in any other request: its ids", () =>
    Effect.gen(function* () {
      const { lines, url } = yield* LoggedApp
      const before = lines.length
      const { headers } = yield* ask(`${url}/api/v1/tools/execute/explode`, {})
      const [line] = lines.slice(before).map(parse)
      assert.strictEqual(line?.trace_id, headers.get("traceparent")?.split("-")[1])
      assert.strictEqual(line?.request_id, headers.get("x-request-id"))
    })
  )

  it.effect("about slow work: once, with its span and all ids", () =>
    Effect.gen(function* () {
      const app = yield* make([Reply.text("Late.", { headDelayMillis: 60 })], {
        settings: () => ({ SLOW_MODEL: "50 millis", SLOW_SQL: "1 minute" })
      })
      const { headers } = yield* ask(`${app.url}/api/v1/chat`, { message: "hi", session_id: "slow" })
      const lines = yield* eventually(
        Effect.sync(() => app.lines.map(parse)),
        (lines) => lines.length > 0
      )
      const spans = yield* app.otlp.until((spans) => spans.some((span) => span.name === "agent.call_llm"))
      const span = spans.find((span) => span.name === "agent.call_llm")
      assert.strictEqual(span?.attributes["performance.slow"], true)
      assert.lengthOf(
        spans.filter((other) => "performance.slow" in other.attributes),
        1
      )
      assert.lengthOf(lines, 1)
      assert.strictEqual(lines[0]?.message, "agent.call_llm was slow")
      assert.strictEqual(lines[0]?.level, "Warn")
      assert.strictEqual(lines[0]?.span_id, span?.spanId)
      assert.strictEqual(lines[0]?.trace_id, span?.traceId)
      assert.strictEqual(lines[0]?.session_id, "slow")
      assert.strictEqual(lines[0]?.request_id, headers.get("x-request-id"))
      assert.isAtLeast(Number(lines[0]?.duration_ms), 50)
    })
  )
})

describe("a line", () => {
  /** What is written when this runs. */
  const written = (settings: Readonly<Record<string, string>>, effect: Effect.Effect<unknown>) =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const config = AppConfig.layer.pipe(
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(settings)))
      )
      yield* effect.pipe(
        Effect.provide(
          layerLoggingTo((line) => void lines.push(line)).pipe(
            Layer.provide(Redaction.layer),
            Layer.provide(config)
          )
        )
      )
      return lines
    })
  const json = { LOG_FORMAT: "json" }

  it.effect("for people: time, level, message and fields on one line, the cause below", () =>
    Effect.gen(function* () {
      const lines = yield* written(
        { LOG_FORMAT: "pretty" },
        Effect.logWarning("Careful", { code: 7 }).pipe(
          Effect.annotateLogs({ session_id: "s-1", count: 3 }),
          Effect.andThen(Effect.logError("Broken", new Error("of glass")))
        )
      )
      assert.deepStrictEqual(lines, [
        `00:00:00.000 WARN  Careful: {"code":7} session_id=s-1 count=3`,
        "00:00:00.000 ERROR Broken: of glass"
      ])
    })
  )

  it.effect("for people: what was not logged begins no line, and moves no cursor", () =>
    Effect.gen(function* () {
      const lines = yield* written(
        { LOG_FORMAT: "pretty" },
        Effect.annotateLogs(Effect.logInfo("one\n12:00:00.000 ERROR two\u001b[2J"), { field: "a\rb" })
      )
      assert.deepStrictEqual(lines, [
        String.raw`00:00:00.000 INFO  one\n12:00:00.000 ERROR two\u001b[2J field=a\rb`
      ])
    })
  )

  it.effect("is there from its level on", () =>
    Effect.gen(function* () {
      const all = Effect.all([
        Effect.logDebug("debug"),
        Effect.logInfo("info"),
        Effect.logWarning("warn"),
        Effect.logError("error")
      ])
      for (const [level, count] of [
        ["debug", 4],
        ["Info", 3],
        ["WARN", 2],
        ["error", 1],
        ["none", 0]
      ] as const) {
        assert.lengthOf(yield* written({ LOG_LEVEL: level }, all), count, level)
      }
      assert.lengthOf(yield* written({}, all), 3)
    })
  )

  it.effect("stays JSON whatever is in it", () =>
    Effect.gen(function* () {
      const circular: Record<string, unknown> = { name: "loop" }
      circular.self = circular
      const lines = yield* written(
        json,
        Effect.logInfo(`say "password=abc\\"`, "http://x", undefined, null).pipe(
          Effect.annotateLogs({
            url: "http://x",
            next: { mail: "c@d", big: 12n, error: new TypeError("odd") },
            circular,
            same: [circular.name, circular.name]
          })
        )
      )
      assert.deepStrictEqual(lines.map(parse), [
        {
          timestamp: "1970-01-01T00:00:00.000Z",
          level: "Info",
          message: `say "password=[redacted]\\": http://x: null`,
          url: "http://x",
          next: { mail: "c@d", big: "12", error: { name: "TypeError", message: "odd" } },
          circular: { name: "loop", self: "[circular]" },
          same: ["loop", "loop"]
        }
      ])
    })
  )

  it.effect("has no secret, in whatever form it comes", () =>
    Effect.gen(function* () {
      const password = `pl"an\\ted/1`
      const settings = {
        ...json,
        LLM_API_KEY: "planted-2",
        TAVILY_API_KEY: "planted-3",
        API_KEYS: "planted-4, planted-5",
        DATABASE_URL: `postgres://user:${encodeURIComponent(password)}@db/app`,
        LLM_BASE_URL: "https://planted-6:planted-7@models/v1?api-key=planted-8"
      }
      const lines = yield* written(
        settings,
        Effect.logError(
          `keys planted-2 and planted-3${JSON.stringify({ password })} ${encodeURIComponent(password)}`,
          new Error("told planted-4 at https://planted-6:planted-7@models/v1?api-key=planted-8")
        ).pipe(
          Effect.annotateLogs({
            list: ["planted-5", { deep: `${password} again` }],
            authorization: "whatever it is",
            nested: { password: "planted-9", apiKey: "planted-10" },
            basic: `Basic ${btoa("planted-6:planted-7")}`
          })
        )
      )
      const [line = ""] = lines
      assert.notMatch(line, /planted|ted\/1|ted%2F1|whatever|cGxhbnRlZC/)
      assert.deepStrictEqual(parse(line).list, ["[redacted]", { deep: "[redacted] again" }])
    })
  )
})
