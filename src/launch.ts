/**
 * Owns the run of a server as a process: says where things are, or what is wrong, and stops on a signal.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Cause, Console, Effect, Exit, type Layer } from "effect"
import { banner, startProblems } from "./operations/banner.ts"

/** Runs until SIGTERM or SIGINT. Exits with 1, and a line for each problem, when the server can't start. */
export const launch = <E>(server: Layer.Layer<Effect.Services<typeof banner>, E>): void => {
  const main = Effect.gen(function* () {
    yield* Console.log(yield* banner)
    return yield* Effect.never
  }).pipe(Effect.provide(server))

  NodeRuntime.runMain(main, {
    disableErrorReporting: true,
    teardown: (exit, onExit) => {
      // A signal is the normal end.
      if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return onExit(0)
      for (const problem of startProblems(exit.cause)) console.error(`voice-agent-api: ${problem}`)
      onExit(1)
    }
  })
}
