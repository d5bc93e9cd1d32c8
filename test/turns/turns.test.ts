import { connect } from "node:net"
import { assert, layer } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { Reply, type ScriptedRequestBody } from "voice-agent-api/testing"
import { makeAgentTools } from "../support/AgentTools.ts"
import { TestApp } from "../support/AppServer.ts"
import {
  ask,
  type ChatEvent,
  eventsOf,
  eventually,
  historyOf,
  openSocket,
  openStream,
  textOf
} from "../support/ChatClient.ts"
import { contents, pairs, untilText } from "../support/Conversations.ts"
import { faultOf } from "../support/validRequest.ts"

const lastUser = ({ messages }: ScriptedRequestBody): string =>
  String(messages.findLast(({ role }) => role === "user")?.content)

/** What holds a reply back, by the message it answers. */
const gates = new Map<string, PromiseWithResolvers<void>>()
const hold = (message: string) =>
  Effect.sync(() => {
    const gate = Promise.withResolvers<void>()
    gates.set(message, gate)
    return Effect.sync(() => gate.resolve())
  })

/** Answers "re: <message>", once it may. */
const echo = async (body: ScriptedRequestBody) => {
  const message = lastUser(body)
  await gates.get(message)?.promise
  return Reply.text(["re: ", message], { delayMillis: 0 })
}

/** Says "One two" and hangs. */
const hanging = Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "hang" } })

/** A frame as a browser sends it, masked with zeros. Up to 125 bytes. */
const textFrame = (text: string) =>
  Buffer.concat([Buffer.from([0x81, 0x80 | Buffer.byteLength(text), 0, 0, 0, 0]), Buffer.from(text)])

const tools = makeAgentTools()

const say = (url: string, session_id: string, message: string) =>
  ask(`${url}/api/v1/chat`, { message, session_id })

const sayStreaming = (url: string, session_id: string, message: string) =>
  openStream(`${url}/api/v1/chat/stream`, { message, session_id })

