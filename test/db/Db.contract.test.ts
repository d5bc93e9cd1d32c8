import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Reactivity } from "effect/reactivity"
import { dbContract } from "voice-agent-api/testing"
import * as Db from "../../src/db/Db.ts"
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

const timeout = "60 seconds"
layer(Db.layerMemory, { timeout })("embedded, in memory", dbContract)
layer(onDisk, { timeout })("embedded, on disk", dbContract)
if (TestDb.serverUrl !== undefined) layer(TestDb.layerEmpty, { timeout })("a server", dbContract)
