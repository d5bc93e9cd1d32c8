/**
 * Owns who runs a turn and when: accepts it, runs it apart from the connection that asked for it, one at a time per
 * session, keeps what came of it, and tells its events.
 *
 * Does not know the loop of a turn (`Agent` does), SQL (`TurnsRepo`) or connections (`http.ts`).
 */
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  type Fiber,
  Layer,
  Option,
  Schedule,
  Schema,
  Semaphore
} from "effect"
import { AppConfig } from "../Config.ts"
import type { DbUnavailable } from "../db/DbUnavailable.ts"
import { Llm, type LlmUnavailable, type ModelOverride, type ModelVariant } from "../llm/Llm.ts"
import { CurrentRequest } from "../observability/CurrentRequest.ts"
import { Metrics } from "../observability/Metrics.ts"
import { SpanName } from "../observability/SpanName.ts"
import { TraceStore } from "../observability/TraceStore.ts"
import { mintSessionId, type SessionId } from "../sessions/Session.ts"
import { Agent } from "./Agent.ts"
import { Transcript } from "./Transcript.ts"
import type { FinalEvent, Usage } from "./TurnEvent.ts"
import { TurnLog } from "./TurnLog.ts"
import { type EndStatus, TurnsRepo } from "./TurnsRepo.ts"

/** The server takes no turns now. */
export class TurnsUnavailable extends Schema.TaggedError<TurnsUnavailable>()("TurnsUnavailable", {
  reason: Schema.Literals(["overloaded", "draining"])
}) {
  override get message() {
    return this.reason === "draining"
      ? "The server is shutting down. Try again in a moment."
      : "The server has as many turns running as it can take. Try again in a moment."
  }
}

export interface TurnRequest {
  readonly message: string
  /** Absent: a new session, with an id minted for it. */
  readonly sessionId: SessionId | undefined
  readonly userId: string | undefined
  /** Merged into the session's. */
  readonly context: Readonly<Record<string, unknown>> | undefined
  readonly variant: ModelVariant
  readonly override: ModelOverride
  /** Whether the turn begins a trace of its own: a WebSocket outlives its turns. */
  readonly ownTrace: boolean
  /** What to do while another turn of the session runs. */
  readonly whenBusy: "wait" | "interrupt"
}

export type CancelReason =
  | "client_request"
  | "client_disconnected"
  | "new_message"
  | "session_deleted"
  | "shutdown"

export interface TurnResult {
  readonly status: EndStatus
  /** All that was said, complete or not. */
  readonly reply: string
  /** The assistant's message; `null` when nothing was said. */
  readonly messageId: string | null
  readonly tools: ReadonlyArray<string>
  readonly model: string
  readonly usage: Usage | null
  /** From the request to the end, waiting included. */
  readonly processingMillis: number
  readonly traceId: string
  /** Why it was stopped, when it was cancelled or interrupted. */
  readonly cancelReason: CancelReason | null
  /** A sentence for a person, and its code, when it failed. */
  readonly error: string | null
  readonly errorCode: string | null
}

export interface Turn {
  readonly id: string
  readonly sessionId: SessionId
  readonly log: TurnLog
  /** Waits for the end. Interrupting it leaves the turn alone. */
  readonly result: Effect.Effect<TurnResult>
  /** Stops the turn, if it has not ended. What it has said is kept. */
  readonly cancel: (reason: CancelReason) => void
}

export class Turns extends Context.Service<
  Turns,
  {
    /** Accepts a turn: once this answers, the user's message is kept, whatever happens. */
    readonly start: (request: TurnRequest) => Effect.Effect<Turn, TurnsUnavailable | DbUnavailable>
    /** Stops the session's running turn and those that wait. Answers whether there was any. */
    readonly cancelSession: (sessionId: string, reason: CancelReason) => Effect.Effect<boolean>
    /** Takes no more turns, gives the running ones until `grace`, then stops them, keeping what they said. */
    readonly drain: (grace: Duration.Duration) => Effect.Effect<void>
    /** Turns accepted and not ended, and whether more are taken. */
    readonly status: Effect.Effect<{ readonly open: number; readonly draining: boolean }>
  }
>()("voice-agent/agent/Turns") {
  static readonly layerNoDeps: Layer.Layer<
    Turns,
    DbUnavailable,
    Agent | TurnsRepo | Llm | AppConfig | Metrics | TraceStore
  > = Layer.effect(
    Turns,
    Effect.suspend(() => make)
  )
}

