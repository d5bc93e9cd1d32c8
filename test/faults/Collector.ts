/**
 * A process for `main.ts`: a collector that takes spans. Tells its URL, then, whenever it is asked, how many came.
 */
import { Effect } from "effect"
import * as OtlpReceiver from "../support/OtlpReceiver.ts"

process.once("disconnect", () => process.exit(0))

Effect.gen(function* () {
  const { spans, url } = yield* OtlpReceiver.make
  process.on("message", () => process.send?.(spans.length))
  process.send?.(url)
  return yield* Effect.never
}).pipe(Effect.scoped, Effect.runFork)
