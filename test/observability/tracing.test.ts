import { NodeHttpClient } from "@effect/platform-node"
import { assert, describe, layer } from "@effect/vitest"
import { ConfigProvider, Effect, Layer } from "effect"
import { Reply, type ScriptedReply } from "voice-agent-api/testing"
import { AppConfig } from "../../src/Config.ts"
import { Tools } from "../../src/tools/Tools.ts"
import { makeAgentTools } from "../support/AgentTools.ts"
import { ask, openSocket, openStream } from "../support/ChatClient.ts"
import { json, makeHttpRecorder } from "../support/HttpRecorder.ts"
import { make, named, TracedApp, textOf, traceOf, treeOf } from "./TracedApp.ts"

const twoTools: ReadonlyArray<ScriptedReply> = [
  Reply.toolCalls([
    { id: "call_a", name: "calculator", arguments: { expression: "1234567+1" } },
    { id: "call_b", name: "get_time", arguments: { timezone: "Asia/Kathmandu" } }
  ]),
  Reply.text("Your marigold sum is done.")
]
const message = "Please add the periwinkle numbers"

/** What a turn with two tools looks like, whoever asks for it. */
const turn = [
  "api.send_message",
  "  agent.process_message",
  "    agent.build_messages",
  "    agent.call_llm",
  "      POST",
  "    agent.handle_tools",
  "      tool.execute",
  "        tool.calculate",
  "      tool.execute",
  "        tool.get_time",
  "    agent.build_messages",
  "    agent.call_llm",
  "      POST",
  "    agent.format_response"
]
const under = (root: string) => [root, ...turn.map((line) => `  ${line}`)]

const sendMessage = "api.send_message"
const parent = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7" }

/** The names of a span's attributes, less those that all have. */
const keysOf = (span: { readonly attributes: Readonly<Record<string, unknown>> } | undefined) =>
  Object.keys(span?.attributes ?? {}).filter((key) => key !== "duration_ms")

const tools = makeAgentTools()

