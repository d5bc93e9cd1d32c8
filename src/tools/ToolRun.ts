/**
 * Owns the run of one call whose arguments are already decoded: its time limit, retries, spans, metrics, and what
 * becomes of a defect.
 *
 * Does not look tools up or decode arguments (`Tools.ts` does).
 */
import {
  Cause,
  Clock,
  Duration,
  Effect,
  Exit,
  Metric,
  Option,
  Schedule,
  type Schema,
  type Tracer
} from "effect"
import { GenAi } from "../observability/GenAi.ts"
import { type ToolDefinition, ToolFailed, type ToolFailureReason } from "./ToolDefinition.ts"
import { toolCalls, toolDuration, toolRetries } from "./ToolMetrics.ts"

/** What a span tells of a failure: never the arguments, which a message may quote. */
export interface SpanFailure {
  readonly type: string
  readonly message: string
}

/** Ends a span as failed while the error itself, with its message, stays off it. */
class Concealed<E> extends Error {
  readonly #error: E
  constructor(error: E, failure: SpanFailure) {
    super(failure.message)
    this.name = failure.type
    // Tracers export the stack, and this one would only show this file.
    this.stack = `${failure.type}: ${failure.message}`
    this.#error = error
  }
  static reveal<E>(concealed: Concealed<E>): E {
    return concealed.#error
  }
}

const cancelled: SpanFailure = { type: "interrupted", message: "the call was cancelled" }

/** `undefined`: it succeeded. */
const failureOf = <A, E>(
  exit: Exit.Exit<A, E>,
  describe: (error: E) => SpanFailure
): SpanFailure | undefined =>
  Exit.isSuccess(exit)
    ? undefined
    : Option.match(Cause.findErrorOption(exit.cause), { onNone: () => cancelled, onSome: describe })

/** Milliseconds, to the microsecond. */
export const millisSince = (startNanos: bigint): Effect.Effect<number> =>
  Effect.map(Clock.currentTimeNanos, (now) => Math.round(Number(now - startNanos) / 1000) / 1000)

/**
 * Runs an effect in a span that has `gen_ai.tool.name`, `duration_ms`, `success` and, when it fails, `error.type` and
 * `error.message` as `describe` words them.
 */
export const inSpan =
  <E>(name: string, tool: string, describe: (error: E) => SpanFailure) =>
  <A, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>> =>
    Effect.flatMap(Clock.currentTimeNanos, (start) =>
      self.pipe(
        Effect.onExit((exit) =>
          Effect.flatMap(millisSince(start), (duration_ms) => {
            const failure = failureOf(exit, describe)
            return Effect.annotateCurrentSpan({
              duration_ms,
              success: failure === undefined,
              ...(failure === undefined
                ? {}
                : { "error.type": failure.type, "error.message": failure.message })
            })
          })
        ),
        Effect.mapError((error) => new Concealed(error, describe(error))),
        Effect.withSpan(
          name,
          { attributes: { [GenAi.operationName]: "execute_tool", [GenAi.toolName]: tool } },
          { captureStackTrace: false }
        ),
        Effect.mapError(Concealed.reveal)
      )
    )

const reasons: Readonly<Record<ToolFailureReason, string>> = {
  failed: "the tool failed",
  invalid: "the tool can't do what was asked",
  not_found: "what was asked for does not exist",
  upstream: "another server failed",
  unavailable: "the tool is not available",
  timeout: "the tool took too long",
  unexpected: "the tool failed unexpectedly"
}

export const describeFailure = ({ detail, reason = "failed" }: ToolFailed): SpanFailure => ({
  type: reason,
  message: detail ?? reasons[reason]
})

/** Counts one call. `outcome`: `success`, a `ToolFailed` reason, or what was wrong before the tool ran. */
export const countCall = (tool: string, outcome: string): Effect.Effect<void> =>
  Metric.update(Metric.withAttributes(toolCalls, { tool, outcome }), 1)

/** Puts each retry on the current span and in the metrics, as it begins. */
const markRetry = (tool: string) =>
  Effect.gen(function* () {
    const { attempt, duration } = yield* Schedule.CurrentMetadata
    if (attempt === 0) return
    const now = yield* Clock.currentTimeNanos
    const span = yield* Effect.orDie(Effect.currentSpan)
    span.event("retry", now, { attempt, delay_ms: Duration.toMillis(duration) })
    yield* Metric.update(Metric.withAttributes(toolRetries, { tool }), 1)
  })

/** 200 ms, then 400 ms, each give or take a fifth. */
const pauses = Schedule.jittered(Schedule.exponential("200 millis"))

const isTransient = (failure: ToolFailed) => failure.isTransient === true

/** The failures that somebody who runs the server may want to act on. */
const isOperational = ({ reason }: ToolFailed) =>
  reason === "upstream" || reason === "unavailable" || reason === "timeout"

/** What a run came to: the handler's answer, and its JSON encoding. */
export interface Ran {
  readonly value: unknown
  readonly encoded: Schema.Json
}

/**
 * Prepares the runs of one tool. A run fails with `ToolFailed` only: a defect is logged and becomes a failure that
 * says no more than that it was unexpected. Interruption goes through to the handler.
 */
export const runnerOf = (definition: ToolDefinition): ((args: unknown) => Effect.Effect<Ran, ToolFailed>) => {
  const { name } = definition.tool
  const seconds = Duration.toSeconds(definition.timeout)
  const tooLong = Effect.suspend(() =>
    Effect.fail(
      new ToolFailed({
        message: `The tool took longer than ${seconds} seconds and was stopped.`,
        reason: "timeout",
        detail: `stopped after ${seconds} s`
      })
    )
  )
  const report = (failure: ToolFailed) =>
    Effect.logWithLevel(isOperational(failure) ? "Warn" : "Debug")(
      `The tool ${name} failed: ${describeFailure(failure).message}`
    )
  const measure = (start: bigint) => (exit: Exit.Exit<unknown, ToolFailed>) =>
    Effect.flatMap(millisSince(start), (millis) =>
      Effect.andThen(
        countCall(name, failureOf(exit, describeFailure)?.type ?? "success"),
        Metric.update(Metric.withAttributes(toolDuration, { tool: name }), millis / 1000)
      )
    )

  const once = Effect.fnUntraced(function* (args: unknown) {
    yield* markRetry(name)
    const value = yield* definition.handler(args as never)
    return { value, encoded: yield* Effect.orDie(definition.encode(value)) }
  })

  const run = Effect.fnUntraced(function* (args: unknown) {
    const attempts = definition.isIdempotent
      ? Effect.retry(once(args), { schedule: pauses, times: 2, while: isTransient })
      : once(args)
    return yield* attempts.pipe(
      Effect.timeoutOrElse({ duration: definition.timeout, orElse: () => tooLong }),
      Effect.catchCause((cause) => {
        const failure = Cause.findErrorOption(cause)
        if (Option.isSome(failure) && !Cause.hasDies(cause)) return Effect.fail(failure.value)
        return Effect.andThen(
          Effect.logError(`The tool ${name} failed unexpectedly`, cause),
          Effect.fail(new ToolFailed({ message: "The tool failed unexpectedly.", reason: "unexpected" }))
        )
      }),
      inSpan(`tool.${definition.spanName}`, name, describeFailure),
      Effect.tapError(report)
    )
  })

  return (args) => Effect.flatMap(Clock.currentTimeNanos, (start) => Effect.onExit(run(args), measure(start)))
}