/** Marks the span of a turn that failed; the turn's result says the same. */
class TurnFailed extends Schema.TaggedError<TurnFailed>()("TurnFailed", { result: Schema.Any }) {
  override get message() {
    return (this.result as TurnResult).error ?? "The turn failed"
  }
}

class TurnTimedOut extends Schema.TaggedError<TurnTimedOut>()("TurnTimedOut", {}) {}

/** How often this process says that it lives. */
const heartbeatEvery = Duration.seconds(2)

/** How often a turn looks whether the session is free, when another process has it. */
const claimEvery = Duration.millis(100)

/** A turn in this process, from accepted to ended. */
interface OpenTurn extends Turn {
  readonly number: number
  /** Where it was asked for, such as `POST /api/v1/chat`. */
  readonly endpoint: string
  readonly ended: Deferred.Deferred<TurnResult>
  cancelled: CancelReason | undefined
  fiber: Fiber.Fiber<unknown, unknown> | undefined
}

/** The turns of one session in this process, oldest first. */
interface Lane {
  readonly accepting: Semaphore.Semaphore
  readonly turns: Array<OpenTurn>
  users: number
}

const make = Effect.gen(function* () {
  const agent = yield* Agent
  const repo = yield* TurnsRepo
  const llm = yield* Llm
  const config = yield* AppConfig
  const metrics = yield* Metrics
  const traces = yield* TraceStore
  const clock = yield* Clock.Clock
  const scope = yield* Effect.scope

  const owner = crypto.randomUUID()
  const lanes = new Map<string, Lane>()
  let open = 0
  let draining = false

  if (config.databaseUrl === undefined) yield* repo.interruptAll
  yield* repo.heartbeat(owner)
  yield* repo.heartbeat(owner).pipe(
    Effect.catch((error) => Effect.logWarning("The heartbeat was missed", error.message)),
    Effect.repeat(Schedule.spaced(heartbeatEvery)),
    Effect.delay(heartbeatEvery),
    Effect.withTracerEnabled(false),
    Effect.forkIn(scope)
  )

  const enterLane = (sessionId: string): Lane => {
    const lane = lanes.get(sessionId) ?? { accepting: Semaphore.makeUnsafe(1), turns: [], users: 0 }
    lanes.set(sessionId, lane)
    lane.users++
    return lane
  }
  const leaveLane = (sessionId: string, lane: Lane) => {
    lane.users--
    if (lane.users === 0) lanes.delete(sessionId)
  }

  const cancelLane = (lane: Lane | undefined, reason: CancelReason): boolean => {
    for (const turn of lane?.turns ?? []) turn.cancel(reason)
    return (lane?.turns.length ?? 0) > 0
  }

  /** Waits until the session is this turn's. False: the turn was ended by someone else. */
  const awaitSession = Effect.fnUntraced(function* (
    turn: OpenTurn,
    running: boolean,
    previous: OpenTurn | undefined
  ) {
    if (previous !== undefined) yield* Deferred.await(previous.ended)
    if (running) return
    yield* Effect.repeat(
      Effect.catch(repo.claim(turn.id, turn.sessionId, turn.number), () => Effect.succeed(false)),
      { until: (claimed) => claimed, schedule: Schedule.spaced(claimEvery) }
    )
  })

  /** Runs an accepted turn to its end, whatever that is. */
  const run = (
    request: TurnRequest,
    turn: OpenTurn,
    transcript: Transcript,
    running: boolean,
    previous: OpenTurn | undefined
  ) =>
    Effect.gen(function* () {
      const traceId = yield* currentTraceId
      const exit = yield* awaitSession(turn, running, previous).pipe(
        Effect.andThen(repo.history(turn.sessionId, turn.number)),
        Effect.flatMap((history) =>
          agent.run({
            sessionId: turn.sessionId,
            userId: request.userId,
            history,
            variant: request.variant,
            override: request.override,
            transcript,
            emit: (event) => turn.log.append(event)
          })
        ),
        Effect.timeoutOrElse({
          duration: config.turnTimeout,
          orElse: () => new TurnTimedOut()
        }),
        Effect.interruptible,
        Effect.exit
      )
      const outcome = outcomeOf(exit, turn.cancelled)
      if (Exit.isFailure(exit) && outcome.errorCode === "INTERNAL_ERROR") {
        yield* Effect.logError("A turn failed unexpectedly", exit.cause)
      }
      const result: TurnResult = {
        ...outcome,
        reply: transcript.reply,
        messageId: transcript.reply === "" ? null : crypto.randomUUID(),
        tools: transcript.toolNames,
        model: transcript.model,
        usage: transcript.totalUsage ?? null,
        processingMillis: Math.round(clock.currentTimeMillisUnsafe() - turn.log.startedAt),
        traceId
      }
      return yield* keep(turn, transcript, result)
    })

  /** Stores the end of a turn. What can't be stored is not acknowledged. */
  const keep = (turn: OpenTurn, transcript: Transcript, result: TurnResult): Effect.Effect<TurnResult> =>
    repo
      .end({
        turnId: turn.id,
        owner,
        status: result.status,
        model: result.model,
        errorCode: result.errorCode,
        traceId: result.traceId,
        reply:
          result.messageId === null ? undefined : { messageId: result.messageId, content: transcript.reply },
        metadata: {
          model: result.model,
          tool_calls: result.tools.length,
          ...(result.tools.length === 0 ? {} : { tools: result.tools }),
          ...(result.status === "completed" ? {} : { status: result.status })
        },
        calls: transcript.calls,
        usage: transcript.usage
      })
      .pipe(
        Effect.retry(Schedule.max([Schedule.spaced("500 millis"), Schedule.recurs(20)])),
        Effect.map((kept) => kept || turn.cancelled === "session_deleted"),
        Effect.catch((error) =>
          Effect.as(Effect.logError("A reply could not be stored", error.message), false)
        ),
        Effect.map((kept) =>
          kept
            ? result
            : {
                ...result,
                status: "failed",
                messageId: null,
                error: "The reply could not be stored. Try again in a moment.",
                errorCode: "SERVICE_UNAVAILABLE"
              }
        )
      )

  const finish = (turn: OpenTurn, lane: Lane, result: TurnResult) =>
    Effect.sync(() => {
      open--
      lane.turns.splice(lane.turns.indexOf(turn), 1)
      leaveLane(turn.sessionId, lane)
      turn.log.end(finalEvent(result))
      metrics.turnsOpen(open)
      metrics.turnEnded({
        outcome: result.status,
        seconds: result.processingMillis / 1000,
        firstDeltaSeconds:
          turn.log.firstDeltaAt === undefined
            ? undefined
            : (turn.log.firstDeltaAt - turn.log.startedAt) / 1000
      })
      traces.addSample({
        sessionId: turn.sessionId,
        endpoint: turn.endpoint,
        responseMillis: result.processingMillis,
        status: result.status,
        at: turn.log.startedAt
      })
      Deferred.doneUnsafe(turn.ended, Effect.succeed(result))
    })

  const open_ = Effect.fnUntraced(function* (request: TurnRequest, sessionId: SessionId, lane: Lane) {
    if (request.whenBusy === "interrupt" && cancelLane(lane, "new_message")) {
      yield* Effect.forEach(lane.turns, (turn) => turn.result, { concurrency: "unbounded", discard: true })
    }
    const id = crypto.randomUUID()
    const log = new TurnLog(id, sessionId, () => clock.currentTimeMillisUnsafe())
    const model = llm.modelFor(request.variant, request.override)
    const previous = lane.turns.at(-1)
    const accepted = yield* repo.accept({
      turnId: id,
      sessionId,
      userId: request.userId,
      messageId: crypto.randomUUID(),
      message: request.message,
      context: request.context,
      owner,
      mayRun: previous === undefined
    })
    metrics.turnsOpen(open)
    const { method, route = "" } = yield* CurrentRequest
    const ended = Deferred.makeUnsafe<TurnResult>()
    const turn: OpenTurn = {
      id,
      sessionId,
      log,
      number: accepted.number,
      endpoint: `${method} ${route}`.trim(),
      ended,
      result: Deferred.await(ended),
      cancelled: undefined,
      fiber: undefined,
      cancel: (reason) => {
        if (turn.cancelled !== undefined) return
        turn.cancelled = reason
        turn.fiber?.interruptUnsafe()
      }
    }
    lane.turns.push(turn)
    lane.users++
    log.append({ type: "start", model, turn_id: id })
    const transcript = new Transcript(request.message, model)
    turn.fiber = yield* run(request, turn, transcript, accepted.running, previous).pipe(
      Effect.flatMap((result) =>
        result.error === null ? Effect.succeed(result) : new TurnFailed({ result })
      ),
      Effect.withSpan(SpanName.sendMessage, {
        root: request.ownTrace,
        attributes: { session_id: sessionId, turn_id: id }
      }),
      Effect.catchTag("TurnFailed", ({ result }) => Effect.succeed(result as TurnResult)),
      Effect.annotateLogs({ session_id: sessionId }),
      Effect.flatMap((result) => finish(turn, lane, result)),
      Effect.forkIn(scope, { startImmediately: true, uninterruptible: true })
    )
    return turn
  })

  const start = (request: TurnRequest) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.suspend((): Effect.Effect<OpenTurn, TurnsUnavailable | DbUnavailable> => {
        if (draining) return new TurnsUnavailable({ reason: "draining" })
        if (open >= config.maxConcurrentTurns) return new TurnsUnavailable({ reason: "overloaded" })
        open++
        const sessionId = request.sessionId ?? mintSessionId()
        const lane = enterLane(sessionId)
        return restore(lane.accepting.take(1)).pipe(
          Effect.andThen(Effect.ensuring(open_(request, sessionId, lane), lane.accepting.release(1))),
          Effect.onError(() => Effect.sync(() => open--)),
          Effect.ensuring(Effect.sync(() => leaveLane(sessionId, lane)))
        )
      })
    )

  const drain = (grace: Duration.Duration) =>
    Effect.gen(function* () {
      draining = true
      const all = Array.from(lanes.values()).flatMap((lane) => lane.turns)
      const ends = Effect.forEach(all, (turn) => turn.result, { concurrency: "unbounded", discard: true })
      yield* Effect.timeoutOption(ends, grace)
      for (const turn of all) turn.cancel("shutdown")
      yield* ends
    })

  return Turns.of({
    start,
    cancelSession: (sessionId, reason) => Effect.sync(() => cancelLane(lanes.get(sessionId), reason)),
    drain,
    status: Effect.sync(() => ({ open, draining }))
  })
})

