/**
 * Owns the handlers of chat and conversation: JSON, SSE and WebSocket over the same turns.
 */
import { DateTime, Effect } from "effect"
import type { HttpServerRequest } from "effect/http"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import { Api } from "../api/Api.ts"
import { ForbiddenProblem, UpgradeRequiredProblem } from "../api/Problems.ts"
import type { SessionId } from "../api/Session.ts"
import { AppConfig } from "../Config.ts"
import { CurrentRequest } from "../observability/CurrentRequest.ts"
import { Metrics } from "../observability/Metrics.ts"
import { Sessions } from "../sessions/Sessions.ts"
import { type Turn, type TurnResult, Turns } from "../turns/Turns.ts"
import { serveChatSocket } from "./ChatSocket.ts"
import { countStream } from "./ClientFeed.ts"
import { intentOf } from "./Intent.ts"
import { makeSseBodies } from "./SseBody.ts"
import { ofRequest, turnRequest } from "./turnRequest.ts"
import { unavailable } from "./unavailable.ts"
import { wireUsage } from "./V1Events.ts"

/** Waits for the reply. A caller that goes away meanwhile takes the turn with it. */
const settle = (turn: Turn) =>
  Effect.onInterrupt(turn.result, () => Effect.sync(() => turn.cancel("client_disconnected")))

const now = Effect.map(DateTime.now, DateTime.formatIso)

const hasChinese = /\p{Script=Han}/u

/** What is said in place of a reply, in the user's language as far as can be told. */
const spoken = (message: string, result: TurnResult): string => {
  if (result.error === null || result.errorCode === null) return result.reply
  return hasChinese.test(message)
    ? "抱歉，我现在无法回答。请稍后再试。"
    : "I'm sorry, I can't answer right now. Please try again in a moment."
}

const failure = (result: TurnResult) =>
  result.status === "completed"
    ? { error: null, error_code: null }
    : {
        error: result.error ?? "The turn was stopped before the reply was complete.",
        error_code: result.errorCode ?? "CANCELLED"
      }

/**
 * Browsers let any page open a WebSocket to any address, and to this machine's: a page of another origin is let in
 * only where `CORS_ORIGINS` names it. Programs send no origin.
 */
const isForeign = ({ headers }: HttpServerRequest.HttpServerRequest, allowed: ReadonlyArray<string>) =>
  headers.origin !== undefined &&
  !allowed.includes(headers.origin) &&
  !allowed.includes("*") &&
  (!URL.canParse(headers.origin) || new URL(headers.origin).host !== headers.host)

/** Whether these are the headers of a WebSocket client (RFC 6455, 4.2.1). */
const isHandshake = ({ headers }: HttpServerRequest.HttpServerRequest) =>
  headers.upgrade?.toLowerCase() === "websocket" &&
  /^[+/0-9A-Za-z]{22}==$/.test(headers["sec-websocket-key"] ?? "") &&
  headers["sec-websocket-version"] === "13"

/** Serves WebSockets over the turns. */
const makeSocket = Effect.gen(function* () {
  const turns = yield* Turns
  const metrics = yield* Metrics
  const { corsOrigins } = yield* AppConfig
  const noHandshake = () => new UpgradeRequiredProblem({ detail: "Connect with a WebSocket client." })
  return Effect.fnUntraced(function* (request: HttpServerRequest.HttpServerRequest) {
    if (isForeign(request, corsOrigins)) {
      return yield* new ForbiddenProblem({
        detail: "Pages of this origin may not connect. CORS_ORIGINS names those that may."
      })
    }
    // What is no handshake the WebSocket server would answer by itself, in another form than ours.
    if (!isHandshake(request)) return yield* noHandshake()
    const connection = yield* Effect.mapError(request.upgrade, noHandshake)
    yield* serveChatSocket(turns, metrics)(connection)
    // Not sent: the connection was answered when it became a WebSocket.
    return HttpServerResponse.empty({ status: 101 })
  })
})

type Sent = Parameters<typeof turnRequest>[0]

