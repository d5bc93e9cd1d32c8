import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import * as TestServer from "../support/TestServer.ts"
import { assertIds, assertProblem, call, type Json } from "./Client.ts"
import { endpoints, seededSession } from "./Endpoints.ts"
import { assertShape } from "./Shape.ts"

const seed = call("/api/v1/chat", { body: { message: "Hello", session_id: seededSession } })

/** The objects in the `data:` lines of an event stream. */
const eventsOf = (text: string): ReadonlyArray<Json> =>
  text
    .split("\n")
    .filter((line) => line.startsWith("data: "))
    .map((line) => JSON.parse(line.slice("data: ".length)))

const trace = "0af7651916cd43dd8448eb211c80319c"
const traceparent = `00-${trace}-b7ad6b7169203331-01`

layer(
  TestServer.layer(() => Reply.text("Hello there.")),
  { excludeTestServices: true }
)("the contract", (it) => {
  for (const { body, name, nulls, path, shape } of endpoints) {
    const url = `/api/v1${path}`
    it.effect(`${name} answers in its exact shape`, () =>
      Effect.gen(function* () {
        yield* seed
        const answer = yield* call(url, { body })
        assert.strictEqual(answer.status, 200, answer.text)
        assert.strictEqual(answer.headers.get("content-type"), "application/json")
        assertShape(answer.body, shape)
        assertIds(answer)
        assert.match(answer.headers.get("x-request-id") ?? "", /^req_[0-9a-f]{32}$/)
      })
    )

    it.effect(`${name} takes a trailing slash, unknown parameters and fields, and null for absent`, () =>
      Effect.gen(function* () {
        yield* seed
        const unknown = { unknown: { a: [1] } }
        const answer = yield* call(`${url}/?t=1732280000000&unknown=%F0%9F%98%80&a=1&a=2&%zz`, {
          body: Array.isArray(body)
            ? body.map((member) => ({ ...member, ...unknown }))
            : body && { ...body, ...nulls, ...unknown },
          headers: { "x-request-id": "mine-1", traceparent }
        })
        assert.strictEqual(answer.status, 200, answer.text)
        assertShape(answer.body, shape)
        assert.strictEqual(answer.headers.get("x-request-id"), "mine-1")
        assert.strictEqual(assertIds(answer), trace)
      })
    )

    if (body !== undefined) continue
    it.effect(`HEAD for ${name} has the same headers, and no body`, () =>
      Effect.gen(function* () {
        yield* seed
        const answer = yield* call(url, { method: "HEAD" })
        assert.strictEqual(answer.status, 200)
        assert.strictEqual(answer.headers.get("content-type"), "application/json")
        assert.strictEqual(answer.text, "")
        assertIds(answer)
      })
    )
  }

  it.effect("a request id that is no fit for a header, and a broken traceparent, are replaced", () =>
    Effect.gen(function* () {
      for (const broken of [
        "garbage",
        `00-${"0".repeat(32)}-b7ad6b7169203331-01`,
        `00-${trace}-${"0".repeat(16)}-01`,
        `00-${trace.toUpperCase()}-b7ad6b7169203331-01`
      ]) {
        const answer = yield* call("/api/v1/health/live", {
          headers: { traceparent: broken, "x-request-id": "a".repeat(129) }
        })
        assert.notStrictEqual(assertIds(answer), trace)
        assert.match(answer.headers.get("x-request-id") ?? "", /^req_/)
      }
    })
  )

  it.effect("a problem's trace id is that of its traceparent header, continued from the caller's", () =>
    Effect.gen(function* () {
      for (const path of ["/api/v1/session/nobody", "/api/v1/nowhere", "/api/v1/chat/history/a?limit=0"]) {
        const { body } = yield* call(path, { headers: { traceparent, "x-request-id": "mine-2" } })
        assert.strictEqual(body.trace_id, trace)
        assert.strictEqual(body.request_id, "mine-2")
      }
    })
  )

  for (const [name, path, body] of [
    ["POST /chat with stream", "/chat", { message: "Hello", stream: true }],
    ["POST /chat/stream", "/chat/stream", { message: "Hello" }],
    ["GET /chat/stream", "/chat/stream?message=Hello&t=1", undefined],
    [
      "GET /chat/stream/",
      "/chat/stream/?message=Hello&session_id=by-query&user_id=u&model_variant=fast",
      undefined
    ]
  ] as const) {
    it.effect(`${name} answers with events, in the trace its traceparent tells`, () =>
      Effect.gen(function* () {
        const continued = yield* call(`/api/v1${path}`, { body, headers: { traceparent } })
        const fresh = yield* call(`/api/v1${path}`, { body })
        assert.strictEqual(assertIds(continued), trace)
        for (const answer of [continued, fresh]) {
          assert.strictEqual(answer.status, 200, answer.text)
          assert.strictEqual(answer.headers.get("content-type"), "text/event-stream")
          assert.match(answer.headers.get("cache-control") ?? "", /no-cache/)
          const end = eventsOf(answer.text).at(-1)
          assert.strictEqual(end.type, "end")
          assert.strictEqual(end.metadata.trace_id, assertIds(answer))
          assert.strictEqual(answer.headers.get("x-session-id"), end.session_id)
        }
      })
    )
  }

  it.effect("a turn's trace id is the one of its response, without a stream too", () =>
    Effect.gen(function* () {
      const answer = yield* call("/api/v1/conversation/message", {
        body: { text: "Hi", output_mode: "both" }
      })
      assert.strictEqual(answer.body.agent_metadata.trace_id, assertIds(answer))
    })
  )

  it.effect("HEAD starts no turn", () =>
    Effect.gen(function* () {
      const answer = yield* call("/api/v1/chat/stream?message=Hello&session_id=by-head", { method: "HEAD" })
      assert.strictEqual(answer.status, 405)
      assert.strictEqual(answer.headers.get("allow"), "POST, GET")
      const { body } = yield* call("/api/v1/chat/history/by-head")
      assert.strictEqual(body.total_count, 0)
    })
  )

  for (const path of ["/", "/docs", "/docs/"]) {
    it.effect(`${path} answers HTML`, () =>
      Effect.gen(function* () {
        const answer = yield* call(path)
        assert.strictEqual(answer.status, 200)
        assert.match(answer.headers.get("content-type") ?? "", /^text\/html/)
        assert.match(answer.text, /^<!doctype html>/i)
        assertIds(answer)
      })
    )
  }

  it.effect("/metrics answers Prometheus's text", () =>
    Effect.gen(function* () {
      yield* call("/api/v1/tools/execute/calculator", { body: { expression: "1" } })
      for (const path of ["/metrics", "/metrics/?t=1"]) {
        const answer = yield* call(path)
        assert.strictEqual(answer.status, 200)
        assert.strictEqual(answer.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8")
        assertIds(answer)
        assert.match(answer.text, /^# TYPE tool_calls_total counter$/m)
        for (const line of answer.text.trimEnd().split("\n")) {
          assert.match(line, /^(# (TYPE|HELP) \w+ .+|\w+(\{.*\})? (-?[\d.e+-]+|[+-]Inf|NaN))$|^$/)
        }
      }
    })
  )

  it.effect("an address of WebSockets tells other clients so", () =>
    Effect.gen(function* () {
      for (const path of ["/ws", "/api/v1/chat/ws", "/api/v1/chat/ws/"]) {
        const answer = yield* call(path)
        assertProblem(answer, { status: 426, code: "UPGRADE_REQUIRED" })
        assert.strictEqual(answer.headers.get("upgrade"), "websocket")
      }
    })
  )
})
