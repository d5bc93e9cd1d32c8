/**
 * Owns how these tests hold one turn, by any transport, and what they learn of it: what the client got, what the model
 * was asked, what history keeps.
 */
import { Effect, type Scope } from "effect"
import type { ScriptedRequest } from "voice-agent-api/testing"
import type { AppServer } from "../support/AppServer.ts"
import {
  ask,
  type ChatEvent,
  eventsOf,
  type HistoryMessage,
  historyOf,
  type Json,
  openSocket,
  openStream,
  textOf
} from "../support/ChatClient.ts"

export const ways = ["json", "sse", "websocket"] as const
export type Way = (typeof ways)[number]

export interface Sent {
  readonly session_id: string
  readonly message: string
  /** The model to ask. Absent: the server's own. */
  readonly model?: string
}

/** What a client got of a turn. */
export interface Told {
  /** `undefined` for WebSocket, whose turns have no response of their own. */
  readonly status: number | undefined
  readonly headers: Headers | undefined
  /** The body of a response that is no stream. */
  readonly body: Json
  /** Of a stream. */
  readonly events: ReadonlyArray<ChatEvent>
  /** The types of the last events of a turn: one, if all is well. */
  readonly ends: ReadonlyArray<"end" | "error" | "cancelled">
  readonly errorCode: string | null
  /** What was said: the deltas of a stream, the response of JSON. */
  readonly text: string
}

export const apology = "I'm sorry, I can't answer right now. Please try again in a moment."

const bodyOf = ({ message, model, session_id }: Sent) => ({
  session_id,
  message,
  ...(model === undefined ? {} : { model_config: { model } })
})

const isEnd = (type: string): type is Told["ends"][number] =>
  type === "end" || type === "error" || type === "cancelled"

export const toldBy = (events: ReadonlyArray<ChatEvent>): Omit<Told, "status" | "headers" | "body"> => ({
  events,
  ends: events.map(({ type }) => type).filter(isEnd),
  errorCode: eventsOf(events, "error")[0]?.error_code ?? null,
  text: textOf(events)
})

const isStream = (headers: Headers) => headers.get("content-type")?.startsWith("text/event-stream") === true

/** Holds one turn and waits for its end. */
export const hold = (url: string, way: Way, sent: Sent): Effect.Effect<Told, never, Scope.Scope> =>
  Effect.gen(function* () {
    switch (way) {
      case "json": {
        const { body, headers, status } = yield* ask(`${url}/api/v1/chat`, bodyOf(sent))
        return {
          status,
          headers,
          body,
          events: [],
          ends: status === 200 ? [body.success ? "end" : "error"] : [],
          errorCode: body.error_code ?? null,
          text: body.response ?? ""
        }
      }
      case "sse": {
        const stream = yield* openStream(`${url}/api/v1/chat/stream`, bodyOf(sent))
        const { headers, status } = stream
        return {
          status,
          headers,
          body: undefined,
          ...toldBy(isStream(headers) ? yield* stream.all : [])
        }
      }
      case "websocket": {
        const socket = yield* openSocket(url)
        yield* socket.send(bodyOf(sent))
        const events = yield* socket.turn
        yield* socket.leave
        // All that came, and not only up to the last event: there must be nothing after it.
        return { status: undefined, headers: undefined, body: undefined, ...toldBy(socket.events), events }
      }
    }
  })

/** The requests that a model got. */
export const askedOf = (app: AppServer, model: string): ReadonlyArray<ScriptedRequest> =>
  app.model.requests.filter(({ body }) => body.model === model)

/** What is kept of a session: who said what, and how the reply is marked. */
export const kept = (app: AppServer, sessionId: string) =>
  Effect.map(historyOf(app.url, sessionId), (history) => history.map(asKept))

const asKept = ({ content, metadata, role }: HistoryMessage) =>
  role === "user" ? [role, content] : [role, content, metadata?.status ?? "completed"]
