/**
 * Owns a chat over one WebSocket: reads a client's frames, starts and stops turns, writes their events.
 */
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { Cause, Effect, Option, Predicate, Schema } from "effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import { Socket } from "effect/socket"
import { ChatFrame, ControlFrame } from "../api/ChatApi.ts"
import { mintSessionId, type SessionId } from "../api/Session.ts"
import type { Metrics } from "../observability/Metrics.ts"
import type { Turn, Turns } from "../turns/Turns.ts"
import { fieldIssuesOf, sentenceOf } from "./fieldIssues.ts"
import { turnRequest } from "./turnRequest.ts"

/** Larger frames are refused, one at a time; the connection stays. */
const maxFrame = 1024 * 1024

/** A client this far behind with reading, in bytes, is cut off. */
const maxBehind = 4 * 1024 * 1024

const decodeMessage = Schema.decodeUnknownEffect(Schema.toCodecJson(ChatFrame), { errors: "all" })
const decodeControl = Schema.decodeUnknownEffect(Schema.toCodecJson(ControlFrame), { errors: "all" })

class FrameInvalid extends Schema.TaggedError<FrameInvalid>()("FrameInvalid", {
  code: Schema.Literals(["VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"]),
  message: Schema.String
}) {}

const parseFrame = (frame: string | Uint8Array): Effect.Effect<object, FrameInvalid> => {
  const invalid = (message: string) => new FrameInvalid({ code: "VALIDATION_ERROR", message })
  if (Buffer.byteLength(frame) > maxFrame) {
    return new FrameInvalid({ code: "PAYLOAD_TOO_LARGE", message: "frame: may have at most 1 MiB" })
  }
  if (typeof frame !== "string") return invalid("frame: must be text, not binary")
  return Effect.try({
    try: () => JSON.parse(frame) as unknown,
    catch: () => new FrameInvalid({ code: "VALIDATION_ERROR", message: "frame: must be JSON" })
  }).pipe(
    Effect.filterOrFail(
      (value): value is object => Predicate.isObject(value) && !Array.isArray(value),
      () => new FrameInvalid({ code: "VALIDATION_ERROR", message: "frame: must be a JSON object" })
    )
  )
}

/** Serves one connection until either side ends it. */
export const serveChatSocket =
  (turns: Turns["Service"], metrics: Metrics["Service"]) => (socket: Socket.Socket) =>
    Effect.scoped(serve(turns, metrics, socket)).pipe(
      // The client has gone before the connection was open.
      Effect.catchTag("SocketError", () => Effect.void)
    )

const serve = Effect.fnUntraced(function* (
  turns: Turns["Service"],
  metrics: Metrics["Service"],
  socket: Socket.Socket
) {
  const { pull } = yield* socket.reader
  const writer = yield* socket.writer
  // The framework's sockets don't tell how much waits to be sent; Node's do.
  const connection = Option.getOrUndefined(
    Option.map(
      yield* Effect.serviceOption(HttpServerRequest.HttpServerRequest),
      (request) => NodeHttpServerRequest.toIncomingMessage(request).socket
    )
  )

  /** Turns of this connection that have not ended, by session. */
  const active = new Map<string, Turn>()
  let sessionId: SessionId = mintSessionId()

  let pending: Array<string> = []
  const send = (json: string) => {
    if (pending.push(json) > 1) return
    queueMicrotask(() => {
      const [first, ...rest] = pending
      pending = []
      if (first !== undefined) Effect.runFork(Effect.ignore(writer.writeAll([first, ...rest])))
      if (connection !== undefined && connection.writableLength > maxBehind) connection.destroy()
    })
  }
  const sendError = (code: string, error: string) =>
    Effect.clockWith((clock) =>
      Effect.sync(() =>
        send(
          JSON.stringify({
            version: "1.0",
            id: `evt_${crypto.randomUUID().replaceAll("-", "").slice(0, 16)}`,
            timestamp: new Date(clock.currentTimeMillisUnsafe()).toISOString(),
            type: "error",
            session_id: sessionId,
            error,
            error_code: code
          })
        )
      )
    )

  const follow = (turn: Turn) => {
    active.set(turn.sessionId, turn)
    metrics.streamOpened("websocket")
    turn.log.subscribe({
      onEvent: (_, json) => send(json),
      onEnd: () => {
        metrics.streamClosed("websocket")
        if (active.get(turn.sessionId) === turn) active.delete(turn.sessionId)
      }
    })
  }

  const onMessage = Effect.fnUntraced(function* (frame: object) {
    const message = yield* decodeMessage(frame)
    sessionId = message.session_id ?? sessionId
    follow(yield* turns.start(turnRequest({ ...message, session_id: sessionId }, "interrupt")))
  })

  const onCancel = Effect.fnUntraced(function* (id: SessionId | null | undefined) {
    const turn = active.get(id ?? sessionId)
    if (turn === undefined)
      return yield* sendError("NO_ACTIVE_STREAM", "No reply is being made in this session.")
    turn.cancel("client_request")
  })

  /** Answers whether to go on reading. */
  const onFrame = (frame: string | Uint8Array): Effect.Effect<boolean> =>
    Effect.gen(function* () {
      const body = yield* parseFrame(frame)
      if ("type" in body && (body.type === "cancel" || body.type === "close")) {
        const control = yield* decodeControl(body)
        if (control.type === "close") return false
        yield* onCancel(control.session_id)
      } else if ("type" in body && !("message" in body)) {
        return yield* new FrameInvalid({
          code: "VALIDATION_ERROR",
          message: "type: must be cancel or close, or the frame must have a message"
        })
      } else {
        yield* onMessage(body)
      }
      return true
    }).pipe(
      Effect.catchTags({
        FrameInvalid: ({ code, message }) => sendError(code, message),
        SchemaError: (error) => sendError("VALIDATION_ERROR", sentenceOf(fieldIssuesOf(error, "frame"))),
        DbUnavailable: () =>
          sendError("SERVICE_UNAVAILABLE", "The database is not available. Try again in a moment."),
        TurnsUnavailable: ({ message }) => sendError("SERVICE_UNAVAILABLE", message)
      }),
      Effect.catchCause((cause) =>
        Cause.hasInterruptsOnly(cause)
          ? Effect.failCause(cause as Cause.Cause<never>)
          : Effect.andThen(
              Effect.logError("A frame failed unexpectedly", cause),
              sendError("INTERNAL_ERROR", "Something went wrong on our side.")
            )
      ),
      Effect.map((goOn) => goOn !== false)
    )

  const read = Effect.gen(function* () {
    while (true) {
      for (const frame of yield* pull) {
        if (!(yield* onFrame(frame))) return
      }
    }
  })

  yield* read.pipe(
    // The client has gone, in whatever way.
    Effect.catchTag("SocketError", () => Effect.void),
    Effect.ensuring(
      Effect.sync(() => {
        for (const turn of active.values()) turn.cancel("client_disconnected")
      })
    )
  )
  yield* Effect.ignore(writer.write(new Socket.CloseEvent(1000)))
})
