import { assert, layer } from "@effect/vitest"
import { Effect, Schema, type Scope } from "effect"
import { Reply, type ScriptedReply, type ScriptedRequestBody } from "voice-agent-api/testing"
import { makeAgentTools } from "../support/AgentTools.ts"
import { type AppServer, TestApp } from "../support/AppServer.ts"
import {
  ask,
  type ChatEvent,
  type ChatSocket,
  eventually,
  historyOf,
  openSocket,
  openStream,
  textOf
} from "../support/ChatClient.ts"
import { thorough } from "../support/thorough.ts"
import { faultOf } from "../support/validRequest.ts"

/** One turn that is stopped somewhere. */
const Interruption = Schema.Struct({
  /** Rounds of tools that complete before. */
  rounds: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 })),
  /** Calls in each round. */
  calls: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 })),
  /** Whether the model says something before it asks for tools. */
  talks: Schema.Boolean,
  stage: Schema.Literals([
    "before the first token",
    "in text",
    "in arguments",
    "while tools run",
    "while waiting",
    "after some events"
  ]),
  /** Tokens, argument pieces, finished tools or events before the stop; what it counts depends on the stage. */
  progress: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })),
  stop: Schema.Literals(["cancel", "message", "disconnect"])
})
type Interruption = typeof Interruption.Type

const tools = makeAgentTools()

/** What the model says to each message, reply after reply. A message that got no answer comes along with the next. */
const plans = new Map<string, Array<ScriptedReply>>()
const script = ({ messages }: ScriptedRequestBody) => {
  const asked = String(messages.findLast(({ role }) => role === "user")?.content)
  return plans.get(asked.split("\n\n").at(-1) ?? "")?.shift() ?? Reply.text("All right.")
}

let minted = 0

const sum = (n: number) => ({ name: "calculator", arguments: { expression: `${n}+${n}` } })

const planOf = ({ calls, progress, rounds, stage, talks }: Interruption, gate: string) => {
  const text = talks ? ["Let me", " see. "] : []
  const round = (options: object = {}) =>
    Reply.toolCalls(
      Array.from({ length: calls }, (_, n) => sum(n)),
      { text, delayMillis: 0, ...options }
    )
  const before = Array.from({ length: rounds }, () => round())
  switch (stage) {
    case "before the first token":
    case "while waiting":
      return [...before, Reply.hang]
    case "in text":
      return [
        ...before,
        Reply.text(
          Array.from({ length: 50 }, (_, n) => `${n} `),
          { fault: { after: 1 + progress, kind: "hang" } }
        )
      ]
    case "in arguments":
      return [
        ...before,
        round({ pieces: 20, fault: { after: text.length + 1 + (progress % (20 * calls)), kind: "hang" } })
      ]
    case "while tools run": {
      const held = { name: "hold", arguments: { name: gate } }
      const asked = Array.from({ length: calls }, (_, n) => sum(n))
      asked.splice(progress % (calls + 1), 0, held as never)
      return [...before, Reply.toolCalls(asked, { text })]
    }
    case "after some events":
      return [...before, round(), Reply.text(["That ", "is ", "all."], { delayMillis: 0 })]
  }
}

/** Waits until the turn has come as far as the interruption wants it. */
const reach = (
  { model }: AppServer,
  { progress, rounds, stage }: Interruption,
  gate: string,
  asked: number,
  socket: ChatSocket
) =>
  Effect.gen(function* () {
    const request = Effect.promise(() => model.received(asked + rounds))
    const sent = (tokens: number) =>
      Effect.flatMap(request, (arrived) =>
        eventually(
          Effect.sync(() => arrived.tokensSent),
          (count) => count >= tokens
        )
      )
    switch (stage) {
      case "before the first token":
        return void (yield* request)
      case "in text":
        return yield* sent(1 + progress)
      case "in arguments":
        return yield* sent(1)
      case "while tools run":
        return yield* tools.entered(gate)
      case "after some events":
        for (let n = 0; n < progress; n++) {
          const event = yield* socket.next
          if (event?.type === "end") return
        }
    }
  })

const isLast = (event: ChatEvent) =>
  event.type === "end" ||
  event.type === "cancelled" ||
  (event.type === "error" && event.error_code !== "NO_ACTIVE_STREAM")

interface Said {
  readonly user: string
  /** `undefined`: nobody was told. */
  readonly reply: string | undefined
}

