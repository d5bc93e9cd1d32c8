/**
 * The conversation paths that must not break, end to end over real HTTP: what the client sees, what the history holds,
 * what the trace shows. They run on the embedded database, or on the server at `TEST_DATABASE_URL`.
 */
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { Reply, type ScriptedReply } from "voice-agent-api/testing"
import { ask, eventsOf, eventually, historyOf, openSocket, openStream, textOf } from "./support/ChatClient.ts"
import {
  Conversations,
  contents,
  metric,
  pairs,
  say,
  sayStreaming,
  turnsOf,
  untilText
} from "./support/Conversations.ts"
import { faultOf } from "./support/validRequest.ts"

/** The spans of a turn that needs no tools, under the request's. */
const plainTurn = [
  "api.send_message",
  "  agent.process_message",
  "    agent.build_messages",
  "    agent.call_llm",
  "      POST",
  "    agent.format_response"
]

const toolTurn = (tool: string) => [
  "api.send_message",
  "  agent.process_message",
  "    agent.build_messages",
  "    agent.call_llm",
  "      POST",
  "    agent.handle_tools",
  "      tool.execute",
  `        tool.${tool}`,
  "    agent.build_messages",
  "    agent.call_llm",
  "      POST",
  "    agent.format_response"
]
const under = (root: string, lines: ReadonlyArray<string>) => [root, ...lines.map((line) => `  ${line}`)]

/** Says "One two" and hangs. */
const hanging = Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "hang" } })

