/**
 * A process for `DataDirLock.test.ts`: says that it is ready, waits for a word, tries to take the lock of a directory,
 * says whether it got it, and holds it until it is killed.
 */
import { Effect } from "effect"
import * as DataDirLock from "../../src/db/DataDirLock.ts"

const [directory = ""] = process.argv.slice(2)

const say = (word: string) => Effect.sync(() => void process.stdout.write(`${word}\n`))

const word = Effect.callback<void>((resume) => void process.stdin.once("data", () => resume(Effect.void)))

const attempt = Effect.gen(function* () {
  yield* say("ready")
  yield* word
  const exit = yield* Effect.exit(DataDirLock.acquire(directory))
  yield* say(exit._tag === "Success" ? "taken" : "refused")
  return yield* Effect.never
})

Effect.runFork(Effect.scoped(attempt))
