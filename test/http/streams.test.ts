import { assert, describe, layer } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { Reply, type ScriptedReply } from "voice-agent-api/testing"
import { makeAgentTools } from "../support/AgentTools.ts"
import { TestApp } from "../support/AppServer.ts"
import {
  ask,
  type ChatEvent,
  eventsOf,
  historyOf,
  openSocket,
  openStream,
  textOf
} from "../support/ChatClient.ts"
import { faultOf } from "../support/validRequest.ts"

/** The contract's fields, by type: of the event itself for stream events, of `data` for workflow events. */
const streamFields: Readonly<Record<string, ReadonlyArray<string>>> = {
  start: ["model", "turn_id"],
  delta: ["content"],
  tool_calls: ["tool_calls"],
  end: ["content", "metadata"],
  error: ["error", "error_code"],
  cancelled: ["reason"]
}
const workflowFields: Readonly<
  Record<
    Extract<ChatEvent, { readonly level: string }>["type"],
    readonly [level: string, ...fields: ReadonlyArray<string>]
  >
> = {
  workflow_started: ["graph", "user_input"],
  node_started: ["graph", "node", "display_name"],
  node_finished: ["graph", "node", "display_name", "duration_ms"],
  route_decision: ["graph", "from", "to", "reason"],
  workflow_complete: ["graph", "total_duration_ms"],
  thinking_phase: ["node", "phase", "node", "details"],
  tool_call_pending: ["node", "tool", "args"],
  tool_executing: ["node", "tool"],
  tool_result: ["node", "tool", "success", "summary", "duration_ms"],
  llm_streaming: ["node", "phase", "details"],
  token_usage: ["node", "prompt_tokens", "completion_tokens", "total_tokens"]
}

