/** A process for `DataDirLock.test.ts`: takes the lock of a directory at a moment, says whether it got it, and dies holding it. */
import { Effect } from "effect"
import * as DataDirLock from "../../src/db/DataDirLock.ts"

const [directory = "", at = ""] = process.argv.slice(2)

const waitMillis = (millis: number) =>
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Math.max(0, millis))

const attempt = Effect.gen(function* () {
  waitMillis(Number(at) - Date.now())
  const exit = yield* Effect.exit(DataDirLock.acquire(directory))
  process.stdout.write(exit._tag === "Success" ? "taken" : "refused")
  // Nobody may find the winner dead while others still try.
  waitMillis(Number(at) + 2_000 - Date.now())
  process.kill(process.pid, "SIGKILL")
})

Effect.runFork(Effect.scoped(attempt))