/** Runs a turn and stops it. Answers what was said, that of the message that stopped it included. */
const interrupt = (
  app: AppServer,
  session_id: string,
  it: Interruption
): Effect.Effect<Array<Said>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const id = minted++
    const gate = `gate ${id}`
    const user = `question ${id}`
    const said: Array<Said> = []
    const asked = app.model.requests.length
    plans.set(user, planOf(it, gate))

    if (it.stage === "while waiting") {
      const running = yield* openStream(`${app.url}/api/v1/chat/stream`, { message: user, session_id })
      yield* Effect.promise(() => app.model.received(asked + it.rounds))
      const waiting = yield* openStream(`${app.url}/api/v1/chat/stream`, {
        message: `${user}, part two`,
        session_id
      })
      yield* waiting.until("start")
      yield* waiting.leave
      yield* running.leave
      return [
        { user, reply: undefined },
        { user: `${user}, part two`, reply: undefined }
      ]
    }

    const socket = yield* openSocket(app.url)
    yield* socket.send({ message: user, session_id })
    yield* socket.until("start")
    yield* reach(app, it, gate, asked, socket)
    if (it.stop === "disconnect") {
      yield* socket.leave
      return [{ user, reply: undefined }]
    }
    yield* socket.send(it.stop === "cancel" ? { type: "cancel" } : { message: `${user}, but` })
    const turns = it.stop === "cancel" ? 1 : 2
    yield* eventually(
      Effect.sync(() => socket.events.filter(isLast).length),
      (count) => count >= turns
    )
    // Nothing more comes of a turn that has had its last event.
    yield* socket.send({ type: "close" })
    yield* socket.closed
    assert.strictEqual(socket.events.filter(isLast).length, turns)
    assert.strictEqual(socket.events.filter(({ type }) => type === "start").length, turns)
    const end = socket.events.findIndex(isLast)
    said.push({ user, reply: textOf(socket.events.slice(0, end)) })
    if (it.stop === "message") {
      said.push({ user: `${user}, but`, reply: textOf(socket.events.slice(end)) })
      assert.strictEqual(socket.events.filter(isLast).at(-1)?.type, "end")
    }
    return said
  })

layer(TestApp.layer(script, { tools: tools.layer }), { excludeTestServices: true })("interruption", (it) => {
  it.effect.prop(
    "leaves a history that is consistent, and a prompt that is valid, wherever it comes",
    { interruptions: Schema.Array(Interruption).check(Schema.isBetweenLength(1, 3)) },
    ({ interruptions }) =>
      Effect.scoped(
        Effect.gen(function* () {
          const app = yield* TestApp
          const { model, sql, url } = app
          const session_id = `interrupted ${minted++}`
          const before = model.requests.length
          const said: Array<Said> = []
          for (const interruption of interruptions) {
            said.push(...(yield* interrupt(app, session_id, interruption)))
          }
          plans.set("And now?", [Reply.toolCalls([sum(1)], { text: "Wait. " }), Reply.text("Done.")])
          const { body } = yield* ask(`${url}/api/v1/chat`, { message: "And now?", session_id })
          assert.deepInclude(body, { success: true, response: "Wait. Done.", tool_calls: 1 })
          said.push({ user: "And now?", reply: "Wait. Done." })

          for (const request of model.requests.slice(before)) assert.isUndefined(faultOf(request.body))
          const asked = JSON.stringify(model.requests.at(-1)?.body.messages)
          for (const { user } of said) assert.include(asked, user)

          const history = yield* historyOf(url, session_id)
          assert.deepStrictEqual(
            history.filter(({ role }) => role === "user").map(({ content }) => content),
            said.map(({ user }) => user)
          )
          for (const { reply, user } of said) {
            const next = history[history.findIndex(({ content }) => content === user) + 1]
            if (reply === undefined) continue
            // What was told is what is kept.
            assert.strictEqual(next?.role === "assistant" ? next.content : "", reply)
          }
          const { body: session } = yield* ask(`${url}/api/v1/session/${encodeURIComponent(session_id)}`)
          assert.strictEqual(session.session.message_count, history.length)

          const turns = yield* sql<{ status: string; number: number; ended: boolean }>`
            SELECT status, number, ended_at IS NOT NULL AS ended FROM turns
            WHERE session_id = ${session_id} ORDER BY number`
          assert.deepStrictEqual(
            turns.map(({ number }) => number),
            said.map((_, n) => n + 1)
          )
          assert.isTrue(
            turns.every(({ ended, status }) => ended && ["completed", "cancelled"].includes(status))
          )
          const [free] = yield* sql`
            SELECT running_turn IS NULL AS free, turn_count FROM sessions WHERE id = ${session_id}`
          assert.deepStrictEqual(free, { free: true, turn_count: said.length })
        })
      ),
    { timeout: 300_000, arbitrary: { runs: thorough ? 200 : 25 } }
  )
})
