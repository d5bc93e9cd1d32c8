import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply, type ScriptedRequestBody } from "voice-agent-api/testing"
import * as TestServer from "../support/TestServer.ts"
import { assertProblem, call, type Json } from "./Client.ts"
import { history, mintedSession } from "./Endpoints.ts"
import { assertShape } from "./Shape.ts"

/** `sum` makes it call a tool; the model named `down` is never available. */
const script = ({ messages, model }: ScriptedRequestBody) => {
  if (model === "down") return Reply.status(503, { headers: { "retry-after-ms": "1" } })
  const last = messages.at(-1)
  return last?.role === "user" && last.content === "sum"
    ? Reply.toolCalls([{ name: "calculator", arguments: { expression: "6*7" } }])
    : Reply.text("Hello there.")
}

const settings = { LLM_MODEL: "plain", LLM_MODEL_FAST: "quick", LLM_MODEL_CREATIVE: "vivid" }

const chat = (body: object) => call("/api/v1/chat", { body: { message: "Hello", ...body } })

layer(TestServer.layer(script, settings), { excludeTestServices: true })("the behaviour", (it) => {
  it.effect("POST /chat keeps the client's session, trims the message and counts tool calls", () =>
    Effect.gen(function* () {
      const { body } = yield* chat({
        message: "  sum\n",
        session_id: "tools",
        user_id: "ann",
        context: { a: 1 }
      })
      assert.strictEqual(body.session_id, "tools")
      assert.strictEqual(body.response, "Hello there.")
      assert.strictEqual(body.tool_calls, 1)
      const kept = yield* call("/api/v1/chat/history/tools")
      assert.deepStrictEqual(
        kept.body.messages.map(({ content, role }: Json) => [role, content]),
        [
          ["user", "sum"],
          ["assistant", "Hello there."]
        ]
      )
      assert.strictEqual(kept.body.messages[1].id, body.message_id)
      const { body: session } = yield* call("/api/v1/session/tools")
      assert.strictEqual(session.session.user_id, "ann")
      assert.strictEqual(session.session.message_count, 2)
    })
  )

  it.effect("POST /chat takes a variant; settings win, under any of their names", () =>
    Effect.gen(function* () {
      const { model } = yield* TestServer.TestServer
      const asked = Effect.fnUntraced(function* (body: object) {
        yield* chat(body)
        return model.requests.at(-1)?.body
      })
      assert.strictEqual((yield* asked({}))?.model, "plain")
      assert.strictEqual((yield* asked({ model_variant: "default" }))?.model, "plain")
      assert.strictEqual((yield* asked({ model_variant: "fast" }))?.model, "quick")
      assert.strictEqual((yield* asked({ model_variant: "creative" }))?.model, "vivid")
      for (const name of ["model_params", "model_config", "model_config_override"]) {
        const sent = yield* asked({
          model_variant: "fast",
          [name]: { model: "chosen", temperature: 0, max_tokens: 7 }
        })
        assert.strictEqual(sent?.model, "chosen", name)
        assert.strictEqual(sent?.temperature, 0, name)
        assert.strictEqual(sent?.max_completion_tokens ?? sent?.max_tokens, 7, name)
        assert.strictEqual(
          (yield* asked({ model_variant: "fast", [name]: { temperature: 2 } }))?.model,
          "quick"
        )
      }
    })
  )

  it.effect("POST /chat without an available model: an apology, not a 500, and the message is kept", () =>
    Effect.gen(function* () {
      const answer = yield* chat({ session_id: "down", model_params: { model: "down" } })
      assert.strictEqual(answer.status, 200)
      assertShape(answer.body, {
        success: "boolean",
        response: /sorry/i,
        session_id: /^down$/,
        message_id: "null",
        timestamp: "timestamp",
        intent: "text",
        confidence: "number",
        tool_calls: "integer",
        processing_time_ms: "number",
        error: "text",
        error_code: /^LLM_UNAVAILABLE$/
      })
      assert.isFalse(answer.body.success)
      const { body } = yield* call("/api/v1/chat/history/down")
      assert.deepStrictEqual(
        body.messages.map(({ content, role }: Json) => [role, content]),
        [["user", "Hello"]]
      )
    })
  )

  it.effect("an EventSource that connects again is told to stop, and its message is not answered twice", () =>
    Effect.gen(function* () {
      const path = "/api/v1/chat/stream?message=once&session_id=once"
      const first = yield* call(path)
      assert.strictEqual(first.status, 200)
      const [id] = /^id: (.+)$/m.exec(first.text)?.slice(1) ?? []
      assert.isDefined(id)
      const again = yield* call(path, { headers: { "last-event-id": id ?? "" } })
      assert.strictEqual(again.status, 204)
      const { body } = yield* call("/api/v1/chat/history/once")
      assert.deepStrictEqual(
        body.messages.map(({ content }: Json) => content),
        ["once", "Hello there."]
      )
    })
  )

  it.effect("the history is oldest first, in pages", () =>
    Effect.gen(function* () {
      for (const message of ["one", "two", "three"]) yield* chat({ message, session_id: "pages" })
      const page = (query: string) =>
        Effect.map(call(`/api/v1/chat/history/pages${query}`), ({ body }) => body)
      const contents = ({ messages }: Json) => messages.map(({ content }: Json) => content)
      const all = ["one", "Hello there.", "two", "Hello there.", "three", "Hello there."]

      const whole = yield* page("")
      assert.deepStrictEqual(contents(whole), all)
      assert.deepStrictEqual([whole.total_count, whole.has_more], [6, false])
      const times = whole.messages.map(({ timestamp }: Json) => timestamp)
      assert.deepStrictEqual(times, times.toSorted())

      for (const [query, from, to, more] of [
        ["?limit=2", 0, 2, true],
        ["?limit=2&offset=2", 2, 4, true],
        ["?limit=2&offset=4", 4, 6, false],
        ["?limit=200&offset=5", 5, 6, false],
        ["?offset=6", 6, 6, false],
        ["?offset=1000000", 6, 6, false]
      ] as const) {
        const part = yield* page(query)
        assert.deepStrictEqual(contents(part), all.slice(from, to), query)
        assert.deepStrictEqual([part.total_count, part.has_more], [6, more], query)
      }

      for (const yes of ["true", "True", "1"]) {
        assertShape(yield* page(`?include_metadata=${yes}`), history("object"))
      }
      for (const no of ["false", "False", "0"]) {
        assertShape(yield* page(`?include_metadata=${no}`), history("null"))
      }
    })
  )

  it.effect("a session without messages has an empty history", () =>
    Effect.gen(function* () {
      const { body, status } = yield* call("/api/v1/chat/history/never-used")
      assert.strictEqual(status, 200)
      assert.deepStrictEqual(body, {
        success: true,
        session_id: "never-used",
        messages: [],
        total_count: 0,
        has_more: false,
        error: null
      })
    })
  )

  it.effect("a session is made, found, and deleted once, with its messages", () =>
    Effect.gen(function* () {
      const made = yield* call("/api/v1/session", {
        body: { user_id: "ann", initial_context: { a: [1, null] } }
      })
      const { session } = made.body
      assert.match(session.session_id, mintedSession)
      assert.strictEqual(session.user_id, "ann")
      assert.strictEqual(session.message_count, 0)
      const url = `/api/v1/session/${session.session_id}`
      assert.deepStrictEqual((yield* call(url)).body.session, session)

      yield* chat({ session_id: session.session_id })
      const used = (yield* call(url)).body.session
      assert.strictEqual(used.message_count, 2)
      assert.isTrue(used.last_activity > session.last_activity)
      const kept = yield* call(`${url}/history?limit=1`)
      assert.deepStrictEqual(kept.body.messages.length, 1)

      const deleted = yield* call(url, { method: "DELETE" })
      assert.strictEqual(deleted.status, 200)
      assertShape(deleted.body, { success: "true", message: "text", session_id: mintedSession })
      assert.strictEqual(deleted.body.session_id, session.session_id)

      const gone = { status: 404, code: "SESSION_NOT_FOUND" }
      assertProblem(yield* call(url, { method: "DELETE" }), gone)
      assertProblem(yield* call(url), gone)
      assertProblem(yield* call(`${url}/history`), gone)
      const { body } = yield* call(`/api/v1/chat/history/${session.session_id}`)
      assert.strictEqual(body.total_count, 0)
    })
  )

  it.effect("deleting one session leaves those whose ids are like it", () =>
    Effect.gen(function* () {
      for (const session_id of ["like", "like;this", "like/this", "like%2Fthis", "LIKE"])
        yield* chat({ session_id })
      yield* call("/api/v1/session/like;this", { method: "DELETE" })
      yield* call("/api/v1/session/like%2Fthis", { method: "DELETE" })
      for (const [path, status] of [
        ["like", 200],
        ["like%3Bthis", 404],
        ["like%2Fthis", 404],
        ["like%252Fthis", 200],
        ["LIKE", 200]
      ] as const) {
        assert.strictEqual((yield* call(`/api/v1/session/${path}`)).status, status, path)
      }
    })
  )

  it.effect("a conversation by text tells what was said", () =>
    Effect.gen(function* () {
      const { body } = yield* call("/api/v1/conversation/message", {
        body: {
          text: " Hello ",
          output_mode: "both",
          voice: "alto",
          speed: 0,
          volume: 100,
          pitch: 50.5,
          session_id: "spoken",
          user_id: "ann"
        }
      })
      assert.strictEqual(body.session_id, "spoken")
      assert.strictEqual(body.user_input, "Hello")
      assert.strictEqual(body.agent_response, "Hello there.")
      assert.strictEqual(body.output_mode, "both")
      assert.strictEqual(body.voice, "alto")
    })
  )

  it.effect("both spellings offer the same tools", () =>
    Effect.gen(function* () {
      const paths = ["/tools", "/mcp/tools", "/tools/schemas", "/mcp/schemas", "/mcp/status", "/info"]
      const [tools, mcpTools, schemas, mcpSchemas, status, info] = yield* Effect.forEach(paths, (path) =>
        Effect.map(call(`/api/v1${path}`), ({ body }) => body)
      )
      assert.deepStrictEqual(mcpTools, tools)
      assert.deepStrictEqual(mcpSchemas, schemas)
      const names = tools.tools.map(({ name }: Json) => name)
      assert.includeMembers(names, ["calculator", "get_time", "get_weather"])
      assert.strictEqual(tools.total, names.length)
      assert.strictEqual(schemas.total, names.length)
      assert.deepStrictEqual(
        schemas.schemas.map((schema: Json) => schema.function.name),
        names
      )
      assert.deepStrictEqual(status.tools, names)
      assert.strictEqual(status.total_tools, names.length)
      assert.deepStrictEqual(info.tools, names)
    })
  )

  it.effect("a tool that fails is a result; a batch counts what succeeded", () =>
    Effect.gen(function* () {
      const failing = yield* call("/api/v1/tools/execute/calculator", { body: { expression: "1/0" } })
      assert.strictEqual(failing.status, 200)
      assertShape(failing.body, {
        success: "boolean",
        tool: /^calculator$/,
        result: { success: "boolean", data: "null", error: "text", metadata: "object" }
      })
      assert.isFalse(failing.body.success)

      const { body } = yield* call("/api/v1/mcp/execute/batch", {
        body: [
          { tool_name: "calculator", arguments: { expression: "6*7" } },
          { tool_name: "nobody" },
          { tool_name: "calculator", arguments: {} }
        ]
      })
      assert.deepStrictEqual([body.total, body.successful, body.failed], [3, 1, 2])
      assert.strictEqual(body.results[0].data.result, 42)
      assert.include(body.results[1].error, "nobody")
      assert.include(body.results[2].error, "expression")
    })
  )
})

