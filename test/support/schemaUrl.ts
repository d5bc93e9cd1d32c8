/**
 * Owns the place that a run has to itself on a PostgreSQL server: a schema, and the address that leads into it.
 */
import { randomBytes } from "node:crypto"
import { Effect, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"

const run = Effect.fnUntraced(
  function* (url: string, statement: string) {
    const context = yield* Db.postgres(Redacted.make(url), {
      poolSize: 1,
      // Dropping the tables of a long run may take its time.
      parameters: { statement_timeout: "30000" }
    })
    yield* Effect.provide(
      Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(statement)),
      context
    )
  },
  Effect.provide(Reactivity.layer),
  Effect.scoped,
  Effect.orDie
)

/** `url` with an empty schema in front of what it names. `prefix` begins its name; it is gone with the scope. */
export const schemaUrl = Effect.fnUntraced(function* (url: string, prefix: string) {
  const schema = `${prefix}_${randomBytes(8).toString("hex")}`
  yield* Effect.acquireRelease(run(url, `create schema ${schema}`), () =>
    run(url, `drop schema ${schema} cascade`)
  )
  const inside = new URL(url)
  const options = inside.searchParams.get("options") ?? ""
  // public stays behind it: that is where extensions put their types.
  inside.searchParams.set("options", `${options} -c search_path=${schema},public`.trim())
  return inside.href
})
