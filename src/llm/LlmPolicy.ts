/**
 * Owns the failure policy around model calls: retries before the first token, a circuit breaker per model, the next model
 * of the plan, time limits, and what is told of all that.
 *
 * Does not choose models or settings (`Llm.ts` does). Nothing is tried again once a token is out.
 */
import {
  type Array as Arr,
  Cause,
  Clock,
  Data,
  Duration,
  Effect,
  Exit,
  Metric,
  type Pull,
  Schedule,
  Scope,
  Stream
} from "effect"
import type { AiError } from "effect/ai"
import * as Response from "effect/ai/Response"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import { watchBreaker } from "../observability/Breakers.ts"
import type { LlmFailureReason, LlmPart, LlmTimeouts } from "./Llm.ts"
import { monotonicMillis, type OpenAttempt, openAttempt, type Parts } from "./LlmAttempt.ts"
import { AttemptFailed, timedOut } from "./LlmFailure.ts"
import * as LlmMetrics from "./LlmMetrics.ts"

/** Numbers of the failure policy in docs/ARCHITECTURE.md that are not time limits. */
export interface LlmRetries {
  /** Attempts after the first, at one model. */
  readonly times: number
  /** Wait before the first of them; each further one waits twice as long, give or take a fifth. */
  readonly base: Duration.Duration
  /** Longest `Retry-After` that is waited out. */
  readonly maxRetryAfter: Duration.Duration
}

export interface LlmBreaker {
  /** Calls in a row that have to fail, retries included, for a model to be left alone. */
  readonly failures: number
  /** For how long, until one call may try again. */
  readonly openFor: Duration.Duration
}

export interface LlmPolicyOptions {
  /** The connect limit is the provider's to keep. */
  readonly timeouts: Omit<LlmTimeouts, "connect">
  readonly retries: LlmRetries
  readonly breaker: LlmBreaker
  /** The configured models, which may be labels of metrics. */
  readonly knownModels: ReadonlySet<string>
}

export const defaultRetries: LlmRetries = {
  times: 3,
  base: Duration.millis(500),
  maxRetryAfter: Duration.seconds(10)
}

export const defaultBreaker: LlmBreaker = { failures: 5, openFor: Duration.seconds(30) }

/** One model of a plan, and how to ask it. */
export interface Candidate {
  readonly model: string
  readonly stream: Stream.Stream<LlmPart, AiError.AiError>
}

/** No model of the plan answered, or the one that did broke off. */
export class CallFailed extends Data.TaggedError("CallFailed")<{
  readonly model: string
  readonly reason: LlmFailureReason
  readonly midStream: boolean
  readonly cause: unknown
}> {}