/** A model that begins to answer and does not go on. */
const stuck = () => Reply.text(["Hello"], { fault: { after: 1, kind: "hang" } })

layer(TestServer.layer(stuck, { MAX_CONCURRENT_TURNS: "1" }), { excludeTestServices: true })(
  "when busy",
  (it) => {
    it.effect("more turns are refused, and told when to come again", () =>
      Effect.gen(function* () {
        const { url } = yield* TestServer.TestServer
        const open = yield* Effect.promise((signal) =>
          fetch(`${url}/api/v1/chat/stream?message=Hello`, { signal })
        )
        const reader = open.body?.getReader()
        yield* Effect.promise(async () => reader?.read())
        for (const [path, body] of [
          ["/chat", { message: "Hello" }],
          ["/chat", { message: "Hello", stream: true }],
          ["/chat/stream", { message: "Hello" }],
          ["/chat/stream?message=Hello", undefined],
          ["/conversation/message", { text: "Hello" }]
        ] as const) {
          const answer = yield* call(`/api/v1${path}`, { body })
          assertProblem(answer, { status: 503, code: "SERVICE_UNAVAILABLE" })
          assert.match(answer.headers.get("retry-after") ?? "", /^[1-9]\d*$/)
        }
        assert.strictEqual((yield* call("/api/v1/health/ready")).status, 200)
        yield* Effect.promise(async () => reader?.cancel())
      })
    )
  }
)
