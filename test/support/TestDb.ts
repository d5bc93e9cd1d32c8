/**
 * Owns the databases that tests run on: a fresh, empty one for each layer that is built, with the schema of the
 * repository's migrations. In memory by default; a schema of its own on the server at `TEST_DATABASE_URL`, when that
 * is set, dropped afterwards.
 */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Option, Redacted, Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import * as Embedded from "../../src/db/Embedded.ts"
import * as Migrations from "../../src/db/Migrations.ts"
import { schemaUrl } from "./schemaUrl.ts"

/** `undefined`: in memory. */
export const serverUrl = process.env.TEST_DATABASE_URL

const server = (url: string) =>
  Layer.effectContext(
    Effect.flatMap(schemaUrl(url, "test"), (inside) => Db.postgres(Redacted.make(inside), { poolSize: 10 }))
  ).pipe(Layer.provide(Reactivity.layer), Layer.orDie)

/**
 * Embedded databases that nobody uses, empty, kept until the process ends: to start one takes a second of work, to
 * empty one a few milliseconds.
 */
const idle: Array<Embedded.Embedded> = []

const empty = `
  do $$ declare schema text; begin
    for schema in select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' loop
      execute format('drop schema %I cascade', schema);
    end loop;
    create schema public;
  end $$`

const start = Effect.flatMap(Scope.make(), (scope) =>
  Scope.provide(Embedded.make({ dataDir: undefined, template: true }), scope)
)

/** One that a test has broken is not used again. */
const giveBack = (embedded: Embedded.Embedded) =>
  Db.client(embedded).pipe(
    Effect.flatMap((client) => client.unsafe(empty)),
    Effect.scoped,
    Effect.timeout("10 seconds"),
    Effect.map(() => void idle.push(embedded)),
    Effect.ignore
  )

const memory: Layer.Layer<Db.Db> = Layer.effectContext(
  Effect.gen(function* () {
    const embedded = yield* Effect.acquireRelease(
      Effect.suspend(() =>
        Effect.fromOption(Option.fromUndefinedOr(idle.pop())).pipe(Effect.catch(() => start))
      ),
      giveBack
    )
    const client = yield* Db.client(embedded)
    return Context.make(PgClient.PgClient, client).pipe(
      Context.add(SqlClient.SqlClient, client),
      Context.add(Db.DbInfo, {
        kind: "embedded" as const,
        description: `embedded PostgreSQL ${embedded.version} (PGlite) in memory`
      })
    )
  })
).pipe(Layer.provide(Reactivity.layer), Layer.orDie)

/** No tables at all. */
export const layerEmpty: Layer.Layer<Db.Db> = serverUrl === undefined ? memory : server(serverUrl)

/** The repository's schema, without a row. */
export const layer: Layer.Layer<Db.Db> = Layer.effectDiscard(Effect.orDie(Migrations.up())).pipe(
  Layer.provideMerge(layerEmpty)
)