export const layerChatHandlers = HttpApiBuilder.group(
  Api,
  "chat",
  Effect.fnUntraced(function* (handlers) {
    const turns = yield* Turns
    const sessions = yield* Sessions
    const metrics = yield* Metrics
    const makeSseBody = yield* makeSseBodies
    const socket = yield* makeSocket

    const sseBody = (turn: Turn) => {
      return makeSseBody(turn).once("close", countStream(metrics, "sse"))
    }

    const stream = (request: Sent) =>
      CurrentRequest.pipe(
        Effect.flatMap((ids) => turns.start(turnRequest(request, ofRequest(ids)))),
        Effect.map((turn) =>
          HttpServerResponse.raw(sseBody(turn), {
            contentType: "text/event-stream",
            headers: {
              "cache-control": "no-cache, no-transform",
              "x-accel-buffering": "no",
              "x-session-id": encodeURIComponent(turn.sessionId)
            }
          })
        ),
        unavailable
      )

    const reply = Effect.fnUntraced(function* (request: Sent) {
      const turn = yield* turns.start(turnRequest(request, ofRequest(yield* CurrentRequest)))
      const result = yield* settle(turn)
      return {
        success: result.status === "completed",
        response: spoken(request.message, result),
        session_id: turn.sessionId,
        message_id: result.messageId,
        timestamp: yield* now,
        ...intentOf(request.message, result.tools),
        tool_calls: result.tools.length,
        processing_time_ms: result.processingMillis,
        ...failure(result)
      }
    }, unavailable)

    const history = Effect.fnUntraced(function* (
      sessionId: SessionId,
      page: { readonly limit: number; readonly offset: number },
      withMetadata: boolean
    ) {
      const { messages, total } = yield* sessions.history(sessionId, page)
      return {
        success: true,
        session_id: sessionId,
        messages: messages.map((message) => ({
          id: message.id,
          role: message.role,
          content: message.content,
          timestamp: message.createdAt.toISOString(),
          metadata: withMetadata ? message.metadata : null
        })),
        total_count: total,
        has_more: page.offset + messages.length < total,
        error: null
      }
    }, unavailable)

    return (
      handlers
        .handle("send", ({ payload }) => (payload.stream === true ? stream(payload) : reply(payload)))
        .handle("stream", ({ payload }) => stream(payload))
        // An `EventSource` that lost its connection asks again by itself, with the id of the last event it saw. The turn
        // was accepted then, and must not be done twice: 204 tells the browser to stop asking.
        .handle("streamByQuery", ({ query, request }) =>
          request.headers["last-event-id"] === undefined
            ? stream(query)
            : Effect.succeed(HttpServerResponse.empty({ status: 204 }))
        )
        .handle("history", ({ params, query: { limit = 50, offset = 0, include_metadata = false } }) =>
          history(params.session_id, { limit, offset }, include_metadata)
        )
        .handle("socket", ({ request }) => socket(request))
    )
  })
)

export const layerRootSocketHandlers = HttpApiBuilder.group(
  Api,
  "rootSocket",
  Effect.fnUntraced(function* (handlers) {
    const socket = yield* makeSocket
    return handlers.handle("socket", ({ request }) => socket(request))
  })
)

export const layerConversationHandlers = HttpApiBuilder.group(
  Api,
  "conversation",
  Effect.fnUntraced(function* (handlers) {
    const turns = yield* Turns
    return handlers.handle("message", ({ payload }) =>
      Effect.gen(function* () {
        const turn = yield* turns.start(
          turnRequest({ ...payload, message: payload.text }, ofRequest(yield* CurrentRequest))
        )
        const result = yield* settle(turn)
        return {
          success: result.status === "completed",
          session_id: turn.sessionId,
          user_input: payload.text,
          agent_response: spoken(payload.text, result),
          output_mode: payload.output_mode ?? "text",
          input_metadata: { mode: "text", characters: payload.text.length },
          agent_metadata: {
            message_id: result.messageId,
            model: result.model,
            tool_calls: result.tools.length,
            usage: result.usage === null ? null : wireUsage(result.usage),
            processing_time_ms: result.processingMillis,
            trace_id: result.traceId
          },
          audio_size: 0,
          voice: payload.voice ?? null,
          error: failure(result).error,
          timestamp: yield* now
        }
      }).pipe(unavailable)
    )
  })
)