layer(TracedApp.layer([], { tools: tools.layer }), { excludeTestServices: true })("tracing", (it) => {
  describe("a turn with two tools is one tree", () => {
    it.effect("over SSE, under the request's span", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        model.push(...twoTools)
        const stream = yield* openStream(`${url}/api/v1/chat/stream`, { message, session_id: "sse" })
        const end = yield* stream.until("end")
        const spans = yield* traceOf(otlp, end.metadata.trace_id, "POST /api/v1/chat/stream")
        assert.deepStrictEqual(treeOf(spans), under("POST /api/v1/chat/stream"))
      })
    )

    it.effect("in JSON, under the request's span", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        model.push(...twoTools)
        const { headers } = yield* ask(`${url}/api/v1/chat`, { message, session_id: "json" })
        const [, traceId = "", spanId] = headers.get("traceparent")?.split("-") ?? []
        const spans = yield* traceOf(otlp, traceId, "POST /api/v1/chat")
        assert.deepStrictEqual(treeOf(spans), under("POST /api/v1/chat"))
        assert.strictEqual(named(spans, "POST /api/v1/chat")[0]?.spanId, spanId)
      })
    )

    it.effect("over WebSocket, one trace for each turn and none of the connection's", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        const socket = yield* openSocket(url)
        const ids: Array<string> = []
        for (const session_id of ["ws-1", "ws-2"]) {
          model.push(...twoTools)
          yield* socket.send({ message, session_id })
          const end = yield* socket.until("end")
          ids.push(end.metadata.trace_id)
          const spans = yield* traceOf(otlp, end.metadata.trace_id, sendMessage)
          assert.deepStrictEqual(treeOf(spans), turn)
          assert.isUndefined(named(spans, sendMessage)[0]?.parentSpanId)
          assert.isAtLeast(named(spans, "database.query").length, 2)
        }
        assert.strictEqual(new Set(ids).size, 2)
        yield* socket.leave
        const connection = yield* otlp.until((spans) =>
          spans.some((span) => span.name === "GET /api/v1/chat/ws")
        )
        const [request] = named(connection, "GET /api/v1/chat/ws")
        assert.notInclude(ids, request?.traceId)
        assert.strictEqual(request?.attributes["http.response.status_code"], 101)
        assert.lengthOf(
          connection.filter((span) => span.traceId === request?.traceId),
          1
        )
      })
    )
  })

  it.effect("every span has its attributes, and no more", () =>
    Effect.gen(function* () {
      const { model, otlp, url } = yield* TracedApp
      model.push(...twoTools)
      const stream = yield* openStream(`${url}/api/v1/chat/stream`, {
        message,
        session_id: "attributes",
        user_id: "u-1",
        model_config: { model: "other-model", temperature: 0.5, max_tokens: 100 }
      })
      const start = yield* stream.until("start")
      const end = yield* stream.until("end")
      const spans = yield* traceOf(otlp, end.metadata.trace_id, "POST /api/v1/chat/stream")
      const attributesOf = (name: string, index = 0) => {
        const { duration_ms, ...rest } = named(spans, name)[index]?.attributes ?? {}
        assert.isAtLeast(Number(duration_ms), 0)
        return rest
      }
      for (const span of spans) {
        const millis = Number(span.endNanos - span.startNanos) / 1e6
        assert.approximately(Number(span.attributes.duration_ms), millis, 0.01, span.name)
        assert.strictEqual(span.status.code, "ok", span.name)
      }

      assert.deepStrictEqual(keysOf(named(spans, "POST /api/v1/chat/stream")[0]), [
        "http.route",
        "http.request.method",
        "url.path",
        "url.scheme",
        "server.address",
        "server.port",
        "user_agent.original",
        "http.response.status_code"
      ])
      assert.strictEqual(named(spans, "POST /api/v1/chat/stream")[0]?.kind, "server")
      assert.deepStrictEqual(attributesOf(sendMessage), { session_id: "attributes", turn_id: start.turn_id })
      assert.deepStrictEqual(attributesOf("agent.process_message"), {
        session_id: "attributes",
        user_id: "u-1",
        input_length: message.length,
        tool_calls_count: 2,
        response_length: "Your marigold sum is done.".length
      })

      const { "gen_ai.response.time_to_first_chunk": firstChunk, ...asked } = attributesOf("agent.call_llm")
      assert.isAbove(Number(firstChunk), 0)
      assert.isBelow(Number(firstChunk), 20)
      assert.deepStrictEqual(asked, {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "other-model",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.conversation.id": "attributes",
        "gen_ai.output.type": "text",
        "gen_ai.response.model": "other-model",
        "gen_ai.response.finish_reasons": ["tool_calls"],
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 6
      })
      assert.deepStrictEqual(attributesOf("agent.call_llm", 1)["gen_ai.response.finish_reasons"], ["stop"])
      assert.strictEqual(named(spans, "agent.call_llm")[0]?.kind, "client")

      const [request] = named(spans, "POST")
      assert.strictEqual(request?.kind, "client")
      assert.strictEqual(request?.attributes["url.full"], `${model.baseUrl}/chat/completions`)
      assert.strictEqual(request?.attributes["http.response.status_code"], 200)

      for (const [name, tool, call] of [
        ["tool.calculate", "calculator", "call_a"],
        ["tool.get_time", "get_time", "call_b"]
      ] as const) {
        assert.deepStrictEqual(attributesOf(name), {
          "gen_ai.operation.name": "execute_tool",
          "gen_ai.tool.name": tool,
          "gen_ai.tool.call.id": call,
          success: true
        })
      }

      for (const query of named(spans, "database.query")) {
        assert.strictEqual(query.kind, "client")
        assert.sameMembers(keysOf(query), [
          "db.system.name",
          "db.query.fingerprint",
          "db.query.summary",
          "db.client.connection.wait_time_ms"
        ])
        assert.strictEqual(query.attributes["db.system.name"], "postgresql")
        assert.match(String(query.attributes["db.query.fingerprint"]), /^[0-9a-f]{16}$/)
      }
    })
  )

  it.effect("a statement has the same fingerprint every time, whatever its parameters", () =>
    Effect.gen(function* () {
      const { model, otlp, url } = yield* TracedApp
      const prints: Array<ReadonlyArray<unknown>> = []
      for (const session_id of ["print-1", "print-2"]) {
        model.push(Reply.text("Yes."))
        const { headers } = yield* ask(`${url}/api/v1/chat`, { message: session_id, session_id })
        const traceId = headers.get("traceparent")?.split("-")[1] ?? ""
        const spans = yield* traceOf(otlp, traceId, "POST /api/v1/chat")
        prints.push(named(spans, "database.query").map((span) => span.attributes["db.query.fingerprint"]))
      }
      assert.deepStrictEqual(prints[0], prints[1])
      assert.strictEqual(new Set(prints[0]).size, prints[0]?.length)
    })
  )

  it.effect("carries no message text, no tool arguments and no parameters", () =>
    Effect.gen(function* () {
      const { model, otlp, url } = yield* TracedApp
      model.push(...twoTools)
      const context = { favourite: "hollyhock" }
      const stream = yield* openStream(`${url}/api/v1/chat/stream`, { message, context })
      yield* stream.all
      model.push(Reply.text("Your marigold again."))
      const query = new URLSearchParams({ message, session_id: "by-query" })
      const byQuery = yield* openStream(`${url}/api/v1/chat/stream?${query}`)
      const end = yield* byQuery.until("end")
      yield* traceOf(otlp, end.metadata.trace_id, "GET /api/v1/chat/stream")
      for (const word of ["periwinkle", "marigold", "hollyhock", "1234567", "Kathmandu"]) {
        assert.notInclude(textOf(otlp.spans), word)
      }
    })
  )

  it.effect("continues the caller's trace, and names it in the answer", () =>
    Effect.gen(function* () {
      const { model, otlp, url } = yield* TracedApp
      model.push(Reply.text("Yes."))
      const headers = { traceparent: `00-${parent.traceId}-${parent.spanId}-01` }
      const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi`, undefined, { headers })
      const end = yield* stream.until("end")
      assert.strictEqual(end.metadata.trace_id, parent.traceId)
      const spans = yield* traceOf(otlp, parent.traceId, "GET /api/v1/chat/stream")
      const [request] = named(spans, "GET /api/v1/chat/stream")
      assert.strictEqual(request?.parentSpanId, parent.spanId)
      assert.strictEqual(stream.headers.get("traceparent"), `00-${parent.traceId}-${request?.spanId}-01`)
    })
  )

  it.effect("keeps to a caller's choice not to sample", () =>
    Effect.gen(function* () {
      const { model, otlp, url } = yield* TracedApp
      model.push(Reply.text("Yes."), Reply.text("Yes."))
      const traceId = "0af7651916cd43dd8448eb211c80319c"
      const answer = yield* ask(
        `${url}/api/v1/chat`,
        { message: "hi" },
        {
          headers: {
            "content-type": "application/json",
            traceparent: `00-${traceId}-${parent.spanId}-00`
          }
        }
      )
      assert.match(answer.headers.get("traceparent") ?? "", new RegExp(`^00-${traceId}-[0-9a-f]{16}-00$`))
      const after = yield* ask(`${url}/api/v1/chat`, { message: "hi" })
      yield* traceOf(otlp, after.headers.get("traceparent")?.split("-")[1] ?? "", "POST /api/v1/chat")
      assert.isFalse(otlp.spans.some((span) => span.traceId === traceId))
    })
  )

  it.effect("names the trace on every answer, matched or not, well or not", () =>
    Effect.gen(function* () {
      const { url } = yield* TracedApp
      for (const path of [
        "/",
        "/nothing",
        "/api/v1/health",
        "/metrics",
        "/api/v1/turns/x/trace",
        "/openapi.json"
      ]) {
        const { body, headers, status } = yield* ask(`${url}${path}`)
        const [, traceId] = headers.get("traceparent")?.match(/^00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]$/) ?? []
        assert.isDefined(traceId, path)
        if (status >= 400) assert.strictEqual(body.trace_id, traceId, path)
      }
    })
  )

  it.effect("leaves out what is asked every few seconds", () =>
    Effect.gen(function* () {
      const { otlp, url } = yield* TracedApp
      const probes = ["/metrics", "/api/v1/health", "/api/v1/health/live", "/api/v1/health/ready"]
      const strays = () =>
        otlp.spans.filter(
          (span) =>
            probes.includes(String(span.attributes["url.path"])) ||
            (span.name === "database.query" && span.parentSpanId === undefined)
        ).length
      const before = strays()
      for (const path of probes) yield* ask(`${url}${path}`)
      const { headers } = yield* ask(`${url}/api/v1/info`)
      yield* traceOf(otlp, headers.get("traceparent")?.split("-")[1] ?? "", "GET /api/v1/info")
      assert.strictEqual(strays(), before)
    })
  )

  describe("what fails says so", () => {
    it.effect("a model that refuses", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        model.push(Reply.status(401, { body: { error: { message: "No answer to: hi, marigold" } } }))
        const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi,+marigold`)
        yield* stream.until("error")
        const traceId = stream.headers.get("traceparent")?.split("-")[1] ?? ""
        const spans = yield* traceOf(otlp, traceId, "GET /api/v1/chat/stream")
        const told = Object.fromEntries(
          spans
            .filter((span) => span.status.code === "error")
            .map((span) => [span.name, [span.attributes["error.type"], span.attributes["error.message"]]])
        )
        assert.deepStrictEqual(told["agent.call_llm"], ["LlmUnavailable", "scripted: rejected"])
        assert.deepStrictEqual(told["agent.process_message"], ["LlmUnavailable", "scripted: rejected"])
        assert.deepStrictEqual(told[sendMessage], [
          "TurnFailed",
          "The language model is not available at the moment."
        ])
        assert.deepStrictEqual(told.POST, ["AuthenticationError", "the model's server failed"])
        assert.strictEqual(named(spans, "POST")[0]?.attributes["http.response.status_code"], 401)
        assert.notInclude(textOf(spans), "marigold")
      })
    )

    it.effect("a tool that fails, while the turn does not", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        model.push(
          Reply.toolCalls([
            { name: "fail", arguments: {} },
            { name: "explode", arguments: {} },
            { name: "calculator", arguments: { expression: 7 } }
          ]),
          Reply.text("That went wrong.")
        )
        const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi`)
        const end = yield* stream.until("end")
        const spans = yield* traceOf(otlp, end.metadata.trace_id, "GET /api/v1/chat/stream")
        const told = named(spans, "tool.execute").map((span) => [
          span.status.code,
          span.attributes["error.type"],
          span.attributes["error.message"]
        ])
        assert.deepStrictEqual(told, [
          ["error", "failed", "the tool failed"],
          ["error", "unexpected", "the tool failed unexpectedly"],
          ["error", "invalid_arguments", "wrong arguments: expression"]
        ])
        assert.notInclude(textOf(spans), "The tap is closed")
        assert.notInclude(textOf(spans), "secret of the implementation")
        assert.strictEqual(named(spans, sendMessage)[0]?.status.code, "ok")
      })
    )

    it.effect("a turn that is cancelled has not failed", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        model.push(Reply.text(["One", " two"], { fault: { after: 1, kind: "hang" } }))
        const socket = yield* openSocket(url)
        yield* socket.send({ message: "hi", session_id: "cancelled" })
        yield* socket.until("delta")
        yield* socket.send({ type: "cancel" })
        yield* socket.until("cancelled")
        const spans = yield* otlp.until((spans) =>
          spans.some((span) => span.name === sendMessage && span.attributes.session_id === "cancelled")
        )
        const [call] = named(spans, "agent.call_llm").filter(
          (span) => span.attributes["gen_ai.conversation.id"] === "cancelled"
        )
        assert.strictEqual(call?.attributes["effect.fiber.interrupted"], true)
        assert.notStrictEqual(call?.status.code, "error")
        assert.isUndefined(call?.attributes["error.type"])
      })
    )

    it.effect("retries are events of the call", () =>
      Effect.gen(function* () {
        const { model, otlp, url } = yield* TracedApp
        model.push(Reply.status(503), Reply.text("At last."))
        const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi`)
        const end = yield* stream.until("end")
        const spans = yield* traceOf(otlp, end.metadata.trace_id, "GET /api/v1/chat/stream")
        const [retry] = named(spans, "agent.call_llm")[0]?.events ?? []
        assert.strictEqual(retry?.name, "llm.retry")
        assert.strictEqual(retry?.attributes.reason, "server_error")
        assert.strictEqual(retry?.attributes.attempt, 1)
        assert.deepStrictEqual(
          named(spans, "POST").map((span) => [
            span.status.code,
            span.attributes["http.response.status_code"]
          ]),
          [
            ["error", 503],
            ["ok", 200]
          ]
        )
      })
    )
  })

  it.effect("sends the model trace headers only where configured", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TracedApp
      model.push(Reply.text("Yes."))
      yield* ask(`${url}/api/v1/chat`, { message: "hi" })
      assert.isUndefined(model.requests.at(-1)?.headers.traceparent)

      const app = yield* make([Reply.text("Yes.")], { settings: { TRACE_PROPAGATE_TO: "127.0.0.1" } })
      const { headers } = yield* ask(`${app.url}/api/v1/chat`, { message: "hi" })
      const traceId = headers.get("traceparent")?.split("-")[1] ?? ""
      const spans = yield* traceOf(app.otlp, traceId, "POST /api/v1/chat")
      const [request] = named(spans, "POST")
      assert.strictEqual(app.model.requests[0]?.headers.traceparent, `00-${traceId}-${request?.spanId}-01`)
    })
  )

  it.effect("shows a tool's request without its query, and sends trace headers only where configured", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      for (const propagateTo of ["", "elsewhere, 127.0.0.1"]) {
        upstream.script(json({ results: [] }))
        const app = yield* make(
          [
            Reply.toolCalls([{ name: "get_weather", arguments: { location: "Marigold Bay" } }]),
            Reply.text("Who knows.")
          ],
          {
            settings: { TRACE_PROPAGATE_TO: propagateTo },
            tools: Tools.layerWith({
              openMeteo: { geocoding: `${upstream.url}/geo`, forecast: `${upstream.url}/forecast` }
            }).pipe(
              Layer.provide([
                NodeHttpClient.layerUndici,
                AppConfig.layer.pipe(
                  Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))),
                  Layer.orDie
                )
              ])
            )
          }
        )
        const { headers } = yield* ask(`${app.url}/api/v1/chat`, { message: "hi" })
        const traceId = headers.get("traceparent")?.split("-")[1] ?? ""
        const spans = yield* traceOf(app.otlp, traceId, "POST /api/v1/chat")
        const [request] = named(spans, "GET")
        assert.strictEqual(request?.kind, "client")
        assert.strictEqual(request?.parentSpanId, named(spans, "tool.get_weather")[0]?.spanId)
        assert.strictEqual(request?.attributes["url.full"], `${upstream.url}/geo`)
        assert.notInclude(textOf(spans), "Marigold")
        assert.strictEqual(
          upstream.requests.at(-1)?.headers.traceparent,
          propagateTo === "" ? undefined : `00-${traceId}-${request?.spanId}-01`
        )
      }
    })
  )

  it.effect("shows messages and arguments with TRACE_CONTENT=true", () =>
    Effect.gen(function* () {
      const app = yield* make(twoTools, { settings: { TRACE_CONTENT: "true" } })
      const { headers } = yield* ask(`${app.url}/api/v1/chat`, { message })
      const traceId = headers.get("traceparent")?.split("-")[1] ?? ""
      const spans = yield* traceOf(app.otlp, traceId, "POST /api/v1/chat")
      const [first, second] = named(spans, "agent.call_llm")
      assert.include(String(first?.attributes["gen_ai.input.messages"]), message)
      assert.strictEqual(second?.attributes["gen_ai.output.messages"], "Your marigold sum is done.")
      assert.strictEqual(
        named(spans, "tool.execute")[0]?.attributes["gen_ai.tool.call.arguments"],
        `{"expression":"1234567+1"}`
      )
    })
  )
})
