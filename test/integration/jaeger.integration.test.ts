import { randomBytes } from "node:crypto"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import { makeAgentTools } from "../support/AgentTools.ts"
import { TestApp } from "../support/AppServer.ts"
import { eventsOf, openStream } from "../support/ChatClient.ts"
import { awaitTrace, type Jaeger, type JaegerSpan, jaeger } from "./Jaeger.ts"

/** A turn that is asked again once, calls two tools at once, and answers. */
const script = [
  Reply.status(503),
  Reply.toolCalls([
    { name: "calculator", arguments: { expression: "6 * 7" } },
    { name: "get_time", arguments: { timezone: "Europe/Vienna" } }
  ]),
  Reply.text(["Forty-", "two."])
]

const isTurn = ({ name }: JaegerSpan) =>
  name.startsWith("api.") || name.startsWith("agent.") || name.startsWith("tool.")

const treeOf = (spans: ReadonlyArray<JaegerSpan>) =>
  spans
    .filter(isTurn)
    .map(({ name, parent }) => `${parent ?? ""} > ${name}`)
    .sort()

const turnInJaeger = (jaeger: Jaeger) =>
  Effect.gen(function* () {
    const { url } = yield* TestApp
    const traceId = randomBytes(16).toString("hex")
    const session_id = `jaeger-${traceId}`
    const stream = yield* openStream(
      `${url}/api/v1/chat/stream`,
      { message: "What is 6 * 7?", session_id },
      {
        headers: {
          "content-type": "application/json",
          traceparent: `00-${traceId}-${randomBytes(8).toString("hex")}-01`
        }
      }
    )
    const events = yield* stream.all
    assert.strictEqual(eventsOf(events, "end")[0]?.metadata.trace_id, traceId)

    const expected = [
      "POST /api/v1/chat/stream > api.send_message",
      "api.send_message > agent.process_message",
      "agent.process_message > agent.call_llm",
      "agent.process_message > agent.call_llm",
      "agent.process_message > agent.build_messages",
      "agent.process_message > agent.build_messages",
      "agent.process_message > agent.handle_tools",
      "agent.handle_tools > tool.execute",
      "agent.handle_tools > tool.execute",
      "tool.execute > tool.calculate",
      "tool.execute > tool.get_time",
      "agent.process_message > agent.format_response"
    ].sort()
    const spans = yield* awaitTrace(
      jaeger,
      traceId,
      (spans) =>
        treeOf(spans).length === expected.length &&
        spans.some(({ name }) => name === "POST /api/v1/chat/stream")
    )
    assert.isDefined(spans, "the trace did not arrive")
    if (spans === undefined) return
    assert.deepStrictEqual(treeOf(spans), expected)

    const named = (name: string) => spans.filter((span) => span.name === name)
    for (const span of spans.filter(isTurn)) {
      assert.strictEqual(span.service, "voice-agent-api")
      assert.isNumber(span.tags.duration_ms, span.name)
      assert.strictEqual(span.resource["deployment.environment.name"], "integration")
    }
    assert.isNotEmpty(named("database.query"))
    const [turn] = named("agent.process_message")
    assert.include(turn?.tags, { session_id, input_length: 14, tool_calls_count: 2, response_length: 10 })
    const calls = named("agent.call_llm")
    for (const { tags } of calls) {
      assert.include(tags, {
        "span.kind": "client",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.response.model": "scripted"
      })
    }
    // What was tried again is told with the call, and each request is a span of its own.
    assert.deepStrictEqual(
      calls.flatMap(({ events }) => events).map(({ attempt, event, reason }) => ({ attempt, event, reason })),
      [{ attempt: 1, event: "llm.retry", reason: "server_error" }]
    )
    assert.deepStrictEqual(
      spans
        .filter(({ parent }) => parent === "agent.call_llm")
        .flatMap(({ tags }) => tags["http.response.status_code"] ?? [])
        .sort(),
      [200, 200, 503]
    )
    assert.deepStrictEqual(
      named("tool.execute")
        .map(({ tags }) => tags["gen_ai.tool.name"])
        .sort(),
      ["calculator", "get_time"]
    )
    // Nothing that was said.
    assert.notInclude(JSON.stringify(spans), "6 * 7")
    assert.notInclude(JSON.stringify(spans), "Forty-")
  }).pipe(
    Effect.provide(
      TestApp.layer(script, {
        tools: makeAgentTools().layer,
        settings: {
          OTEL_EXPORTER_OTLP_ENDPOINT: jaeger.otlpUrl,
          DEPLOYMENT_ENVIRONMENT: "integration",
          LLM_RETRY_DELAY: "10 millis"
        }
      })
    )
  )

describe.skipIf(jaeger === undefined)("Jaeger", () => {
  it.live("shows the whole tree of a turn that was sent to it by OTLP gRPC", () =>
    jaeger === undefined ? Effect.void : turnInJaeger(jaeger)
  )
})
