/**
 * Owns how "not now" reaches a client.
 */
import { Effect } from "effect"
import { ServiceUnavailableProblem } from "../api/Problems.ts"
import { DbUnavailable } from "../db/DbUnavailable.ts"
import { TurnsUnavailable } from "../turns/Turns.ts"

/** The database away, the server draining or overloaded: 503. Other errors pass. */
export const unavailable = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, Exclude<E, DbUnavailable | TurnsUnavailable> | ServiceUnavailableProblem, R> =>
  Effect.mapError(effect, (error) => {
    if (error instanceof DbUnavailable) {
      return new ServiceUnavailableProblem({
        detail: "The database is not available. Try again in a moment."
      })
    }
    if (error instanceof TurnsUnavailable) return new ServiceUnavailableProblem({ detail: error.message })
    return error as Exclude<E, DbUnavailable | TurnsUnavailable>
  })
