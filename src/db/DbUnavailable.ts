/**
 * Owns what a repository does with a failing statement: which failures mean "the database is away" (the caller's one
 * typed error, 503 on the wire), which are defects, how long a statement may take, and what is tried again.
 *
 * Does not know any table, and does not decide which statements are idempotent: callers say so.
 */
import { Cause, Context, Duration, Effect, Fiber, Option, Schedule, Schema } from "effect"
import { SqlError } from "effect/sql"

/**
 * The database did not answer, or not in time: gone, restarting, overloaded, refusing us, or in conflict with other
 * writers after all retries. Nothing about the request was wrong, and the same request may succeed later.
 */
export class DbUnavailable extends Schema.TaggedError<DbUnavailable>()("DbUnavailable", {
  reason: Schema.Literals(["connection", "timeout", "overloaded", "conflict"]),
  cause: Schema.Defect()
}) {
  override get message() {
    return `The database is unavailable (${this.reason})`
  }
}

/** What one attempt may take, whatever the server's own `statement_timeout` makes of it: waiting for a connection counts. */
const statementTimeout = Duration.seconds(5)

const retries = 3

/** Nothing is tried again later than that: connecting alone may take 5 s, and four times of those would be too long. */
const retriedFor = Duration.seconds(4)

const backoff = Schedule.exponential("50 millis", 2).pipe(Schedule.jittered)

/** The SQLSTATE of a failure, where the server sent one. */
export const sqlState = (error: SqlError.SqlError): string | undefined => {
  const cause = error.reason.cause
  return typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "string"
    ? cause.code
    : undefined
}

/**
 * How a failure is met.
 * - `conflict`: the server has rolled the transaction back: safe to run again, whatever it does.
 * - `refused`: no connection came about, so nothing was sent: safe to run again.
 * - `lost`: the connection broke under the statement. If that was a COMMIT or stood alone, it may have taken effect.
 */
type Availability = {
  readonly kind: "conflict" | "refused" | "lost" | "timeout" | "overloaded"
  readonly reason: DbUnavailable["reason"]
}

const availability = (error: SqlError.SqlError): Availability | undefined => {
  switch (error.reason._tag) {
    case "DeadlockError":
    case "SerializationError":
      return { kind: "conflict", reason: "conflict" }
    case "ConnectionError":
      return { kind: error.reason.operation === "connect" ? "refused" : "lost", reason: "connection" }
    // A password that was rotated under us is an outage, not a bug of the statement.
    case "AuthenticationError":
      return { kind: "refused", reason: "connection" }
    case "LockTimeoutError":
    case "StatementTimeoutError":
      return { kind: "timeout", reason: "timeout" }
  }
  const connecting = error.reason.operation === "connect"
  const state = sqlState(error)
  switch (state) {
    case "57P01": // admin_shutdown
    case "57P02": // crash_shutdown
    case "57P05": // idle_session_timeout
    case "25P03": // idle_in_transaction_session_timeout
    case "25P04": // transaction_timeout
      return { kind: connecting ? "refused" : "lost", reason: "connection" }
    case "57P03": // cannot_connect_now: starting up, shutting down
    case "57P04": // database_dropped
      return { kind: "refused", reason: "connection" }
    case "25006": // read_only_sql_transaction: this was the primary before a failover
      return { kind: "conflict", reason: "connection" }
    case "55000": // object_not_in_prerequisite_state: so does a connection to a database that takes none
      return connecting ? { kind: "refused", reason: "connection" } : undefined
  }
  // Class 53, insufficient resources: too many connections, disk full, out of memory.
  if (state?.startsWith("53")) return { kind: connecting ? "refused" : "overloaded", reason: "overloaded" }
  return undefined
}

interface Unavailable extends Availability {
  readonly error: SqlError.SqlError
}

/**
 * Looks through defects too: when the connection breaks inside a transaction, the ROLLBACK fails with it, and
 * `withTransaction` dies of that instead of failing with what came first.
 */
const unavailability = (cause: Cause.Cause<unknown>): Unavailable | undefined => {
  if (Cause.hasInterrupts(cause)) return undefined
  for (const reason of cause.reasons) {
    const error = Cause.isFailReason(reason)
      ? reason.error
      : Cause.isDieReason(reason)
        ? reason.defect
        : undefined
    if (!SqlError.isSqlError(error)) continue
    const found = availability(error)
    if (found !== undefined) return { ...found, error }
  }
  return undefined
}

/** Whether a `SqlClient` transaction is open around this effect. Effect keeps this reference under this key. */
const CurrentTransaction = Context.Reference<unknown>("effect/sql/CurrentTransactionService", {
  defaultValue: () => undefined
})

const timedOut = Effect.suspend(() =>
  Effect.fail(new DbUnavailable({ reason: "timeout", cause: new Error("No answer in time") }))
)

