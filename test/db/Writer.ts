/**
 * A process for `EmbeddedKill.test.ts` to kill: opens the data directory it is given, says which numbers are there, and
 * then commits one number after another, each in a transaction of its own, saying each once it is committed.
 */
import * as fs from "node:fs"
import { NodeRuntime } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"

const [dataDir = ""] = process.argv.slice(2)

const say = (line: string) => Effect.sync(() => void fs.writeSync(1, `${line}\n`))

const write = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table if not exists numbers (n int primary key, padding text)`
  const rows = yield* sql<{ n: number }>`select n from numbers order by n`
  yield* say(`found ${JSON.stringify(rows.map(({ n }) => n))}`)
  for (let n = (rows.at(-1)?.n ?? 0) + 1; ; n++) {
    yield* sql.withTransaction(
      Effect.andThen(
        // Large enough for a round of them to fill more than one segment of the log.
        sql`insert into numbers values (${n}, ${"x".repeat(20_000)})`,
        sql`update numbers set padding = ${"y".repeat(n % 7)} where n = ${n - 3}`
      )
    )
    yield* say(`committed ${n}`)
  }
})

write.pipe(
  Effect.provide(Layer.effectContext(Db.embedded({ dataDir })).pipe(Layer.provide(Reactivity.layer))),
  NodeRuntime.runMain
)
