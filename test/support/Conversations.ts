/**
 * Owns what the critical paths run on: servers over one database and one scripted model, and how a turn is taken there
 * and looked at afterwards.
 */
import { Context, Duration, Effect, Layer, type Scope } from "effect"
import {
  Reply,
  ScriptedModel,
  type ScriptedReply,
  type ScriptedRequestBody,
  type ScriptedServer
} from "voice-agent-api/testing"
import { type AgentTools, makeAgentTools } from "./AgentTools.ts"
import { type AppServer, type AppServerOptions, make } from "./AppServer.ts"
import { ask, openSocket, openStream } from "./ChatClient.ts"
import * as TestDb from "./TestDb.ts"

/** Answers "re: <message>", or with the name that the user gave before. */
const answer = ({ messages }: ScriptedRequestBody): string => {
  const said = messages.filter(({ role }) => role === "user").map(({ content }) => String(content))
  const message = said.at(-1) ?? ""
  const named = (pattern: RegExp) =>
    said.map((text) => pattern.exec(text)?.[1]).find((name) => name !== undefined)
  if (message === "What is my name?") return `Your name is ${named(/My name is (\w+)/) ?? "unknown to me"}.`
  if (message === "我叫什么名字？") return `你叫${named(/^我叫(?!什么)(\S+)/) ?? "……我不知道"}。`
  return `re: ${message}`
}

export class Conversations extends Context.Service<
  Conversations,
  {
    readonly model: ScriptedServer
    readonly tools: AgentTools
    readonly server: AppServer
    /** One more server on the same database, until the scope closes. */
    readonly start: (
      settings?: Readonly<Record<string, string>>
    ) => Effect.Effect<AppServer, never, Scope.Scope>
    /** One that knows that others may be there. */
    readonly startShared: Effect.Effect<AppServer, never, Scope.Scope>
    /** Holds the reply to a message back, until what is answered is run. */
    readonly hold: (message: string) => Effect.Effect<Effect.Effect<void>>
    /** What a model answers in place of its reply, by its name. */
    readonly failures: Map<string, Array<ScriptedReply>>
    /** Replies under way at once, at most. */
    readonly running: { now: number; most: number }
  }
>()("voice-agent/test/Conversations") {
  static readonly layer = Layer.effect(
    Conversations,
    Effect.gen(function* () {
      const gates = new Map<string, PromiseWithResolvers<void>>()
      const failures = new Map<string, Array<ScriptedReply>>()
      const running = { now: 0, most: 0 }
      const model = yield* ScriptedModel.serve(async (body, _, request) => {
        running.most = Math.max(running.most, ++running.now)
        void request.ended.then(() => running.now--)
        await gates.get(request.message)?.promise
        return failures.get(body.model)?.shift() ?? Reply.text(answer(body), { delayMillis: 0 })
      })
      const tools = makeAgentTools()
      const db = yield* Layer.build(TestDb.layer)
      const start = (options: AppServerOptions) => make(db, model, { tools: tools.layer, ...options })
      return {
        model,
        tools,
        failures,
        running,
        server: yield* start({}),
        start: (settings = {}) => start({ settings }),
        startShared: start({
          // Not connected to: it says that the database may have other processes.
          settings: { DATABASE_URL: "postgres://elsewhere/unused" },
          pace: { heartbeatEvery: Duration.millis(50), claimEvery: Duration.millis(10) }
        }),
        hold: (message) =>
          Effect.sync(() => {
            const gate = Promise.withResolvers<void>()
            gates.set(message, gate)
            return Effect.sync(() => gate.resolve())
          })
      }
    })
  )
}

export const pairs = (history: ReadonlyArray<{ readonly role: string; readonly content: string }>) =>
  history.map(({ role, content }) => [role, content])

/** What was sent to the model, without the system prompt. */
export const contents = (body: Pick<ScriptedRequestBody, "messages">) =>
  body.messages.slice(1).map(({ content }) => content)

interface TurnRow {
  readonly id: string
  readonly number: number
  readonly status: string
}

export const turnsOf = ({ sql }: AppServer, session: string) =>
  Effect.orDie(
    sql<TurnRow>`SELECT id, number, status FROM turns WHERE session_id = ${session} ORDER BY number`
  )

/** A turn in JSON: the answer's body, and the trace. */
export const say = Effect.fnUntraced(function* (server: AppServer, session_id: string, message: string) {
  const { body, headers } = yield* ask(`${server.url}/api/v1/chat`, { message, session_id })
  const traceId = headers.get("traceparent")?.split("-")[1] ?? ""
  return [body, yield* Effect.promise(() => server.spans.traceOf(traceId))] as const
})

/** A turn as a stream: its events, and the trace. */
export const sayStreaming = Effect.fnUntraced(function* (
  server: AppServer,
  session_id: string,
  message: string,
  way: "SSE" | "WebSocket" = "SSE"
) {
  const request = { message, session_id }
  const events =
    way === "SSE"
      ? yield* Effect.flatMap(openStream(`${server.url}/api/v1/chat/stream`, request), (stream) => stream.all)
      : yield* Effect.flatMap(openSocket(server.url), (socket) =>
          Effect.andThen(socket.send(request), socket.turn)
        )
  const start = events.find((event) => event.type === "start")
  return [events, yield* Effect.promise(() => server.spans.trace(start?.turn_id ?? ""))] as const
})

/** Waits until the text of the deltas is `text`. */
export const untilText = (
  source: { readonly until: (type: "delta") => Effect.Effect<{ readonly content: string }> },
  text: string
) =>
  Effect.gen(function* () {
    let so_far = ""
    while (so_far !== text) so_far += (yield* source.until("delta")).content
  })

/** The present value of a series; 0 when there is none yet. */
export const metric = ({ url }: AppServer, series: string) =>
  Effect.map(ask(`${url}/metrics`), ({ body }) => {
    const line = String(body)
      .split("\n")
      .find((line) => line.startsWith(`${series} `))
    return Number(line?.slice(series.length) ?? 0)
  })