layer(TestApp.layer(echo, { tools: tools.layer }), { excludeTestServices: true })("turns", (it) => {
  it.effect("a second message waits for the first one's reply", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      const release = yield* hold("first")
      const first = yield* Effect.forkChild(say(url, "waits", "first"))
      yield* Effect.promise(() => model.received(asked))
      const second = yield* sayStreaming(url, "waits", "second")
      yield* second.until("start")
      assert.deepStrictEqual(pairs(yield* historyOf(url, "waits")), [
        ["user", "first"],
        ["user", "second"]
      ])
      assert.strictEqual(model.requests.length, asked + 1)
      yield* release
      const events = yield* second.all
      assert.strictEqual((yield* Fiber.join(first)).body.response, "re: first")
      assert.strictEqual(textOf(events), "re: second")
      assert.deepStrictEqual(pairs(yield* historyOf(url, "waits")), [
        ["user", "first"],
        ["assistant", "re: first"],
        ["user", "second"],
        ["assistant", "re: second"]
      ])
      assert.deepStrictEqual(contents(model.requests[asked + 1]?.body ?? { model: "", messages: [] }), [
        "first",
        "re: first",
        "second"
      ])
    })
  )

  it.effect("a burst of messages to one session: each gets its own reply, and none is lost or overlaps", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      const messages = Array.from({ length: 10 }, (_, n) => `burst ${n}`)
      const replies = yield* Effect.forEach(messages, (message) => say(url, "burst", message), {
        concurrency: "unbounded"
      })
      replies.forEach(({ body }, n) => assert.strictEqual(body.response, `re: burst ${n}`))
      const history = (yield* historyOf(url, "burst")).map(({ content }) => content)
      assert.strictEqual(history.length, 20)
      assert.sameMembers(
        history,
        messages.flatMap((message) => [message, `re: ${message}`])
      )
      model.requests.slice(asked).forEach(({ body }, n) => {
        assert.deepStrictEqual(contents(body), history.slice(0, 2 * n + 1))
      })
      const { body } = yield* ask(`${url}/api/v1/session/burst`)
      assert.strictEqual(body.session.message_count, 20)
    })
  )

  it.effect("the user's message is kept before the model is asked", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      model.push(Reply.hang)
      const stream = yield* sayStreaming(url, "kept", "remember me")
      yield* Effect.promise(() => model.received(asked))
      assert.deepStrictEqual(pairs(yield* historyOf(url, "kept")), [["user", "remember me"]])
      yield* stream.leave
    })
  )

  it.effect("a turn interrupted before its first word leaves its message to be answered with the next", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      model.push(Reply.hang)
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "first question", session_id: "early" })
      yield* Effect.promise(() => model.received(asked))
      yield* socket.send({ message: "second question" })
      yield* socket.until("cancelled")
      yield* socket.until("end")
      const { body } = yield* Effect.promise(() => model.received(asked + 1))
      assert.isUndefined(faultOf(body))
      assert.deepStrictEqual(contents(body), ["first question\n\nsecond question"])
      assert.deepStrictEqual(
        (yield* historyOf(url, "early")).map(({ role }) => role),
        ["user", "user", "assistant"]
      )
    })
  )

  it.effect("a message over another connection interrupts too, and both connections are told", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(hanging)
      const phone = yield* openSocket(url)
      const desk = yield* openSocket(url, "/ws")
      yield* phone.send({ message: "count", session_id: "two devices" })
      yield* untilText(phone, "One two")
      yield* desk.send({ message: "over here", session_id: "two devices" })
      assert.strictEqual((yield* phone.until("cancelled")).reason, "new_message")
      const events = yield* desk.turn
      assert.strictEqual(textOf(events), "re: over here")
      yield* phone.send({ type: "cancel" })
      assert.strictEqual((yield* phone.until("error")).error_code, "NO_ACTIVE_STREAM")
    })
  )

  it.effect("messages sent in one breath over WebSocket: all are kept, each has one last event", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      const socket = yield* openSocket(url)
      const messages = ["alpha", "beta", "gamma", "delta"]
      for (const message of messages) yield* socket.send({ message, session_id: "breath" })
      const turns: Array<ReadonlyArray<ChatEvent>> = []
      for (const _ of messages) turns.push(yield* socket.turn)
      for (const turn of turns) {
        assert.strictEqual(turn[0]?.type, "start")
        assert.strictEqual(eventsOf(turn, "start").length, 1)
      }
      assert.strictEqual(eventsOf(turns.at(-1) ?? [], "end").length, 1)
      const history = yield* historyOf(url, "breath")
      assert.deepStrictEqual(
        history.filter(({ role }) => role === "user").map(({ content }) => content),
        messages
      )
      for (const { body } of model.requests.slice(asked)) assert.isUndefined(faultOf(body))
      const { body } = yield* ask(`${url}/api/v1/session/breath`)
      assert.strictEqual(body.session.message_count, history.length)
    })
  )

  it.effect("a cancel frame with nothing to stop is answered by an error", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const socket = yield* openSocket(url)
      const cancel = (frame: object) =>
        Effect.andThen(
          socket.send(frame),
          Effect.map(socket.until("error"), ({ error_code }) => error_code)
        )
      assert.strictEqual(yield* cancel({ type: "cancel" }), "NO_ACTIVE_STREAM")
      yield* socket.send({ message: "hello", session_id: "nothing" })
      yield* socket.until("end")
      assert.strictEqual(yield* cancel({ type: "cancel" }), "NO_ACTIVE_STREAM")
      assert.strictEqual(yield* cancel({ type: "cancel", session_id: "unheard of" }), "NO_ACTIVE_STREAM")
    })
  )

  it.effect("a socket goes on in the session it had, or in one minted for it", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "hello" })
      const { session_id } = yield* socket.until("end")
      assert.match(session_id, /^session_[0-9a-f]{12}$/)
      yield* socket.send({ message: "again", session_id: null })
      assert.strictEqual((yield* socket.until("end")).session_id, session_id)
      yield* socket.send({ message: "elsewhere", session_id: "chosen" })
      assert.strictEqual((yield* socket.until("end")).session_id, "chosen")
      yield* socket.send({ message: "still there" })
      assert.strictEqual((yield* socket.until("end")).session_id, "chosen")
      assert.strictEqual((yield* historyOf(url, session_id)).length, 4)
    })
  )

  it.effect("a close frame closes the connection and stops its turn", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(hanging)
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "count", session_id: "closes" })
      yield* untilText(socket, "One two")
      yield* socket.send({ type: "close" })
      assert.strictEqual(yield* socket.closed, 1000)
      const history = yield* eventually(historyOf(url, "closes"), ({ length }) => length === 2)
      assert.deepInclude(history[1]?.metadata, { status: "cancelled" })
    })
  )

  it.effect("a client that leaves while its message waits takes only its own turn", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      const release = yield* hold("slow")
      const first = yield* Effect.forkChild(say(url, "queue", "slow"))
      yield* Effect.promise(() => model.received(asked))
      const second = yield* sayStreaming(url, "queue", "impatient")
      yield* second.until("start")
      const third = yield* sayStreaming(url, "queue", "patient")
      yield* third.until("start")
      yield* second.leave
      const before = yield* ask(`${url}/api/v1/health`)
      assert.isAtLeast(before.body.metrics.open_turns, 2)
      yield* eventually(ask(`${url}/api/v1/health`), ({ body }) => body.metrics.open_turns === 2)
      assert.strictEqual(model.requests.length, asked + 1)
      yield* release
      assert.strictEqual((yield* Fiber.join(first)).body.response, "re: slow")
      const { content } = yield* third.until("end")
      assert.strictEqual(content, "re: impatient\n\npatient")
      assert.deepStrictEqual(pairs(yield* historyOf(url, "queue")), [
        ["user", "slow"],
        ["assistant", "re: slow"],
        ["user", "impatient"],
        ["user", "patient"],
        ["assistant", "re: impatient\n\npatient"]
      ])
    })
  )

  it.effect("a session deleted in mid-turn ends its turns, and its id begins anew", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      model.push(hanging)
      const running = yield* sayStreaming(url, "deleted", "count")
      yield* untilText(running, "One two")
      const waiting = yield* sayStreaming(url, "deleted", "and then")
      yield* waiting.until("start")
      const { status } = yield* ask(`${url}/api/v1/session/deleted`, undefined, { method: "DELETE" })
      assert.strictEqual(status, 200)
      for (const stream of [running, waiting]) {
        const events = yield* stream.all
        assert.deepStrictEqual(
          eventsOf(events, "cancelled").map(({ reason }) => reason),
          ["session_deleted"]
        )
        assert.strictEqual(events.at(-1)?.type, "cancelled")
      }
      assert.strictEqual(
        yield* Effect.promise(() => model.requests[asked]?.ended ?? Promise.reject()),
        "aborted"
      )
      assert.deepStrictEqual(yield* historyOf(url, "deleted"), [])
      assert.strictEqual((yield* ask(`${url}/api/v1/session/deleted`)).status, 404)
      assert.strictEqual((yield* say(url, "deleted", "hello again")).body.response, "re: hello again")
      assert.deepStrictEqual(contents(model.requests.at(-1)?.body ?? { model: "", messages: [] }), [
        "hello again"
      ])
    })
  )

  it.effect("a model that fails in mid-stream: an error, and what was said is kept, marked", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "cut" }, delayMillis: 0 }))
      const stream = yield* sayStreaming(url, "breaks", "count")
      const events = yield* stream.all
      assert.strictEqual(textOf(events), "One two")
      const last = events.at(-1)
      assert.deepInclude(last, { type: "error", error_code: "LLM_UNAVAILABLE" })
      assert.notInclude(JSON.stringify(last), "127.0.0.1")
      const history = yield* historyOf(url, "breaks")
      assert.deepStrictEqual(pairs(history), [
        ["user", "count"],
        ["assistant", "One two"]
      ])
      assert.deepInclude(history[1]?.metadata, { status: "failed" })
      assert.strictEqual((yield* say(url, "breaks", "go on")).body.response, "re: go on")
      const request = model.requests.at(-1)?.body ?? { model: "", messages: [] }
      assert.isUndefined(faultOf(request))
      assert.deepStrictEqual(contents(request), ["count", "One two", "go on"])
    })
  )

  it.effect("a model that refuses: 200 with an apology in JSON, an error in a stream, the message kept", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.status(400), Reply.status(401))
      const { body, status } = yield* say(url, "refuses", "hello")
      assert.strictEqual(status, 200)
      assert.deepInclude(body, {
        success: false,
        message_id: null,
        error_code: "LLM_UNAVAILABLE",
        session_id: "refuses"
      })
      assert.isAbove(body.response.length, 0)
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "hello?", session_id: "refuses" })
      assert.strictEqual((yield* socket.until("error")).error_code, "LLM_UNAVAILABLE")
      assert.deepStrictEqual(pairs(yield* historyOf(url, "refuses")), [
        ["user", "hello"],
        ["user", "hello?"]
      ])
      yield* socket.send({ message: "hello!" })
      yield* socket.until("end")
      const request = model.requests.at(-1)?.body ?? { model: "", messages: [] }
      assert.isUndefined(faultOf(request))
      assert.deepStrictEqual(contents(request), ["hello\n\nhello?\n\nhello!"])
    })
  )

  it.effect("text that no database column takes does not lose the turn", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(
        Reply.toolCalls(
          [{ name: "calc\u0000ulator", arguments: '{"expression":"\u0000"}', id: "call\u0000" }],
          {
            text: ["nul \u0000 and half \ud83d"],
            model: "mod\u0000el"
          }
        ),
        Reply.text(["done"], { model: "mod\u0000el" })
      )
      const { body } = yield* say(url, "nul", "hello")
      assert.deepInclude(body, { success: true, tool_calls: 1 })
      assert.strictEqual((yield* historyOf(url, "nul"))[1]?.content, "nul  and half \ufffddone")
      assert.strictEqual((yield* say(url, "nul", "next")).body.response, "re: next")
      assert.isUndefined(faultOf(model.requests.at(-1)?.body ?? { messages: [] }))
    })
  )

  it.effect(
    "frames that are no messages are answered by an error that says why, and the connection goes on",
    () =>
      Effect.gen(function* () {
        const { url } = yield* TestApp
        const socket = yield* openSocket(url)
        const bad: ReadonlyArray<readonly [frame: unknown, code: string, says: string]> = [
          [new Uint8Array([1, 2, 3]), "VALIDATION_ERROR", "binary"],
          [new TextEncoder().encode('{"message":"hi"}'), "VALIDATION_ERROR", "binary"],
          ["", "VALIDATION_ERROR", "JSON"],
          ["hello", "VALIDATION_ERROR", "JSON"],
          ['{"message":', "VALIDATION_ERROR", "JSON"],
          ["7", "VALIDATION_ERROR", "object"],
          ["null", "VALIDATION_ERROR", "object"],
          ['["message"]', "VALIDATION_ERROR", "object"],
          [{}, "VALIDATION_ERROR", "message"],
          [{ message: "   " }, "VALIDATION_ERROR", "message"],
          [{ message: "x".repeat(4001) }, "VALIDATION_ERROR", "message"],
          [{ message: 7 }, "VALIDATION_ERROR", "message"],
          [{ message: null }, "VALIDATION_ERROR", "message"],
          [{ message: "hi", session_id: 7 }, "VALIDATION_ERROR", "session_id"],
          [{ message: "hi", session_id: "" }, "VALIDATION_ERROR", "session_id"],
          [{ message: "hi", session_id: "x".repeat(256) }, "VALIDATION_ERROR", "session_id"],
          [{ message: "hi", model_variant: "wild" }, "VALIDATION_ERROR", "model_variant"],
          [
            { message: "hi", model_config: { temperature: 3 } },
            "VALIDATION_ERROR",
            "model_config.temperature"
          ],
          [{ message: "hi", context: [] }, "VALIDATION_ERROR", "context"],
          [{ type: "dance" }, "VALIDATION_ERROR", "type"],
          [{ type: 7 }, "VALIDATION_ERROR", "type"],
          [{ type: "cancel", session_id: 7 }, "VALIDATION_ERROR", "session_id"],
          [
            `{"message":"hi","context":{"a":${"[".repeat(50_000)}${"]".repeat(50_000)}}}`,
            "VALIDATION_ERROR",
            "context"
          ],
          [{ message: "x".repeat(2 * 1024 * 1024) }, "PAYLOAD_TOO_LARGE", "1 MiB"],
          [{ message: "hi", context: { a: "名".repeat(500_000) } }, "PAYLOAD_TOO_LARGE", "1 MiB"],
          [new Uint8Array(2 * 1024 * 1024), "PAYLOAD_TOO_LARGE", "1 MiB"]
        ]
        for (const [frame, code, says] of bad) {
          yield* socket.send(frame)
          const event = yield* socket.next
          const shown = typeof frame === "string" ? frame.slice(0, 40) : JSON.stringify(frame).slice(0, 40)
          assert.strictEqual(event?.type, "error", shown)
          if (event?.type !== "error") continue
          assert.strictEqual(event.error_code, code, `${shown}: ${event.error}`)
          assert.include(event.error, says, shown)
        }
        yield* socket.send({ message: "hi", unknown_field: { of: "a client" }, user_id: null })
        assert.strictEqual((yield* socket.until("end")).content, "re: hi")
      })
  )
})