/** The policy holds the breakers, so one is made per process. */
export const make = Effect.fnUntraced(function* (options: LlmPolicyOptions) {
  const breaker = yield* CircuitBreaker.make({
    tripPolicy: CircuitBreaker.consecutive(options.breaker.failures),
    openDuration: options.breaker.openFor
  })
  /** What the last failure of a model was: the reason given while its breaker is open. */
  const lastReasons = new Map<string, LlmFailureReason>()
  const totalMillis = Duration.toMillis(options.timeouts.total)
  const label = (model: string) => (options.knownModels.has(model) ? model : "other")
  yield* watchBreaker(breaker, (model) => `model/${label(model)}`, options.knownModels)

  const countError = (model: string, reason: LlmFailureReason, midStream: boolean) =>
    Metric.update(
      Metric.withAttributes(LlmMetrics.errors, {
        model: label(model),
        reason,
        mid_stream: String(midStream)
      }),
      1
    )

  const attempt = (candidate: Candidate, scope: Scope.Scope, deadlineMillis: number) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        // Its own scope, so that a failed attempt lets go of its connection at once.
        const own = yield* Scope.fork(scope)
        const limits = {
          firstTokenMillis: Duration.toMillis(options.timeouts.firstToken),
          betweenTokensMillis: Duration.toMillis(options.timeouts.betweenTokens),
          deadlineMillis
        }
        const exit = yield* Effect.exit(restore(Scope.provide(openAttempt(candidate.stream, limits), own)))
        if (Exit.isFailure(exit)) yield* Scope.close(own, exit)
        return yield* exit
      })
    ).pipe(Effect.tapError((failure) => countError(candidate.model, failure.reason, false)))

  const retrySchedule = (model: string) =>
    Schedule.exponential(options.retries.base).pipe(
      Schedule.setInputType<AttemptFailed>(),
      Schedule.jittered,
      Schedule.while(({ attempt, input }) => input.isRetryable && attempt <= options.retries.times),
      Schedule.modifyDelay(({ duration, input }) =>
        Effect.succeed(
          input.retryAfter === undefined
            ? duration
            : Duration.max(duration, Duration.min(input.retryAfter, options.retries.maxRetryAfter))
        )
      ),
      Schedule.tap(({ attempt, duration, input }) =>
        Effect.andThen(
          spanEvent("llm.retry", {
            model,
            attempt,
            reason: input.reason,
            delay_ms: Math.round(Duration.toMillis(duration))
          }),
          Metric.update(
            Metric.withAttributes(LlmMetrics.retries, { model: label(model), reason: input.reason }),
            1
          )
        )
      )
    )

  /** One model with its retries, behind its breaker. */
  const openModel = (candidate: Candidate, scope: Scope.Scope, deadlineMillis: number) =>
    attempt(candidate, scope, deadlineMillis).pipe(
      Effect.retry(retrySchedule(candidate.model)),
      Effect.tapError((failure) =>
        Effect.sync(() => {
          if (!failure.isUnhealthy) return
          lastReasons.delete(candidate.model)
          lastReasons.set(candidate.model, failure.reason)
          const oldest = lastReasons.keys().next()
          if (lastReasons.size > maxReasons && oldest.done !== true) lastReasons.delete(oldest.value)
        })
      ),
      breaker.execute({ key: candidate.model, classify: outcomeOf }),
      Effect.catchTag("CircuitBreakerError", (error) => {
        const reason = lastReasons.get(candidate.model) ?? "server_error"
        return Effect.andThen(
          spanEvent("llm.shed", { model: candidate.model, reason }),
          Effect.fail(new AttemptFailed({ reason, isRetryable: false, isUnhealthy: true, cause: error }))
        )
      })
    )

  /** The first model of the plan that begins to answer. `asked` follows along, for the failure that cuts it short. */
  const openPlan = Effect.fnUntraced(function* (
    plan: Arr.NonEmptyReadonlyArray<Candidate>,
    asked: { model: string },
    scope: Scope.Scope,
    deadlineMillis: number
  ) {
    let [candidate, ...rest] = plan
    for (;;) {
      asked.model = candidate.model
      const exit = yield* Effect.exit(openModel(candidate, scope, deadlineMillis))
      if (Exit.isSuccess(exit)) return { model: candidate.model, attempt: exit.value }
      const failure = Cause.findErrorOption(exit.cause)
      if (failure._tag === "None") return yield* Effect.failCause(exit.cause as Cause.Cause<never>)
      const [next, ...others] = rest
      if (next === undefined) return yield* callFailed(candidate.model, failure.value, false)
      yield* tellFallback(candidate.model, next.model, failure.value.reason)
      candidate = next
      rest = others
    }
  })

  const tellFallback = (from: string, to: string, reason: LlmFailureReason) =>
    Effect.andThen(
      spanEvent("llm.fallback", { from, to, reason }),
      Metric.update(
        Metric.withAttributes(LlmMetrics.fallbacks, { from: label(from), to: label(to), reason }),
        1
      )
    )

  const open = Effect.fnUntraced(function* (plan: Arr.NonEmptyReadonlyArray<Candidate>) {
    const scope = yield* Scope.Scope
    const clock = yield* Clock.Clock
    const asked = { model: plan[0].model }
    const deadlineMillis = monotonicMillis(clock) + totalMillis
    const { attempt, model } = yield* openPlan(plan, asked, scope, deadlineMillis).pipe(
      Effect.timeoutOrElse({
        duration: options.timeouts.total,
        orElse: () =>
          callFailed(asked.model, timedOut("The model call took longer than it may in all"), false)
      })
    )
    return readOn(model, attempt)
  })

  /** The stream of an open attempt. Its failures are final. */
  const readOn = (model: string, attempt: OpenAttempt): Stream.Stream<LlmPart, CallFailed> => {
    let first: Parts | undefined = withModel(model, attempt.first)
    const rest: Pull.Pull<Parts, CallFailed> = Effect.catch(
      attempt.pull,
      (error): Effect.Effect<never, Cause.Done | CallFailed> =>
        Cause.isDone(error)
          ? Effect.fail(error)
          : Effect.andThen(countError(model, error.reason, true), callFailed(model, error, true))
    )
    return Stream.fromPull(
      Effect.succeed(
        Effect.suspend((): Pull.Pull<Parts, CallFailed> => {
          if (first === undefined) return rest
          const parts = first
          first = undefined
          return Effect.succeed(parts)
        })
      )
    )
  }

  return {
    /** Asks the models of the plan in turn until one begins to answer, then emits its parts. */
    stream: (plan: Arr.NonEmptyReadonlyArray<Candidate>): Stream.Stream<LlmPart, CallFailed> =>
      Stream.unwrap(open(plan))
  }
})

/** Models of which a last reason is kept: requests may name their own. */
const maxReasons = 100

const callFailed = (model: string, failure: AttemptFailed, midStream: boolean) =>
  Effect.fail(new CallFailed({ model, reason: failure.reason, midStream, cause: failure.cause }))

const outcomeOf = (exit: Exit.Exit<OpenAttempt, AttemptFailed>): CircuitBreaker.Outcome => {
  if (Exit.isSuccess(exit)) return CircuitBreaker.success
  const failure = Cause.findErrorOption(exit.cause)
  return failure._tag === "Some" && !failure.value.isUnhealthy
    ? CircuitBreaker.ignored
    : CircuitBreaker.failure()
}

/** An event on the span the call runs in, if it runs in one. */
const spanEvent = (name: string, attributes: Record<string, unknown>): Effect.Effect<void> =>
  Effect.currentSpan.pipe(
    Effect.flatMap((span) => Effect.map(Clock.currentTimeNanos, (now) => span.event(name, now, attributes))),
    Effect.ignore
  )

/**
 * Says which model was asked, before what its server says of the one that answers: that may be a dated name, under which
 * nobody knows its price.
 */
const withModel = (model: string, parts: Parts): Parts => [
  Response.makePart("response-metadata", { modelId: model }),
  ...parts
]