const checkFields = (event: ChatEvent) => {
  const stream = streamFields[event.type]
  if (stream !== undefined) {
    assert.sameMembers(Object.keys(event), ["version", "id", "timestamp", "type", "session_id", ...stream])
    assert.isTrue("id" in event && /^evt_[0-9a-f]{16}$/.test(event.id))
    assert.match(String(event.timestamp), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    return
  }
  assert.sameMembers(Object.keys(event), ["level", "type", "timestamp", "session_id", "data"])
  if (!("level" in event)) return
  const [level, ...fields] = workflowFields[event.type]
  assert.strictEqual(event.level, level)
  assert.sameMembers(Object.keys(event.data), fields)
  assert.isAtLeast(event.timestamp, 0)
}

/** What holds for every stream, whatever came of its turn. */
const checkStream = (events: ReadonlyArray<ChatEvent>, sessionId: string) => {
  const types = events.map((event) => event.type)
  assert.strictEqual(types[0], "start")
  assert.strictEqual(types.filter((type) => type === "start").length, 1)
  const lasts = types.filter((type) => type === "end" || type === "error" || type === "cancelled")
  assert.deepStrictEqual(lasts, [types.at(-1)])
  for (const event of events) {
    checkFields(event)
    assert.strictEqual(event.session_id, sessionId)
  }
  const ids = events.flatMap((event) => ("id" in event ? [event.id] : []))
  assert.strictEqual(new Set(ids).size, ids.length)
}

/** Types in order; deltas that follow one another count as one, since how text is cut into them is nobody's promise. */
const shapeOf = (events: ReadonlyArray<ChatEvent>) =>
  events.map((event) => event.type).filter((type, i, types) => type !== "delta" || types[i - 1] !== "delta")

const collect = (ask: { readonly url: string; readonly body?: unknown }) =>
  Effect.flatMap(openStream(ask.url, ask.body), (stream) => stream.all)

const overSocket = (path: string) => (url: string, message: string, session_id: string) =>
  Effect.gen(function* () {
    const socket = yield* openSocket(url, path)
    yield* socket.send({ message, session_id })
    return yield* socket.turn
  })

type Way = (
  url: string,
  message: string,
  session_id: string
) => Effect.Effect<ReadonlyArray<ChatEvent>, never, Scope.Scope>

/** Every way to a stream of events. */
const ways: ReadonlyArray<readonly [name: string, way: Way]> = [
  [
    "POST /chat/stream",
    (url, message, session_id) => collect({ url: `${url}/api/v1/chat/stream`, body: { message, session_id } })
  ],
  [
    "GET /chat/stream",
    (url, message, session_id) =>
      collect({ url: `${url}/api/v1/chat/stream?${new URLSearchParams({ message, session_id, t: "1" })}` })
  ],
  [
    "POST /chat, stream: true",
    (url, message, session_id) =>
      collect({ url: `${url}/api/v1/chat`, body: { message, session_id, stream: true } })
  ],
  ["WS /api/v1/chat/ws", overSocket("/api/v1/chat/ws")],
  ["WS /ws", overSocket("/ws")]
]

const tools = makeAgentTools()

/** A turn that says something, asks for two tools, and answers with what they told. */
const toolTurn: ReadonlyArray<ScriptedReply> = [
  Reply.toolCalls(
    [
      { name: "calculator", arguments: { expression: "6*7" } },
      { name: "get_time", arguments: { timezone: "UTC" } }
    ],
    { text: ["Let me", " see. "], delayMillis: 0 }
  ),
  Reply.text(["It", " is ", "42", ".", " 名字 ", ..."😀".split(""), "!"], { delayMillis: 0 })
]
const toolTurnText = "Let me see. It is 42. 名字 😀!"

/** What the model was told of the calls it asked for. */
const resultsIn = (body: { readonly messages: ReadonlyArray<{ role: string; content?: unknown }> }) =>
  body.messages.filter(({ role }) => role === "tool").map(({ content }) => JSON.parse(String(content)))

layer(TestApp.layer([], { tools: tools.layer }), { excludeTestServices: true })("streams", (it) => {
  describe.each(ways)("%s", (name, way) => {
    it.effect("tells a plain turn by the contract", () =>
      Effect.gen(function* () {
        const { model, url } = yield* TestApp
        model.push(Reply.text(["Hello", ", ", "you", "!"], { delayMillis: 0 }))
        const events = yield* way(url, "Hi there", `plain ${name}`)
        checkStream(events, `plain ${name}`)
        const [end] = eventsOf(events, "end")
        assert.strictEqual(end?.content, "Hello, you!")
        assert.strictEqual(textOf(events), "Hello, you!")
        assert.deepStrictEqual(
          eventsOf(events, "workflow_started").map((event) => event.data.user_input),
          ["Hi there"]
        )
        assert.deepStrictEqual(
          eventsOf(events, "node_started").map((event) => event.data.node),
          ["process_input", "call_llm", "format_response"]
        )
        assert.deepStrictEqual(
          eventsOf(events, "node_finished").map((event) => event.data.node),
          ["process_input", "call_llm", "format_response"]
        )
        assert.strictEqual(shapeOf(events).at(-2), "workflow_complete")
        assert.strictEqual(eventsOf(events, "workflow_complete").length, 1)
        const history = yield* historyOf(url, `plain ${name}`)
        assert.deepStrictEqual(
          history.map(({ role, content }) => [role, content]),
          [
            ["user", "Hi there"],
            ["assistant", "Hello, you!"]
          ]
        )
        assert.strictEqual(end?.metadata.message_id, history[1]?.id)
      })
    )

    it.effect("tells a turn with tools by the contract", () =>
      Effect.gen(function* () {
        const { model, url } = yield* TestApp
        model.push(...toolTurn)
        const events = yield* way(url, "What is 6*7?", `tools ${name}`)
        checkStream(events, `tools ${name}`)
        assert.deepStrictEqual(
          shapeOf(events).filter((type) => ["delta", "tool_calls", "tool_result", "end"].includes(type)),
          ["delta", "tool_calls", "tool_result", "tool_result", "delta", "end"]
        )
        const [end] = eventsOf(events, "end")
        assert.strictEqual(textOf(events), toolTurnText)
        assert.strictEqual(end?.content, toolTurnText)
        assert.strictEqual(end?.metadata.tool_calls, 2)
        assert.strictEqual((yield* historyOf(url, `tools ${name}`))[1]?.content, toolTurnText)
        const [calls] = eventsOf(events, "tool_calls")
        assert.deepStrictEqual(
          calls?.tool_calls.map((call) => [
            call.type,
            call.function.name,
            JSON.parse(call.function.arguments)
          ]),
          [
            ["function", "calculator", { expression: "6*7" }],
            ["function", "get_time", { timezone: "UTC" }]
          ]
        )
        for (const type of ["tool_call_pending", "tool_executing"] as const) {
          assert.deepStrictEqual(
            eventsOf(events, type).map((event) => event.data.tool),
            ["calculator", "get_time"]
          )
        }
        assert.isTrue(eventsOf(events, "tool_result").every((event) => event.data.success))
      })
    )
  })

  it.effect("tells the same sequence over SSE and WebSocket, and the same reply in JSON", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const shapes: Array<ReadonlyArray<string>> = []
      for (const [name, way] of ways) {
        model.push(...toolTurn)
        shapes.push(shapeOf(yield* way(url, "What is 6*7?", `same ${name}`)))
      }
      for (const shape of shapes) assert.deepStrictEqual(shape, shapes[0])
      model.push(...toolTurn)
      const { body, status } = yield* ask(`${url}/api/v1/chat`, {
        message: "What is 6*7?",
        session_id: "same json"
      })
      assert.strictEqual(status, 200)
      assert.deepInclude(body, {
        success: true,
        response: toolTurnText,
        session_id: "same json",
        tool_calls: 2,
        error: null,
        error_code: null
      })
      const history = yield* historyOf(url, "same json")
      assert.strictEqual(history[1]?.content, toolTurnText)
      assert.strictEqual(history[1]?.id, body.message_id)
    })
  )

  it.effect("sums up the turn in its end", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(
        Reply.toolCalls([{ name: "calculator", arguments: { expression: "1+1" } }], {
          usage: { prompt_tokens: 100, completion_tokens: 7 }
        }),
        Reply.text("Two.", { usage: { prompt_tokens: 120, completion_tokens: 3 }, model: "scripted-2026" })
      )
      const events = yield* collect({ url: `${url}/api/v1/chat/stream`, body: { message: "1+1?" } })
      const [start] = eventsOf(events, "start")
      const [end] = eventsOf(events, "end")
      assert.strictEqual(start?.model, "scripted")
      assert.deepInclude(end?.metadata, {
        tool_calls: 1,
        model: "scripted-2026",
        usage: { prompt_tokens: 220, completion_tokens: 10, total_tokens: 230 }
      })
      assert.match(end?.metadata.trace_id ?? "", /^[0-9a-f]{32}$/)
      assert.isAtLeast(end?.metadata.processing_time_ms ?? -1, 0)
      assert.deepStrictEqual(
        eventsOf(events, "token_usage").map((event) => event.data.total_tokens),
        [107, 123]
      )
    })
  )

  it.effect(
    "frames each event as SSE of the contract: an id with the sequence, the data, no event name",
    () =>
      Effect.gen(function* () {
        const { model, url } = yield* TestApp
        model.push(...toolTurn)
        const stream = yield* openStream(`${url}/api/v1/chat/stream`, { message: "What is 6*7?" })
        assert.strictEqual(stream.status, 200)
        assert.match(stream.headers.get("content-type") ?? "", /^text\/event-stream/)
        assert.include(stream.headers.get("cache-control") ?? "", "no-cache")
        const events = yield* stream.all
        const [start] = eventsOf(events, "start")
        assert.match(start?.session_id ?? "", /^session_[0-9a-f]{12}$/)
        assert.strictEqual(stream.headers.get("x-session-id"), start?.session_id)
        assert.deepStrictEqual(
          stream.frames.map((frame) => frame.id),
          events.map((_, i) => `${start?.turn_id}:${i + 1}`)
        )
        for (const frame of stream.frames) assert.deepStrictEqual(frame.fields, ["id", "data"])
      })
  )

  it.effect("cuts what it shows of long input, arguments and results, and sends the model all of it", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const sum = Array.from({ length: 150 }, () => "1").join("+")
      model.push(
        Reply.toolCalls([
          { name: "calculator", arguments: { expression: sum } },
          { name: "hold", arguments: { name: "x".repeat(300) } }
        ]),
        Reply.text("150")
      )
      yield* tools.release("x".repeat(300))
      const asked = model.requests.length
      const events = yield* collect({ url: `${url}/api/v1/chat/stream`, body: { message: "y".repeat(400) } })
      assert.strictEqual(eventsOf(events, "workflow_started")[0]?.data.user_input, "y".repeat(100))
      assert.deepStrictEqual(
        eventsOf(events, "tool_call_pending").map((event) => event.data.args),
        [{ expression: sum.slice(0, 100) }, { name: "x".repeat(100) }]
      )
      for (const { data } of eventsOf(events, "tool_result")) assert.isAtMost(data.summary.length, 200)
      assert.deepInclude(resultsIn(model.requests[asked + 1]?.body ?? { messages: [] })[1], {
        released: "x".repeat(300)
      })
    })
  )

  it.effect("runs the calls of one step at once, and answers the model in the order asked", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const names = ["first", "second", "third"]
      model.push(
        Reply.toolCalls(names.map((name) => ({ name: "hold", arguments: { name } }))),
        Reply.text("Done.")
      )
      const asked = model.requests.length
      const stream = yield* openStream(`${url}/api/v1/chat/stream`, { message: "Hold all three" })
      for (const name of names) yield* tools.entered(name)
      for (const name of names.toReversed()) {
        yield* tools.release(name)
        assert.include((yield* stream.until("tool_result")).data.summary, name)
      }
      yield* stream.until("end")
      const { body } = yield* Effect.promise(() => model.received(asked + 1))
      assert.isUndefined(faultOf(body))
      assert.deepStrictEqual(
        resultsIn(body),
        names.map((released) => ({ released }))
      )
    })
  )

  it.effect("tells the model what went wrong with a call, and the turn goes on", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const wrong = [
        ["fail", {}, "The tap is closed."],
        ["explode", {}, "unexpectedly"],
        ["launch_rocket", {}, "no tool named"],
        ["hold", { name: 7 }, "name"],
        ["hold", {}, "name"],
        ["calculator", "{not json", "JSON"]
      ] as const
      model.push(
        Reply.toolCalls(wrong.map(([name, args]) => ({ name, arguments: args }))),
        Reply.text("None of that worked.")
      )
      const asked = model.requests.length
      const events = yield* collect({ url: `${url}/api/v1/chat/stream`, body: { message: "Do it all" } })
      assert.strictEqual(eventsOf(events, "end")[0]?.content, "None of that worked.")
      assert.deepStrictEqual(
        eventsOf(events, "tool_result").map((event) => event.data.success),
        wrong.map(() => false)
      )
      const { body } = yield* Effect.promise(() => model.received(asked + 1))
      assert.isUndefined(faultOf(body))
      const results = resultsIn(body)
      wrong.forEach(([, , says], i) => {
        assert.include(results[i].error, says)
        assert.notInclude(results[i].error, "secret")
      })
    })
  )

  it.effect("asks for tools seven times at most, then for an answer without any", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const rounds = Array.from({ length: 7 }, (_, n) =>
        Reply.toolCalls([{ name: "calculator", arguments: { expression: `${n}+1` } }])
      )
      model.push(...rounds, Reply.text("Enough."))
      const asked = model.requests.length
      const { body } = yield* ask(`${url}/api/v1/chat`, { message: "Count for ever" })
      assert.deepInclude(body, { success: true, response: "Enough.", tool_calls: 7 })
      const requests = model.requests.slice(asked).map((request) => request.body)
      assert.strictEqual(requests.length, 8)
      for (const request of requests) assert.isUndefined(faultOf(request))
      for (const request of requests.slice(0, 7)) assert.isAbove(request.tools?.length ?? 0, 0)
      assert.strictEqual(requests[7]?.tools?.length ?? 0, 0)
      assert.strictEqual(resultsIn(requests[7] ?? { messages: [] }).length, 7)
    })
  )

  it.effect("fails a turn whose model says nothing at all", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.text([" ", "\n"]))
      const events = yield* collect({
        url: `${url}/api/v1/chat/stream`,
        body: { message: "Say nothing", session_id: "silent" }
      })
      checkStream(events, "silent")
      assert.strictEqual(eventsOf(events, "error")[0]?.error_code, "LLM_UNAVAILABLE")
    })
  )
})
