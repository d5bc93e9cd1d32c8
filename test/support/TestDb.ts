/**
 * Owns the databases that tests run on: a fresh, empty one for each layer that is built, with the schema of the
 * repository's migrations. In memory by default; a schema of its own on the server at `TEST_DATABASE_URL`, when that
 * is set, dropped afterwards.
 */
import * as crypto from "node:crypto"
import { Effect, Layer, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import * as Migrations from "../../src/db/Migrations.ts"

/** `undefined`: in memory. */
export const serverUrl = process.env.TEST_DATABASE_URL

/** The address of a schema of its own on the server at `url`, empty, gone with the scope. */
export const schemaUrl = Effect.fnUntraced(function* (url: string) {
  const schema = `test_${crypto.randomBytes(8).toString("hex")}`
  const on = (statement: string) =>
    Effect.scoped(
      Effect.flatMap(
        Effect.provide(Db.postgres(Redacted.make(url), { poolSize: 1 }), Reactivity.layer),
        (context) =>
          Effect.provide(
            Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(statement)),
            context
          )
      )
    )
  yield* Effect.acquireRelease(on(`create schema ${schema}`), () =>
    Effect.orDie(on(`drop schema ${schema} cascade`))
  )
  const inside = new URL(url)
  // public stays behind it: that is where extensions put their types.
  inside.searchParams.set("options", `-c search_path=${schema},public`)
  return inside.href
}, Effect.orDie)

const server = (url: string) =>
  Layer.effectContext(
    Effect.flatMap(schemaUrl(url), (inside) => Db.postgres(Redacted.make(inside), { poolSize: 10 }))
  ).pipe(Layer.provide(Reactivity.layer), Layer.orDie)

/** No tables at all. */
export const layerEmpty: Layer.Layer<Db.Db> = Layer.orDie(
  serverUrl === undefined ? Layer.orDie(Db.layerMemory) : server(serverUrl)
)

/** The repository's schema, without a row. */
export const layer: Layer.Layer<Db.Db> = Layer.effectDiscard(Effect.orDie(Migrations.up())).pipe(
  Layer.provideMerge(layerEmpty)
)