layer(TestApp.layer(echo), { excludeTestServices: true })("a client that does not read", (it) => {
  const endless = () =>
    Reply.text(
      Array.from({ length: 400 }, () => "x".repeat(100_000)),
      { delayMillis: 0, fault: { after: 400, kind: "hang" } }
    )

  const asks: ReadonlyArray<readonly [name: string, ask: ReadonlyArray<string | Uint8Array>]> = [
    ["SSE", ["GET /api/v1/chat/stream?message=more&session_id=SSE HTTP/1.1\r\nHost: test\r\n\r\n"]],
    [
      "WebSocket",
      [
        "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        textFrame('{"message":"more","session_id":"WebSocket"}')
      ]
    ]
  ]

  it.effect.each(asks)("is cut off over %s, and its turn with it", ([name, writes]) =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const asked = model.requests.length
      model.push(endless())
      const socket = connect(Number(new URL(url).port), "127.0.0.1")
      yield* Effect.addFinalizer(() => Effect.sync(() => socket.destroy()))
      socket.on("error", () => {}).pause()
      for (const bytes of writes) socket.write(bytes)
      const request = yield* Effect.promise(() => model.received(asked))
      assert.strictEqual(yield* Effect.promise(() => request.ended), "aborted")
      const history = yield* eventually(historyOf(url, name), ({ length }) => length === 2)
      assert.deepInclude(history[1]?.metadata, { status: "cancelled" })
    })
  )
})