const currentTraceId = Effect.map(Effect.option(Effect.currentSpan), (span) =>
  Option.match(span, { onNone: () => "", onSome: ({ traceId }) => traceId })
)

type Outcome = Pick<TurnResult, "status" | "cancelReason" | "error" | "errorCode">

const failed = (errorCode: string, error: string): Outcome => ({
  status: "failed",
  cancelReason: null,
  error,
  errorCode
})

/** How a turn ended, told from how its effect did. `cancelled` is why it was stopped, if it was. */
const outcomeOf = (
  exit: Exit.Exit<void, LlmUnavailable | DbUnavailable | TurnTimedOut>,
  cancelled: CancelReason | undefined
): Outcome => {
  if (Exit.isSuccess(exit)) return { status: "completed", cancelReason: null, error: null, errorCode: null }
  if (Cause.hasInterruptsOnly(exit.cause)) {
    const cancelReason = cancelled ?? "shutdown"
    const status = cancelReason === "shutdown" ? "interrupted" : "cancelled"
    return { status, cancelReason, error: null, errorCode: null }
  }
  const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  switch (error?._tag) {
    case "LlmUnavailable":
      return error.reason === "timeout"
        ? failed("LLM_TIMEOUT", "The language model took too long to answer.")
        : failed("LLM_UNAVAILABLE", "The language model is not available at the moment.")
    case "DbUnavailable":
      return failed("SERVICE_UNAVAILABLE", "The database is not available at the moment.")
    case "TurnTimedOut":
      return failed("TURN_TIMEOUT", "The answer took too long and was stopped.")
    default:
      return failed("INTERNAL_ERROR", "Something went wrong on our side.")
  }
}

const finalEvent = (result: TurnResult): FinalEvent =>
  result.error !== null
    ? { type: "error", error: result.error, error_code: result.errorCode ?? "INTERNAL_ERROR" }
    : result.status === "completed"
      ? {
          type: "end",
          content: result.reply,
          metadata: {
            message_id: result.messageId,
            tool_calls: result.tools.length,
            model: result.model,
            usage: result.usage,
            processing_time_ms: result.processingMillis,
            trace_id: result.traceId
          }
        }
      : { type: "cancelled", reason: result.cancelReason ?? "shutdown" }
