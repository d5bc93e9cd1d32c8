/**
 * Owns the form of a contract suite: tests of a port's promises that run over any adapter of it, in any test runner.
 *
 * A suite is a function of the runner's `it`. It takes the port from the context and, where it needs one, a scripted
 * upstream behind the adapter; it brings assertions of its own.
 */
import type { Effect, Scope } from "effect"

/** As much of a test runner as a suite needs: the `it` of `layer(...)` in `@effect/vitest` is one. */
export interface ContractTests<R> {
  readonly effect: (name: string, test: () => Effect.Effect<void, unknown, R | Scope.Scope>) => void
}

/** Tests whose names begin with what they have in common. */
export const under = <R>(it: ContractTests<R>, name: string, tests: (it: ContractTests<R>) => void): void =>
  tests({ effect: (test, run) => it.effect(`${name} ${test}`, run) })
