/**
 * Owns the place on the server at `DATABASE_URL` that a run works in: a schema of its own, dropped afterwards.
 */
import { Effect, Exit, Scope } from "effect"
import { schemaUrl } from "../test/support/schemaUrl.ts"

export interface BenchSchema {
  /** `DATABASE_URL` with the schema in front of what it names. */
  readonly url: string
  readonly drop: () => Promise<void>
}

export const makeSchema = async (databaseUrl: string): Promise<BenchSchema> => {
  const scope = Scope.makeUnsafe()
  const url = await Effect.runPromise(Scope.provide(schemaUrl(databaseUrl, "bench"), scope))
  return { url, drop: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}
