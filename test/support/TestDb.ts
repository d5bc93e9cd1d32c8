/**
 * Owns the databases that tests run on: a fresh, empty one for each layer that is built, with the schema of the
 * repository's migrations. In memory by default; a schema of its own on the server at `TEST_DATABASE_URL`, when that
 * is set, dropped afterwards.
 */
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as path from "node:path"
import { Effect, Layer, Redacted } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import * as Embedded from "../../src/db/Embedded.ts"
import * as Migrations from "../../src/db/Migrations.ts"

/** `undefined`: in memory. */
export const serverUrl = process.env["TEST_DATABASE_URL"]

/**
 * initdb takes seconds: its result is kept for the next test file, and for the next run. Files that start at once may
 * each make it; the last one to finish wins, and all are the same.
 */
const template = Effect.gen(function* () {
  const root = path.resolve(import.meta.dirname, "../..")
  const resolve = createRequire(import.meta.url).resolve
  const version = JSON.parse(
    fs.readFileSync(path.join(path.dirname(resolve("@electric-sql/pglite")), "../package.json"), "utf8")
  ).version
  // How the template is made is part of what it is.
  const made = crypto
    .createHash("sha256")
    .update(fs.readFileSync(path.join(root, "src/db/EmbeddedWorker.ts")))
    .digest("hex")
    .slice(0, 12)
  const folder = path.join(root, "node_modules/.cache/voice-agent-api")
  const file = path.join(folder, `pglite-${version}-${made}.tar`)
  if (fs.existsSync(file)) return new Uint8Array(fs.readFileSync(file))
  const tarball = yield* Effect.scoped(
    Effect.flatMap(Embedded.make({ dataDir: undefined, template: undefined }), ({ dump }) => dump)
  )
  fs.mkdirSync(folder, { recursive: true })
  const draft = `${file}.${crypto.randomUUID()}`
  fs.writeFileSync(draft, tarball)
  fs.renameSync(draft, file)
  return tarball
})

const memory = Layer.effectContext(
  Effect.flatMap(Effect.orDie(template), (template) => Db.embedded({ template }))
).pipe(Layer.provide(Reactivity.layer))

const server = (url: string) =>
  Layer.effectContext(
    Effect.gen(function* () {
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
      // public stays behind it: that is where extensions put their types.
      return yield* Db.postgres(Redacted.make(url), {
        poolSize: 10,
        parameters: { search_path: `${schema}, public` }
      })
    })
  ).pipe(Layer.provide(Reactivity.layer), Layer.orDie)

/** No tables at all. */
export const layerEmpty: Layer.Layer<Db.Db> = Layer.orDie(
  serverUrl === undefined ? memory : server(serverUrl)
)

/** The repository's schema, without a row. */
export const layer: Layer.Layer<Db.Db> = Layer.effectDiscard(Effect.orDie(Migrations.up())).pipe(
  Layer.provideMerge(layerEmpty)
)