layer(TestApp.layer(echo, { settings: { MAX_CONCURRENT_TURNS: "2" } }), { excludeTestServices: true })(
  "a server with two places",
  (it) => {
    it.effect("refuses a third turn until a place is free, waiting turns counted", () =>
      Effect.gen(function* () {
        const { model, url } = yield* TestApp
        model.push(hanging)
        const running = yield* sayStreaming(url, "full", "count")
        yield* untilText(running, "One two")
        const waiting = yield* sayStreaming(url, "full", "and then")
        yield* waiting.until("start")

        const refused = yield* say(url, "elsewhere", "hello")
        assert.strictEqual(refused.status, 503)
        assert.strictEqual(refused.body.error_code, "SERVICE_UNAVAILABLE")
        assert.isAbove(Number(refused.headers.get("retry-after")), 0)
        const stream = yield* sayStreaming(url, "elsewhere", "hello")
        assert.strictEqual(stream.status, 503)
        const socket = yield* openSocket(url)
        yield* socket.send({ message: "hello", session_id: "elsewhere" })
        assert.strictEqual((yield* socket.until("error")).error_code, "SERVICE_UNAVAILABLE")
        assert.deepStrictEqual(yield* historyOf(url, "elsewhere"), [])

        yield* running.leave
        yield* waiting.until("end")
        yield* socket.send({ message: "hello", session_id: "elsewhere" })
        assert.strictEqual((yield* socket.until("end")).content, "re: hello")
        const { body } = yield* ask(`${url}/api/v1/health`)
        assert.strictEqual(body.metrics.open_turns, 0)
      })
    )
  }
)
