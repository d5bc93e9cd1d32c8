import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { Effect, Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import * as Db from "../../src/db/Db.ts"
import { dbContract } from "../contracts/dbContract.ts"
import * as TestDb from "../support/TestDb.ts"

const onDisk = Layer.effectContext(
  Effect.gen(function* () {
    const dataDir = yield* Effect.acquireRelease(
      Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-db-"))),
      (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
    )
    return yield* Db.embedded({ dataDir })
  })
).pipe(Layer.provide(Reactivity.layer))

dbContract("embedded, in memory", Db.layerMemory)
dbContract("embedded, on disk", onDisk)
if (TestDb.serverUrl !== undefined) dbContract("a server", TestDb.layerEmpty)
