/**
 * Owns how circuit breakers are shown: `circuit_breaker_state`, one series for each name.
 *
 * Does not decide when one opens: the policies do.
 */
import { Context, Effect, Metric, type Scope, Stream } from "effect"
import type { CircuitBreaker } from "effect/persistence"

const state = Metric.gauge("circuit_breaker_state", {
  description: "Circuit breakers, by name: 0 closed, 1 half-open, 2 open"
})

const values = { Closed: 0, HalfOpen: 1, Open: 2 } as const

/** Names that get a series of their own; the rest share `other`. */
const maxNames = 50
const names = new Set<string>()

const show = (name: string, to: keyof typeof values) => {
  if (names.size < maxNames) names.add(name)
  const attributes = { name: names.has(name) ? name : "other" }
  Metric.withAttributes(state, attributes).updateUnsafe(values[to], Context.empty())
}

/**
 * Shows a breaker's state for as long as the scope is open. `nameOf` tells the name for a key, such as
 * `model/gpt-5-mini`; what is `known` from the start is shown as closed.
 */
export const watchBreaker = (
  breaker: CircuitBreaker.CircuitBreaker,
  nameOf: (key: string) => string,
  known: Iterable<string> = []
): Effect.Effect<void, never, Scope.Scope> =>
  Effect.suspend(() => {
    for (const key of known) show(nameOf(key), "Closed")
    return breaker.transitions.pipe(
      Stream.runForEach(({ key, to }) => Effect.sync(() => show(nameOf(key), to))),
      Effect.forkScoped({ startImmediately: true }),
      Effect.asVoid
    )
  })