/**
 * Does not wait for what runs out of time to end: the driver takes seconds more to give up a connection whose other end
 * is silent. It is interrupted, and goes on ending by itself. Inside a transaction it is waited for, since what comes
 * next, a ROLLBACK if nothing else, needs the same connection.
 */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | DbUnavailable, R> =>
  Effect.flatMap(CurrentTransaction, (transaction) =>
    transaction === undefined
      ? detachedInTime(effect)
      : Effect.timeoutOrElse(effect, { duration: statementTimeout, orElse: () => timedOut })
  )

const detachedInTime = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | DbUnavailable, R> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.forkDetach(restore(effect), { startImmediately: true }), (fiber) =>
      restore(Effect.timeoutOption(Fiber.await(fiber), statementTimeout)).pipe(
        Effect.onInterrupt(() => Fiber.interrupt(fiber)),
        Effect.flatMap((exit): Effect.Effect<A, E | DbUnavailable> => {
          if (Option.isSome(exit)) return exit.value
          fiber.interruptUnsafe()
          return timedOut
        })
      )
    )
  )

const translate = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, SqlError.SqlError> | DbUnavailable, R> =>
  Effect.catchCause(effect, (cause): Effect.Effect<never, Exclude<E, SqlError.SqlError> | DbUnavailable> => {
    const found = unavailability(cause)
    if (found !== undefined)
      return Effect.fail(new DbUnavailable({ reason: found.reason, cause: found.error }))
    const error = Option.getOrUndefined(Cause.findErrorOption(cause))
    return SqlError.isSqlError(error)
      ? Effect.failCause(Cause.die(error))
      : Effect.failCause(cause as Cause.Cause<Exclude<E, SqlError.SqlError>>)
  })

/**
 * For every effect of a repository that runs SQL: at most 5 s, and only the failures a caller can act on are left.
 * A `SqlError` becomes `DbUnavailable` when the database is away, slow or overloaded; any other is a bug of ours and a
 * defect. Other errors pass. A constraint that is part of the logic is caught before: `Effect.catchReason("SqlError",
 * "UniqueViolation", …)`.
 */
export const guard = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, SqlError.SqlError> | DbUnavailable, R> => translate(inTime(effect))

/**
 * `guard`, and tries again, at most three times, 50 ms apart and doubling, jittered. Put it around a whole
 * transaction, or one statement outside of any: inside an open transaction it is `guard` alone, because the server has
 * rolled that transaction back and only its owner can run it again.
 *
 * Always tried again: serialization failures and deadlocks, which leave nothing behind, and connections that did not
 * come about. A connection lost on the way is not, because a COMMIT, or a lone statement, may have taken effect before
 * the answer was lost. With `idempotent: true` it is: say so only where running it twice does what once does
 * (a read, `ON CONFLICT DO NOTHING` on a key the caller chose, an update to a fixed value).
 *
 * Nothing is tried again after the first 4 s. Every retry is an event `db.retry` on the current span.
 */
export const retrying = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  options: { readonly idempotent?: boolean } = {}
): Effect.Effect<A, Exclude<E, SqlError.SqlError> | DbUnavailable, R> => {
  const attempt = inTime(effect)
  const mayRepeat = (kind: Availability["kind"]) =>
    kind === "conflict" || kind === "refused" || (kind === "lost" && options.idempotent === true)
  const retried = Effect.clockWith((clock) => {
    const startedAt = clock.currentTimeMillisUnsafe()
    let attempts = 0
    const repeatable = (cause: Cause.Cause<unknown>): Unavailable | undefined => {
      const found = unavailability(cause)
      const isLate = clock.currentTimeMillisUnsafe() - startedAt >= Duration.toMillis(retriedFor)
      return found === undefined || isLate || !mayRepeat(found.kind) ? undefined : found
    }
    return attempt.pipe(
      // Schedules see errors only, and a connection lost in a transaction arrives as a defect.
      Effect.catchCause((cause) => Effect.fail(cause)),
      Effect.tapError((cause) => {
        const found = repeatable(cause)
        attempts++
        return found === undefined || attempts > retries ? Effect.void : retryEvent(attempts, found)
      }),
      Effect.retry({ schedule: backoff, times: retries, while: (cause) => repeatable(cause) !== undefined }),
      Effect.catch((cause) => Effect.failCause(cause))
    )
  })
  return translate(
    Effect.flatMap(CurrentTransaction, (transaction) => (transaction === undefined ? retried : attempt))
  )
}

const retryEvent = (attempt: number, found: Unavailable) =>
  Effect.flatMap(
    Effect.clockWith((clock) => clock.currentTimeNanos),
    (now) =>
      Effect.map(Effect.option(Effect.currentSpan), (span) => {
        if (Option.isSome(span)) {
          span.value.event("db.retry", now, { attempt, "error.type": found.error.reason._tag })
        }
      })
  )
