/**
 * Owns a chat over one WebSocket: reads a client's frames, starts and stops turns, writes their events.
 */
import * as NodeHttpServerRequest from "@effect/platform-node/NodeHttpServerRequest"
import { Cause, Effect, Fiber, FiberSet, Option, Predicate, Schema } from "effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import { Socket } from "effect/socket"
import { ChatFrame, ControlFrame } from "../api/ChatApi.ts"
import { mintSessionId, type SessionId } from "../api/Session.ts"
import type { DbUnavailable } from "../db/DbUnavailable.ts"
import { CurrentRequest } from "../observability/CurrentRequest.ts"
import type { Metrics } from "../observability/Metrics.ts"
import type { Turn, TurnRequest, Turns, TurnsUnavailable } from "../turns/Turns.ts"
import { ClientFeed, countStream } from "./ClientFeed.ts"
import { fieldIssuesOf, sentenceOf } from "./fieldIssues.ts"
import { ofSocket, turnRequest } from "./turnRequest.ts"
import { v1Events } from "./V1Events.ts"

/** Larger frames are refused, one at a time; the connection stays. */
const maxFrame = 1024 * 1024

/** Turns of one connection that may be about to start; until there is room, no more frames are read. */
const maxStarting = 16

const decodeMessage = Schema.decodeUnknownEffect(Schema.toCodecJson(ChatFrame), { errors: "all" })
const decodeControl = Schema.decodeUnknownEffect(Schema.toCodecJson(ControlFrame), { errors: "all" })

class FrameInvalid extends Schema.TaggedError<FrameInvalid>()("FrameInvalid", {
  code: Schema.Literals(["VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"]),
  message: Schema.String
}) {}

/** A turn that has been asked for and not been accepted. */
interface Starting {
  readonly sessionId: SessionId
  isCancelled: boolean
}

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

  const ids = yield* CurrentRequest
  /** What this connection does besides reading ends with it. */
  const run = yield* FiberSet.makeRuntime()

  /** Turns of this connection that have not ended, by session. */
  const active = new Map<string, Turn>()
  const starting = new Set<Starting>()
  let sessionId: SessionId = mintSessionId()
  let isOpen = true

  const feed = new ClientFeed({
    write: ([first, ...rest]) => {
      if (first !== undefined) run(Effect.ignore(writer.writeAll([first, ...rest])))
    },
    behind: () => connection?.writableLength ?? 0,
    cutOff: () => connection?.destroy()
  })
  const send = (json: string) => feed.send(json)
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
    const close = countStream(metrics, "websocket")
    v1Events(turn.feed).subscribe({
      onEvent: (_, json) => send(json),
      onEnd: () => {
        close()
        if (active.get(turn.sessionId) === turn) active.delete(turn.sessionId)
      }
    })
  }

  /** Starts a turn while frames are read on: the one it interrupts may take its time to be stored. */
  const start = (request: TurnRequest, mine: Starting) =>
    turns.start(request).pipe(
      Effect.map((turn) => {
        follow(turn)
        if (!isOpen) turn.cancel("client_disconnected")
        else if (mine.isCancelled) turn.cancel("client_request")
      }),
      Effect.ensuring(Effect.sync(() => starting.delete(mine))),
      answered,
      // A turn that has been accepted is always followed, and stopped if its client has gone.
      Effect.uninterruptible
    )

  const onMessage = Effect.fnUntraced(function* (frame: object) {
    const message = yield* decodeMessage(frame)
    sessionId = message.session_id ?? sessionId
    const mine: Starting = { sessionId, isCancelled: false }
    starting.add(mine)
    const fiber = run(start(turnRequest({ ...message, session_id: sessionId }, ofSocket(ids)), mine))
    if (starting.size >= maxStarting) yield* Fiber.await(fiber)
  })

  const onCancel = Effect.fnUntraced(function* (id: SessionId | null | undefined) {
    const session = id ?? sessionId
    const turn = active.get(session)
    const waiting = Array.from(starting).filter((one) => one.sessionId === session)
    if (turn === undefined && waiting.length === 0)
      return yield* sendError("NO_ACTIVE_STREAM", "No reply is being made in this session.")
    turn?.cancel("client_request")
    for (const one of waiting) one.isCancelled = true
  })

  /** Tells the client what went wrong with a frame of its. */
  const answered = <A>(
    effect: Effect.Effect<A, FrameInvalid | Schema.SchemaError | DbUnavailable | TurnsUnavailable>
  ): Effect.Effect<A | undefined> =>
    effect.pipe(
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
      Effect.map((value) => value ?? undefined)
    )

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
      answered,
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
        isOpen = false
        for (const turn of active.values()) turn.cancel("client_disconnected")
      })
    )
  )
  yield* Effect.ignore(writer.write(new Socket.CloseEvent(1000)))
})
