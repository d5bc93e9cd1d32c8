/** Launches the server; nothing else. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cause, Console, Effect, Exit } from "effect"
import * as Server from "./Server.ts"
import { banner, startProblems } from "./server/banner.ts"

const main = Effect.gen(function* () {
  yield* Console.log(yield* banner)
  return yield* Effect.never
}).pipe(Effect.provide(Server.layer))

NodeRuntime.runMain(main, {
  disableErrorReporting: true,
  teardown: (exit, onExit) => {
    // A signal is the normal end.
    if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return onExit(0)
    for (const problem of startProblems(exit.cause)) console.error(`voice-agent-api: ${problem}`)
    onExit(1)
  }
})
