/**
 * Owns the place on the server at `DATABASE_URL` that a run works in: a schema of its own, dropped afterwards.
 */
import { randomBytes } from "node:crypto"
import { Effect, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../src/db/Db.ts"

const run = (url: string, statement: string): Promise<void> =>
  Effect.gen(function* () {
    const context = yield* Db.postgres(Redacted.make(url), {
      poolSize: 1,
      // Dropping the tables of a long run may take its time.
      parameters: { statement_timeout: "30000" }
    })
    yield* Effect.provide(
      Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(statement)),
      context
    )
  }).pipe(Effect.provide(Reactivity.layer), Effect.scoped, Effect.asVoid, Effect.runPromise)

export interface BenchSchema {
  /** `DATABASE_URL` with the schema in front of what it names. */
  readonly url: string
  readonly drop: () => Promise<void>
}

export const makeSchema = async (url: string): Promise<BenchSchema> => {
  const schema = `bench_${randomBytes(6).toString("hex")}`
  await run(url, `create schema ${schema}`)
  const inside = new URL(url)
  const options = inside.searchParams.get("options") ?? ""
  // public stays behind it: that is where extensions put their types.
  inside.searchParams.set("options", `${options} -c search_path=${schema},public`.trim())
  return { url: inside.href, drop: () => run(url, `drop schema ${schema} cascade`) }
}
