/**
 * Owns one attempt at one model: the stream runs in a fiber of its own, a watchdog bounds how long nothing may come, and
 * the attempt is open once its first token is there.
 *
 * Does not try again or choose models (`LlmPolicy.ts` does).
 *
 * A timeout around each pull would fork two fibers per token. Here the parts pass through a mailbox, and one sleeping
 * watchdog per attempt looks at when the last ones came.
 */
import { type Array as Arr, Cause, Clock, Effect, Exit, Option, type Pull, Scope, Stream } from "effect"
import * as AiError from "effect/ai/AiError"
import type { LlmPart } from "./Llm.ts"
import { type AttemptFailed, badResponse, classify, timedOut } from "./LlmFailure.ts"

export type Parts = Arr.NonEmptyReadonlyArray<LlmPart>
type PartsPull = Pull.Pull<Parts, AttemptFailed>

export interface AttemptLimits {
  readonly firstTokenMillis: number
  readonly betweenTokensMillis: number
  /** By the monotonic clock, as `monotonicMillis` reads it. */
  readonly deadlineMillis: number
}

/** An attempt whose first token has come. */
export interface OpenAttempt {
  /** Everything up to and with the first token. */
  readonly first: Parts
  /** What follows. Done after a `finish` part only. */
  readonly pull: PartsPull
}

/** Chunks a slow reader may be behind before the model's connection is paused. */
const maxWaiting = 16

export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1e6

/** Whether a part shows that the model has begun to answer. `finish`: it answered with nothing. */
const isToken = (part: LlmPart): boolean => {
  switch (part.type) {
    case "text-delta":
    case "reasoning-delta":
    case "tool-params-start":
    case "tool-call":
    case "file":
    case "finish":
      return true
    default:
      return false
  }
}

class Mailbox {
  /** When parts last came, or the attempt began. */
  lastMillis: number
  hasToken = false
  readonly #clock: Clock.Clock
  #waiting: Array<Parts> = []
  #reader: ((parts: PartsPull) => void) | undefined = undefined
  #writer: ((ready: Effect.Effect<void>) => void) | undefined = undefined
  #end: AttemptFailed | "done" | undefined = undefined
  #hasFinish = false

  constructor(clock: Clock.Clock) {
    this.#clock = clock
    this.lastMillis = monotonicMillis(clock)
  }

  /** Whether the model waits for the reader, and not the other way round. */
  get isFull(): boolean {
    return this.#writer !== undefined
  }

  offer(parts: Parts): Effect.Effect<void> {
    this.lastMillis = monotonicMillis(this.#clock)
    for (const [n, part] of parts.entries()) {
      if (part.type === "error") {
        const [head, ...rest] = parts.slice(0, n)
        if (head !== undefined) this.#waiting.push([head, ...rest])
        this.end(failureOfPart(part.error))
        return Effect.void
      }
      if (!this.hasToken && isToken(part)) this.hasToken = true
      if (part.type === "finish") this.#hasFinish = true
    }
    this.#waiting.push(parts)
    this.#wakeReader()
    if (this.#waiting.length < maxWaiting) return Effect.void
    return Effect.callback((resume) => {
      this.#writer = resume
    })
  }

  /** The first call counts. */
  end(how: AttemptFailed | "done"): void {
    if (this.#end !== undefined) return
    this.#end =
      how === "done" && !this.#hasFinish ? badResponse("The model's stream ended without a finish part") : how
    this.#wakeReader()
  }

  /** All that waits, as one chunk. */
  readonly take: PartsPull = Effect.suspend(() => {
    const ready = this.#ready()
    if (ready !== undefined) return ready
    return Effect.callback<Parts, AttemptFailed | Cause.Done>((resume) => {
      this.#reader = resume
      return Effect.sync(() => {
        this.#reader = undefined
      })
    })
  })

  #ready(): PartsPull | undefined {
    const [head, ...rest] = this.#waiting
    if (head !== undefined) {
      this.#waiting = []
      const writer = this.#writer
      if (writer !== undefined) {
        this.#writer = undefined
        // The wait was the reader's; the model's own begins now.
        this.lastMillis = monotonicMillis(this.#clock)
        writer(Effect.void)
      }
      return Effect.succeed(rest.length === 0 ? head : ([...head, ...rest.flat()] as const))
    }
    if (this.#end === undefined) return undefined
    return this.#end === "done" ? Cause.done() : Effect.fail(this.#end)
  }

  #wakeReader(): void {
    const reader = this.#reader
    if (reader === undefined) return
    const ready = this.#ready()
    if (ready === undefined) return
    this.#reader = undefined
    reader(ready)
  }
}

const failureOfPart = (error: unknown): AttemptFailed =>
  AiError.isAiError(error) ? classify(error, 0) : badResponse("The model's stream reported an error", error)

const failureOfCause = (cause: Cause.Cause<AiError.AiError>, nowMillis: number): AttemptFailed =>
  Option.match(Cause.findErrorOption(cause), {
    onNone: () => badResponse("The model's provider failed", Cause.squash(cause)),
    onSome: (error) => classify(error, nowMillis)
  })

/**
 * Runs a model's stream in the scope, which ends it, and waits for its first token. Fails for whatever comes before one.
 */
export const openAttempt = Effect.fnUntraced(function* (
  stream: Stream.Stream<LlmPart, AiError.AiError>,
  limits: AttemptLimits
): Effect.fn.Return<OpenAttempt, AttemptFailed, Scope.Scope> {
  const scope = yield* Scope.Scope
  const clock = yield* Clock.Clock
  const mailbox = new Mailbox(clock)
  const beganMillis = mailbox.lastMillis

  yield* stream.pipe(
    Stream.runForEachArray((parts) => mailbox.offer(parts)),
    Effect.onExit((exit) =>
      Effect.sync(() =>
        mailbox.end(
          Exit.isSuccess(exit) ? "done" : failureOfCause(exit.cause, clock.currentTimeMillisUnsafe())
        )
      )
    ),
    Effect.ignoreCause,
    Effect.forkIn(scope)
  )

  const watch = Effect.gen(function* () {
    for (;;) {
      const now = monotonicMillis(clock)
      if (mailbox.isFull) mailbox.lastMillis = now
      const due = Math.min(
        mailbox.hasToken
          ? mailbox.lastMillis + limits.betweenTokensMillis
          : beganMillis + limits.firstTokenMillis,
        limits.deadlineMillis
      )
      if (now >= due) {
        const waited = Math.round(now - (mailbox.hasToken ? mailbox.lastMillis : beganMillis))
        return mailbox.end(
          timedOut(
            now >= limits.deadlineMillis
              ? "The model call took longer than it may in all"
              : `No ${mailbox.hasToken ? "further" : "first"} token within ${waited} ms`
          )
        )
      }
      // Rounded up: a sleep that ends a fraction early would only sleep again.
      yield* Effect.sleep(Math.ceil(due - now))
    }
  })
  yield* Effect.forkIn(watch, scope)

  let first = yield* takeFirst(mailbox)
  while (!mailbox.hasToken) {
    const more = yield* takeFirst(mailbox)
    first = [...first, ...more] as const
  }
  return { first, pull: mailbox.take }
})

/** Before the first token an end is a failure already: the mailbox ends well after a `finish` part only. */
const takeFirst = (mailbox: Mailbox): Effect.Effect<Parts, AttemptFailed> =>
  Effect.catch(mailbox.take, (error) =>
    Effect.fail(Cause.isDone(error) ? badResponse("The model's stream ended before its first token") : error)
  )
