/**
 * Owns who runs a turn and when: accepts it, runs it apart from the connection that asked for it, one at a time per
 * session, keeps what came of it, and tells its events.
 *
 * Does not know the loop of a turn (`Agent` does), SQL (`TurnsRepo`) or connections (`http/`).
 */
import {
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
import { Agent } from "../agent/Agent.ts"
import { Transcript } from "../agent/Transcript.ts"
import { mintSessionId, type SessionId } from "../api/Session.ts"
import { AppConfig } from "../Config.ts"
import type { DbUnavailable } from "../db/DbUnavailable.ts"
import { Llm, type ModelOverride, type ModelVariant } from "../llm/Llm.ts"
import { Metrics } from "../observability/Metrics.ts"
import { SpanName } from "../observability/SpanName.ts"
import { TraceStore } from "../traces/TraceStore.ts"
import { makeTurnEnds } from "./TurnEnds.ts"
import type { TurnFeed } from "./TurnFeed.ts"
import { TurnLog } from "./TurnLog.ts"
import {
  asNotStored,
  type CancelReason,
  type Outcome,
  outcomeOf,
  type TurnResult,
  TurnTaken,
  TurnTimedOut,
  unexpected
} from "./TurnResult.ts"
import { type AcceptedTurn, instanceExpirySeconds, TurnsRepo } from "./TurnsRepo.ts"

export type { CancelReason, TurnResult } from "./TurnResult.ts"

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

/** Where a turn was asked for. */
export interface TurnOrigin {
  /** Such as `POST /api/v1/chat`. */
  readonly name: string
  /** `own`: the turn begins a trace, since what asked for it outlives it. `continued`: it is part of the caller's. */
  readonly trace: "own" | "continued"
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
  readonly origin: TurnOrigin
  /** What to do while another turn of the session runs. */
  readonly whenBusy: "wait" | "interrupt"
}

export interface Turn {
  readonly id: string
  readonly sessionId: SessionId
  readonly feed: TurnFeed
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
    /** An open turn. One that has ended, or that another process runs, is not found. */
    readonly find: (turnId: string) => Effect.Effect<Option.Option<Turn>>
    /** Stops the turn, if it is open here. What it has said is kept. Answers whether it was. */
    readonly stop: (turnId: string, reason: CancelReason) => Effect.Effect<boolean>
    /** Stops the session's running turn and those that wait. Answers whether there was any. */
    readonly cancelSession: (sessionId: string, reason: CancelReason) => Effect.Effect<boolean>
    /** Takes no more turns, gives the running ones until `grace`, then stops them, keeping what they said. */
    readonly drain: (grace: Duration.Duration) => Effect.Effect<void>
    /** Turns accepted and not ended, and whether more are taken. */
    readonly status: Effect.Effect<{ readonly open: number; readonly draining: boolean }>
  }
>()("voice-agent/turns/Turns") {
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

/** The pace at which processes that share a database take note of one another. */
export const TurnPace = Context.Reference("voice-agent/turns/TurnPace", {
  defaultValue: () => ({
    /** How often this process says that it lives. */
    heartbeatEvery: Duration.seconds(2),
    /** How often a turn looks whether the session is free, when another process has it. */
    claimEvery: Duration.millis(100)
  })
})

const instanceExpiryMillis = instanceExpirySeconds * 1000

/** A turn in this process, from accepted to ended. */
interface OpenTurn extends Turn {
  readonly number: number
  readonly feed: TurnLog
  readonly origin: TurnOrigin
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

  const { claimEvery, heartbeatEvery } = yield* TurnPace

  const owner = crypto.randomUUID()
  const lanes = new Map<string, Lane>()
  const openTurns = new Map<string, OpenTurn>()
  let open = 0
  let draining = false
  /** Turns get no more time. */
  let stopping = false
  const idle = Deferred.makeUnsafe<void>()
  const ends = makeTurnEnds(repo, owner, () => stopping)

  let lastBeat = clock.currentTimeMillisUnsafe()
  let judgesFrom = lastBeat
  /**
   * Who could not say that it lives for a while, because the database was away or this machine slept, is no judge of
   * others, who may have been kept from it by the same.
   */
  const beat = Effect.suspend(() => {
    const now = clock.currentTimeMillisUnsafe()
    if (now - lastBeat > instanceExpiryMillis / 2) judgesFrom = now + instanceExpiryMillis
    return Effect.map(repo.heartbeat(owner, now >= judgesFrom), () => {
      lastBeat = now
    })
  })

  if (config.databaseUrl === undefined) yield* repo.interruptAll
  yield* beat
  yield* beat.pipe(
    Effect.andThen(ends.keepLate),
    Effect.catch((error) => Effect.logWarning("The heartbeat was missed", error.message)),
    // Without a heartbeat the other processes would take this one for dead.
    Effect.catchDefect((defect) => Effect.logError("The heartbeat failed unexpectedly", defect)),
    Effect.repeat(Schedule.spaced(heartbeatEvery)),
    Effect.delay(heartbeatEvery),
    Effect.withTracerEnabled(false),
    Effect.forkIn(scope)
  )

  const release = () => {
    open--
    if (draining && open === 0) Deferred.doneUnsafe(idle, Effect.void)
  }

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
    const turns = [...(lane?.turns ?? [])]
    for (const turn of turns) turn.cancel(reason)
    return turns.length > 0
  }

  /** Waits until the session is this turn's. */
  const awaitSession = Effect.fnUntraced(function* (
    turn: OpenTurn,
    running: boolean,
    previous: OpenTurn | undefined
  ) {
    if (previous !== undefined) yield* Deferred.await(previous.ended)
    if (running) return
    const claim = yield* Effect.repeat(
      Effect.catch(repo.claim(turn.id, turn.sessionId, turn.number), () => Effect.succeed("busy" as const)),
      { while: (claim) => claim === "busy", schedule: Schedule.spaced(claimEvery) }
    )
    if (claim !== "claimed") yield* new TurnTaken({ isDeleted: claim === "gone" })
  })

  /** Runs an accepted turn to its end, whatever that is. */
  const run = (
    request: TurnRequest,
    turn: OpenTurn,
    transcript: Transcript,
    accepted: AcceptedTurn,
    previous: OpenTurn | undefined
  ) =>
    Effect.gen(function* () {
      const traceId = yield* currentTraceId
      const exit = yield* awaitSession(turn, accepted.running, previous).pipe(
        Effect.andThen(
          accepted.history === undefined
            ? repo.history(turn.sessionId, turn.number)
            : Effect.succeed(accepted.history)
        ),
        Effect.flatMap((history) =>
          agent.run({
            sessionId: turn.sessionId,
            userId: request.userId,
            message: request.message,
            history,
            variant: request.variant,
            override: request.override,
            emit: (event) => {
              transcript.add(event)
              turn.feed.append(event)
            }
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
      return yield* keep(turn, transcript, resultOf(turn, transcript, traceId, outcome))
    })

  const resultOf = (
    turn: OpenTurn,
    transcript: Transcript,
    traceId: string,
    outcome: Outcome
  ): TurnResult => ({
    ...outcome,
    reply: transcript.reply,
    messageId: transcript.reply === "" ? null : crypto.randomUUID(),
    tools: transcript.toolNames,
    model: transcript.model,
    usage: transcript.totalUsage ?? null,
    processingMillis: Math.round(clock.currentTimeMillisUnsafe() - turn.feed.startedAt),
    traceId
  })

  /** Stores the end of a turn. What can't be stored is not acknowledged. */
  const keep = (turn: OpenTurn, transcript: Transcript, result: TurnResult): Effect.Effect<TurnResult> =>
    ends
      .keep({
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
        Effect.map((kept) =>
          // What was cancelled with its session is not there to be ended.
          kept || turn.cancelled === "session_deleted" || result.cancelReason === "session_deleted"
            ? result
            : asNotStored(result)
        )
      )

  const finish = (turn: OpenTurn, lane: Lane, result: TurnResult) =>
    Effect.sync(() => {
      lane.turns.splice(lane.turns.indexOf(turn), 1)
      openTurns.delete(turn.id)
      leaveLane(turn.sessionId, lane)
      turn.feed.end({ type: "ended", result })
      Deferred.doneUnsafe(turn.ended, Effect.succeed(result))
      release()
      metrics.turnsOpen(open)
      metrics.turnEnded({
        outcome: result.status,
        seconds: result.processingMillis / 1000,
        firstDeltaSeconds:
          turn.feed.firstTextAt === undefined
            ? undefined
            : (turn.feed.firstTextAt - turn.feed.startedAt) / 1000
      })
      traces.addSample({
        sessionId: turn.sessionId,
        endpoint: turn.origin.name,
        responseMillis: result.processingMillis,
        status: result.status,
        at: turn.feed.startedAt
      })
    })

  const open_ = Effect.fnUntraced(function* (request: TurnRequest, sessionId: SessionId, lane: Lane) {
    if (request.whenBusy === "interrupt" && cancelLane(lane, "new_message")) {
      yield* Effect.forEach([...lane.turns], (turn) => turn.result, { discard: true })
    }
    if (stopping) return yield* new TurnsUnavailable({ reason: "draining" })
    const id = crypto.randomUUID()
    const log = new TurnLog(id, sessionId, () => clock.currentTimeMillisUnsafe())
    const model = llm.modelFor(request.variant, request.override)
    const previous = lane.turns.at(-1)
    const span = yield* Effect.makeSpan(SpanName.sendMessage, {
      root: request.origin.trace === "own",
      attributes: { session_id: sessionId, turn_id: id }
    })
    const endSpan = (exit: Exit.Exit<unknown, unknown>) =>
      Effect.sync(() => span.end(clock.currentTimeNanosUnsafe(), exit))
    const accepted = yield* repo
      .accept({
        turnId: id,
        sessionId,
        userId: request.userId,
        messageId: crypto.randomUUID(),
        message: request.message,
        context: request.context,
        owner,
        mayRun: previous === undefined
      })
      .pipe(
        Effect.withParentSpan(span),
        Effect.onError((cause) => Effect.andThen(endSpan(Exit.failCause(cause)), ends.disown(id)))
      )
    metrics.turnsOpen(open)
    const ended = Deferred.makeUnsafe<TurnResult>()
    const turn: OpenTurn = {
      id,
      sessionId,
      feed: log,
      number: accepted.number,
      origin: request.origin,
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
    openTurns.set(id, turn)
    lane.users++
    log.append({ type: "accepted", model })
    const transcript = new Transcript(request.message, model)
    turn.fiber = yield* run(request, turn, transcript, accepted, previous).pipe(
      Effect.flatMap((result) =>
        result.error === null ? Effect.succeed(result) : new TurnFailed({ result })
      ),
      Effect.onExit((exit) => endSpan(exit)),
      Effect.withParentSpan(span),
      Effect.catchTag("TurnFailed", ({ result }) => Effect.succeed(result as TurnResult)),
      // A bug of ours must not keep the session and its callers waiting for ever.
      Effect.catchDefect((defect) =>
        Effect.logError("A turn failed unexpectedly", defect).pipe(
          Effect.andThen(ends.disown(id)),
          Effect.as(asNotStored(resultOf(turn, transcript, "", unexpected)))
        )
      ),
      Effect.annotateLogs({ session_id: sessionId }),
      Effect.flatMap((result) => finish(turn, lane, result)),
      Effect.forkIn(scope, { startImmediately: true, uninterruptible: true })
    )
    if (stopping) turn.cancel("shutdown")
    // It may have been cancelled before there was a fiber to interrupt.
    if (turn.cancelled !== undefined) turn.fiber.interruptUnsafe()
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
          Effect.onError(() => Effect.sync(release)),
          Effect.ensuring(Effect.sync(() => leaveLane(sessionId, lane)))
        )
      })
    )

  const drain = (grace: Duration.Duration) =>
    Effect.gen(function* () {
      draining = true
      if (open === 0) return
      yield* Effect.timeoutOption(Deferred.await(idle), grace)
      stopping = true
      for (const lane of lanes.values()) cancelLane(lane, "shutdown")
      yield* Deferred.await(idle)
    })

  return Turns.of({
    start,
    find: (turnId) => Effect.sync(() => Option.fromUndefinedOr(openTurns.get(turnId))),
    stop: (turnId, reason) =>
      Effect.sync(() => {
        const turn = openTurns.get(turnId)
        turn?.cancel(reason)
        return turn !== undefined
      }),
    cancelSession: (sessionId, reason) => Effect.sync(() => cancelLane(lanes.get(sessionId), reason)),
    drain,
    status: Effect.sync(() => ({ open, draining }))
  })
})

const currentTraceId = Effect.map(Effect.option(Effect.currentSpan), (span) =>
  Option.match(span, { onNone: () => "", onSome: ({ traceId }) => traceId })
)