layer(Conversations.layer, { excludeTestServices: true })("critical paths", (it) => {
  describe("1. context over turns and a restart", () => {
    it.effect.each([
      ["Ada", "My name is Ada.", "What is my name?", "Your name is Ada."],
      ["小明", "我叫小明", "我叫什么名字？", "你叫小明。"]
    ] as const)("a name given before is known after: %s", ([name, first, question, answer]) =>
      Effect.gen(function* () {
        const { model, start } = yield* Conversations
        const session = `context ${name}`
        const scope = yield* Scope.make()
        const before = yield* Scope.provide(start(), scope)
        const [told] = yield* say(before, session, first)
        assert.deepInclude(told, { success: true, response: `re: ${first}`, tool_calls: 0 })
        yield* Scope.close(scope, Exit.void)

        const after = yield* start()
        const [known, trace] = yield* say(after, session, question)
        assert.deepInclude(known, { success: true, response: answer })
        const asked = model.requests.at(-1)?.body ?? { messages: [] }
        assert.deepStrictEqual(contents(asked), [first, `re: ${first}`, question])
        assert.deepStrictEqual(pairs(yield* historyOf(after.url, session)), [
          ["user", first],
          ["assistant", `re: ${first}`],
          ["user", question],
          ["assistant", answer]
        ])
        assert.deepStrictEqual(trace.outline, under("POST /api/v1/chat", plainTurn))
        assert.deepInclude(trace.named("agent.process_message")[0]?.attributes, {
          session_id: session,
          tool_calls_count: 0,
          input_length: question.length,
          response_length: answer.length
        })
      })
    )
  })

  it.effect("2. a tool call that succeeds is counted, named, and its result reaches the model", () =>
    Effect.gen(function* () {
      const { model, server } = yield* Conversations
      const asked = model.requests.length
      model.push(
        Reply.toolCalls([{ id: "sum", name: "calculator", arguments: { expression: "6*7" } }]),
        Reply.text("It is 42.")
      )
      const [body, trace] = yield* say(server, "tool", "What is 6 * 7?")
      assert.deepInclude(body, { success: true, response: "It is 42.", tool_calls: 1, error: null })
      const [result, ...more] = model.requests[asked + 1]?.toolResults ?? []
      assert.isEmpty(more)
      assert.deepInclude(result, { id: "sum", name: "calculator" })
      assert.strictEqual(JSON.parse(result?.content ?? "null").result, 42)
      const [, reply] = yield* historyOf(server.url, "tool")
      assert.deepInclude(reply, { id: body.message_id, content: "It is 42." })
      assert.deepInclude(reply?.metadata, { tool_calls: 1, tools: ["calculator"], model: "scripted" })
      assert.deepStrictEqual(trace.outline, under("POST /api/v1/chat", toolTurn("calculate")))
      assert.strictEqual(trace.named("agent.process_message")[0]?.attributes.tool_calls_count, 1)
    })
  )

  it.effect("3. a tool that fails: the model answers with what it knows, and the turn succeeds", () =>
    Effect.gen(function* () {
      const { model, server } = yield* Conversations
      const asked = model.requests.length
      const failures = metric(server, 'tool_calls_total{tool="fail",outcome="failed"}')
      const before = yield* failures
      model.push(Reply.toolCalls([{ name: "fail", arguments: {} }]), Reply.text("The tap seems closed."))
      const [body, trace] = yield* say(server, "failing tool", "Open the tap")
      assert.deepInclude(body, {
        success: true,
        response: "The tap seems closed.",
        tool_calls: 1,
        error_code: null
      })
      assert.strictEqual(model.requests[asked + 1]?.toolResults[0]?.content, '{"error":"The tap is closed."}')
      const [, reply] = yield* historyOf(server.url, "failing tool")
      assert.deepInclude(reply?.metadata, { tool_calls: 1, tools: ["fail"] })
      assert.isUndefined(reply?.metadata?.status)
      assert.strictEqual((yield* failures) - before, 1)
      const [tool] = trace.named("tool.fail")
      assert.strictEqual(tool?.status, "error")
      assert.strictEqual(tool?.attributes["error.type"], "failed")
      assert.strictEqual(trace.named("agent.process_message")[0]?.status, "ok")
    })
  )

  it.effect("4. invalid input: the field is named, and nothing is stored", () =>
    Effect.gen(function* () {
      const { model, server } = yield* Conversations
      const asked = model.requests.length
      const wrong = [
        [{ message: "", session_id: "invalid" }, "message"],
        [{ session_id: "invalid" }, "message"],
        [
          { message: "Hi", session_id: "invalid", model_params: { temperature: 9 } },
          "model_params.temperature"
        ]
      ] as const
      for (const [request, field] of wrong) {
        const { body, headers, status } = yield* ask(`${server.url}/api/v1/chat`, request)
        assert.strictEqual(status, 400)
        assert.strictEqual(body.error_code, "VALIDATION_ERROR")
        assert.deepStrictEqual(
          body.errors.map(({ field }: { readonly field: string }) => field),
          [field]
        )
        assert.include(body.detail, field)
        const traceId = headers.get("traceparent")?.split("-")[1] ?? ""
        const trace = yield* Effect.promise(() => server.spans.traceOf(traceId))
        assert.deepStrictEqual(trace.outline, ["POST /api/v1/chat"])
        assert.strictEqual(trace.root.attributes["http.response.status_code"], 400)
      }
      assert.isEmpty(yield* historyOf(server.url, "invalid"))
      assert.isEmpty(yield* turnsOf(server, "invalid"))
      assert.isEmpty(yield* server.sql`SELECT id FROM sessions WHERE id = 'invalid'`)
      assert.strictEqual(model.requests.length, asked)
    })
  )

  it.effect("5. a turn that times out: the caller learns it, what it said is kept, the session goes on", () =>
    Effect.gen(function* () {
      const { model, start } = yield* Conversations
      const server = yield* start({ TURN_TIMEOUT: "1 second" })
      const asked = model.requests.length
      model.push(hanging)
      const [events, trace] = yield* sayStreaming(server, "slow", "count")
      assert.deepInclude(events.at(-1), { type: "error", error_code: "TURN_TIMEOUT" })
      assert.strictEqual(textOf(events), "One two")
      const exchange = yield* Effect.promise(() => model.received(asked))
      assert.strictEqual(yield* Effect.promise(() => exchange.ended), "aborted")
      const history = yield* historyOf(server.url, "slow")
      assert.deepStrictEqual(pairs(history), [
        ["user", "count"],
        ["assistant", "One two"]
      ])
      assert.deepInclude(history[1]?.metadata, { status: "failed" })
      const [message] = trace.named("api.send_message")
      assert.strictEqual(message?.status, "error")
      assert.isAtLeast(message?.durationMillis ?? 0, 990)

      const [body] = yield* say(server, "slow", "go on")
      assert.strictEqual(body.response, "re: go on")
      assert.isUndefined(faultOf(model.requests.at(-1)?.body ?? { messages: [] }))
    })
  )

  describe("6. the model's API fails", () => {
    const down = Reply.status(503)
    /** A model of its own for each test: the breakers are counted by model. */
    const failing = (model: string, replies: ReadonlyArray<ScriptedReply>) =>
      Effect.gen(function* () {
        const { failures, start } = yield* Conversations
        failures.set(model, [...replies])
        return yield* start({ LLM_MODEL: model, LLM_FALLBACK_MODELS: "spare", LLM_RETRY_DELAY: "20 millis" })
      })

    it.effect("for a while: it is asked again, later each time", () =>
      Effect.gen(function* () {
        const server = yield* failing("shaky", [down, down])
        const [body, trace] = yield* say(server, "retries", "Hello?")
        assert.deepInclude(body, { success: true, response: "re: Hello?", error: null })
        const [, reply] = yield* historyOf(server.url, "retries")
        assert.deepInclude(reply?.metadata, { model: "shaky" })
        const [call] = trace.named("agent.call_llm")
        assert.deepStrictEqual(
          call?.events.map(({ attributes, name }) => [name, attributes.attempt, attributes.reason]),
          [
            ["llm.retry", 1, "server_error"],
            ["llm.retry", 2, "server_error"]
          ]
        )
        const [first = 0, second = 0] =
          call?.events.map(({ attributes }) => Number(attributes.delay_ms)) ?? []
        assert.isTrue(first >= 15 && second > first, `${first}, ${second}`)
        assert.deepStrictEqual(
          trace.named("POST").map(({ status }) => status),
          ["error", "error", "ok"]
        )
      })
    )

    it.effect("for good: the next model answers", () =>
      Effect.gen(function* () {
        const server = yield* failing("gone", [down, down, down, down])
        const [events, trace] = yield* sayStreaming(server, "fallback", "Hello?")
        assert.strictEqual(textOf(events), "re: Hello?")
        assert.strictEqual(eventsOf(events, "end")[0]?.metadata.model, "spare")
        const [, reply] = yield* historyOf(server.url, "fallback")
        assert.deepInclude(reply?.metadata, { model: "spare" })
        const fallback = trace.named("agent.call_llm")[0]?.events.find(({ name }) => name === "llm.fallback")
        assert.deepStrictEqual(fallback?.attributes, { from: "gone", to: "spare", reason: "server_error" })
      })
    )

    it.effect.each([
      ["Hello?", "I'm sorry, I can't answer right now. Please try again in a moment."],
      ["你好吗", "抱歉，我现在无法回答。请稍后再试。"]
    ] as const)(
      "all of them, for good: an honest apology, and the message is kept: %s",
      ([message, apology]) =>
        Effect.gen(function* () {
          const { failures } = yield* Conversations
          const server = yield* failing(`dead ${message}`, [Reply.status(401)])
          failures.set("spare", [Reply.status(401)])
          const [body, trace] = yield* say(server, `apology ${message}`, message)
          assert.deepInclude(body, {
            success: false,
            response: apology,
            message_id: null,
            error_code: "LLM_UNAVAILABLE"
          })
          assert.notInclude(JSON.stringify(body), "401")
          assert.deepStrictEqual(pairs(yield* historyOf(server.url, `apology ${message}`)), [
            ["user", message]
          ])
          assert.strictEqual(trace.named("api.send_message")[0]?.status, "error")
          assert.strictEqual(trace.named("agent.call_llm")[0]?.attributes["error.type"], "LlmUnavailable")
          // The next message is answered with this one.
          const [next] = yield* say(server, `apology ${message}`, "Again?")
          assert.strictEqual(next.success, true)
        })
    )
  })

  it.effect("7. deltas joined are the reply that is stored", () =>
    Effect.gen(function* () {
      const { model, server } = yield* Conversations
      const tokens = ["Grüße", ", ", "小", "明", "! ", "\u{1F600}", "\n", "Tab\t", "end."]
      model.push(Reply.text(tokens, { delayMillis: 0 }))
      const [events, trace] = yield* sayStreaming(server, "deltas", "Greet me")
      assert.isAbove(eventsOf(events, "delta").length, 1)
      assert.strictEqual(textOf(events), tokens.join(""))
      const [end] = eventsOf(events, "end")
      assert.strictEqual(end?.content, tokens.join(""))
      const [, reply] = yield* historyOf(server.url, "deltas")
      assert.strictEqual(reply?.content, tokens.join(""))
      assert.strictEqual(reply?.id, end?.metadata.message_id)
      assert.deepStrictEqual(trace.outline, under("POST /api/v1/chat/stream", plainTurn))
      assert.strictEqual(trace.traceId, end?.metadata.trace_id)
      assert.strictEqual(
        trace.named("agent.process_message")[0]?.attributes.response_length,
        tokens.join("").length
      )
    })
  )

  it.effect.each(["SSE", "WebSocket"] as const)(
    "8. text, tool call, tool result, text: in that order over %s",
    (way) =>
      Effect.gen(function* () {
        const { model, server } = yield* Conversations
        model.push(
          Reply.toolCalls([{ id: "c", name: "calculator", arguments: { expression: "6*7" } }], {
            text: "Let me see. "
          }),
          Reply.text("It is 42.")
        )
        const session = `order ${way}`
        const [events, trace] = yield* sayStreaming(server, session, "What is 6 * 7?", way)
        const order = events
          .filter(({ type }) => ["delta", "tool_calls", "tool_result", "end"].includes(type))
          .map(({ type }) => type)
        assert.deepStrictEqual(
          order.filter((type, n) => type !== "delta" || order[n - 1] !== "delta"),
          ["delta", "tool_calls", "tool_result", "delta", "end"]
        )
        assert.deepStrictEqual(eventsOf(events, "tool_calls")[0]?.tool_calls[0]?.function, {
          name: "calculator",
          arguments: '{"expression":"6*7"}'
        })
        assert.deepInclude(eventsOf(events, "tool_result")[0]?.data, { tool: "calculator", success: true })
        assert.strictEqual(textOf(events), "Let me see. It is 42.")
        const [, reply] = yield* historyOf(server.url, session)
        assert.strictEqual(reply?.content, "Let me see. It is 42.")
        const turn = toolTurn("calculate")
        assert.deepStrictEqual(trace.outline, way === "SSE" ? under("POST /api/v1/chat/stream", turn) : turn)
      })
  )

  it.effect("9. the time that is told, the span's and the metric's agree", () =>
    Effect.gen(function* () {
      const { model, server } = yield* Conversations
      const sum = metric(server, "turn_duration_seconds_sum")
      const count = metric(server, "turn_duration_seconds_count")
      const [sumBefore, countBefore] = [yield* sum, yield* count]
      model.push(Reply.text(["1 ", "2 ", "3 ", "4 ", "5"], { delayMillis: 80 }))
      const [body, trace] = yield* say(server, "times", "Count slowly")
      const told: number = body.processing_time_ms
      assert.isAtLeast(told, 5 * 80 - 10)
      assert.strictEqual((yield* count) - countBefore, 1)
      assert.approximately(((yield* sum) - sumBefore) * 1000, told, 0.01)
      const span = trace.named("api.send_message")[0]
      assert.strictEqual(span?.attributes.duration_ms, Math.round((span?.durationMillis ?? 0) * 1000) / 1000)
      // The span goes on until the reply is stored.
      assert.isAtLeast(span?.durationMillis ?? 0, told - 2)
      const stored = trace.named("database.query").reduce((sum, query) => sum + query.durationMillis, 0)
      assert.isAtMost(span?.durationMillis ?? 0, told + stored + 100)
    })
  )

  describe("10. concurrency", () => {
    it.effect("ten sessions at once are answered in parallel, and see nothing of one another", () =>
      Effect.gen(function* () {
        const { hold, model, server } = yield* Conversations
        const asked = model.requests.length
        const names = Array.from({ length: 10 }, (_, n) => `parallel-${n}`)
        const releases = yield* Effect.forEach(names, (name) => hold(`${name} says 1.`))
        const running = yield* Effect.forkChild(
          Effect.forEach(
            names,
            (name) =>
              Effect.forEach([1, 2, 3], (n) =>
                Effect.map(say(server, name, `${name} says ${n}.`), ([body, trace]) => {
                  assert.strictEqual(body.response, `re: ${name} says ${n}.`)
                  assert.strictEqual(body.session_id, name)
                  return trace
                })
              ),
            { concurrency: "unbounded" }
          )
        )
        // All ten have been asked of the model before one of them is answered.
        yield* Effect.promise(() => model.received(asked + 9))
        for (const release of releases) yield* release
        const traces = yield* Fiber.join(running)
        assert.strictEqual(new Set(traces.flat().map(({ traceId }) => traceId)).size, 30)
        for (const [n, name] of names.entries()) {
          const own = [1, 2, 3].flatMap((n) => [`${name} says ${n}.`, `re: ${name} says ${n}.`])
          assert.deepStrictEqual(
            (yield* historyOf(server.url, name)).map(({ content }) => content),
            own
          )
          const requests = model.requests
            .slice(asked)
            .filter(({ message }) => message.startsWith(`${name} `))
            .map(({ body }) => contents(body))
          assert.deepStrictEqual(requests, [own.slice(0, 1), own.slice(0, 3), own.slice(0, 5)])
          for (const trace of traces[n] ?? []) {
            assert.deepStrictEqual(trace.outline, under("POST /api/v1/chat", plainTurn))
            assert.strictEqual(trace.named("api.send_message")[0]?.attributes.session_id, name)
          }
        }
      })
    )

    it.effect("ten messages to one session are answered in the order they were accepted", () =>
      Effect.gen(function* () {
        const { hold, model, server } = yield* Conversations
        const asked = model.requests.length
        const messages = Array.from({ length: 10 }, (_, n) => `message ${n}`)
        const release = yield* hold("message 0")
        const replies = yield* Effect.forEach(messages, (message, n) =>
          Effect.gen(function* () {
            const reply = yield* Effect.forkChild(say(server, "ten", message))
            yield* eventually(historyOf(server.url, "ten"), (history) => history.length === n + 1)
            return reply
          })
        )
        assert.deepStrictEqual(
          pairs(yield* historyOf(server.url, "ten")),
          messages.map((message) => ["user", message])
        )
        yield* release
        for (const [n, fiber] of replies.entries()) {
          const [body, trace] = yield* Fiber.join(fiber)
          assert.strictEqual(body.response, `re: message ${n}`)
          assert.deepStrictEqual(trace.outline, under("POST /api/v1/chat", plainTurn))
        }
        const turns = messages.flatMap((message) => [message, `re: ${message}`])
        assert.deepStrictEqual(
          (yield* historyOf(server.url, "ten")).map(({ content }) => content),
          turns
        )
        model.requests.slice(asked).forEach(({ body }, n) => {
          assert.isUndefined(faultOf(body))
          assert.deepStrictEqual(contents(body), turns.slice(0, 2 * n + 1))
        })
      })
    )
  })

  describe("11. a turn that is stopped", () => {
    /** What was said is kept and marked, the model was let go of, and the next turn is sound. */
    const assertStopped = Effect.fnUntraced(function* (session: string, asked: number) {
      const { model, server } = yield* Conversations
      const history = yield* eventually(historyOf(server.url, session), ({ length }) => length >= 2)
      assert.deepStrictEqual(pairs(history.slice(0, 2)), [
        ["user", "count"],
        ["assistant", "One two"]
      ])
      assert.deepInclude(history[1]?.metadata, { status: "cancelled" })
      const exchange = yield* Effect.promise(() => model.received(asked))
      assert.strictEqual(yield* Effect.promise(() => exchange.ended), "aborted")
      const [turn] = yield* turnsOf(server, session)
      const trace = yield* Effect.promise(() => server.spans.trace(turn?.id ?? ""))
      assert.deepInclude(trace.named("api.send_message")[0]?.attributes, { session_id: session })
      assert.notStrictEqual(trace.named("agent.call_llm")[0]?.status, "ok")
      const [body] = yield* say(server, session, "go on")
      assert.strictEqual(body.response, "re: go on")
      assert.isUndefined(faultOf(model.requests.at(-1)?.body ?? { messages: [] }))
      assert.deepStrictEqual(contents(model.requests.at(-1)?.body ?? { messages: [] }).slice(0, 2), [
        "count",
        "One two"
      ])
    })

    it.effect("by a cancel frame", () =>
      Effect.gen(function* () {
        const { hold, model, server } = yield* Conversations
        const asked = model.requests.length
        model.push(hanging)
        const socket = yield* openSocket(server.url)
        yield* socket.send({ message: "count", session_id: "cancel-a" })
        yield* untilText(socket, "One two")
        const release = yield* hold("the other")
        yield* socket.send({ message: "the other", session_id: "cancel-b" })
        yield* Effect.promise(() => model.received(asked + 1))
        yield* socket.send({ type: "cancel", session_id: "cancel-a" })
        assert.deepInclude(yield* socket.until("cancelled"), {
          session_id: "cancel-a",
          reason: "client_request"
        })
        // Only that one.
        yield* release
        assert.deepInclude(yield* socket.until("end"), { session_id: "cancel-b", content: "re: the other" })
        assert.isUndefined((yield* historyOf(server.url, "cancel-b"))[1]?.metadata?.status)
        yield* assertStopped("cancel-a", asked)
      })
    )

    it.effect("by the next message over WebSocket", () =>
      Effect.gen(function* () {
        const { model, server } = yield* Conversations
        const asked = model.requests.length
        model.push(hanging)
        const socket = yield* openSocket(server.url)
        yield* socket.send({ message: "count", session_id: "barge-in" })
        yield* untilText(socket, "One two")
        yield* socket.send({ message: "stop, and sing" })
        assert.strictEqual((yield* socket.until("cancelled")).reason, "new_message")
        assert.strictEqual((yield* socket.next)?.type, "start")
        assert.strictEqual((yield* socket.until("end")).content, "re: stop, and sing")
        const { body } = yield* Effect.promise(() => model.received(asked + 1))
        assert.isUndefined(faultOf(body))
        assert.deepStrictEqual(contents(body), ["count", "One two", "stop, and sing"])
        yield* assertStopped("barge-in", asked)
      })
    )

    it.effect("by a client that goes away, over SSE, WebSocket and JSON", () =>
      Effect.gen(function* () {
        const { model, server, tools } = yield* Conversations
        const asked = model.requests.length
        model.push(hanging)
        const stream = yield* openStream(`${server.url}/api/v1/chat/stream`, {
          message: "count",
          session_id: "leaves sse"
        })
        yield* untilText(stream, "One two")
        yield* stream.leave
        yield* assertStopped("leaves sse", asked)

        const askedNext = model.requests.length
        model.push(hanging)
        const socket = yield* openSocket(server.url)
        yield* socket.send({ message: "count", session_id: "leaves ws" })
        yield* untilText(socket, "One two")
        yield* socket.leave
        yield* assertStopped("leaves ws", askedNext)

        // Nothing tells how far the reply of a JSON caller has come: it waits for a tool after its first words.
        model.push(
          Reply.toolCalls([{ name: "hold", arguments: { name: "json" } }], { text: ["One ", "two"] })
        )
        const waiting = yield* Effect.forkChild(say(server, "leaves json", "count"))
        yield* tools.entered("json")
        yield* Fiber.interrupt(waiting)
        const history = yield* eventually(historyOf(server.url, "leaves json"), ({ length }) => length === 2)
        assert.deepInclude(history[1]?.metadata, { status: "cancelled" })
        assert.deepStrictEqual(tools.interrupted, ["json"])
        // The model is told what became of the call.
        const [body] = yield* say(server, "leaves json", "go on")
        assert.strictEqual(body.response, "re: go on")
        assert.isUndefined(faultOf(model.requests.at(-1)?.body ?? { messages: [] }))
      })
    )
  })

  it.effect(
    "12. two servers on one database: turns of one session never overlap, none is lost or repeated",
    () =>
      Effect.gen(function* () {
        const { model, running, startShared } = yield* Conversations
        const [a, b] = [yield* startShared, yield* startShared]
        running.most = 0
        const asked = model.requests.length
        const messages = Array.from({ length: 12 }, (_, n) => `shared ${n}`)
        const replies = yield* Effect.forEach(
          messages,
          (message, n) => say(n % 2 === 0 ? a : b, "shared", message),
          { concurrency: "unbounded" }
        )
        for (const [n, [body, trace]] of replies.entries()) {
          assert.strictEqual(body.response, `re: shared ${n}`)
          assert.deepStrictEqual(trace.outline, under("POST /api/v1/chat", plainTurn))
        }
        assert.strictEqual(running.most, 1)
        assert.deepStrictEqual(
          (yield* turnsOf(a, "shared")).map(({ number, status }) => [number, status]),
          messages.map((_, n) => [n + 1, "completed"])
        )
        const history = (yield* historyOf(a.url, "shared")).map(({ content }) => content)
        assert.strictEqual(history.length, 24)
        assert.strictEqual(new Set(history).size, 24)
        assert.strictEqual(model.requests.length, asked + 12)
        model.requests.slice(asked).forEach(({ body }, n) => {
          assert.deepStrictEqual(contents(body), history.slice(0, 2 * n + 1))
        })
      })
  )
})
