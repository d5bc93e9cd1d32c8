/**
 * Owns the tools that tests of the agent call: real ones that need no network, and ones that wait or fail when told.
 */
import { Effect, type Layer, Schema } from "effect"
import { calculator } from "../../src/tools/builtin/Calculator.ts"
import { getTime } from "../../src/tools/builtin/GetTime.ts"
import { defineTool, ToolFailed, Tools } from "../../src/tools/Tools.ts"

export interface AgentTools {
  /** `calculator`, `get_time`, `hold` {name}, `fail`, `explode`. */
  readonly layer: Layer.Layer<Tools>
  /** Waits until a call of `hold` with this name runs. */
  readonly entered: (name: string) => Effect.Effect<void>
  /** Lets the call of `hold` with this name go on, now or when it comes. */
  readonly release: (name: string) => Effect.Effect<void>
  /** Names of the calls of `hold` that were interrupted. */
  readonly interrupted: ReadonlyArray<string>
}

export const makeAgentTools = (): AgentTools => {
  const gates = new Map<
    string,
    { readonly entered: PromiseWithResolvers<void>; readonly released: PromiseWithResolvers<void> }
  >()
  const interrupted: Array<string> = []
  const gate = (name: string) => {
    const found = gates.get(name) ?? {
      entered: Promise.withResolvers<void>(),
      released: Promise.withResolvers<void>()
    }
    gates.set(name, found)
    return found
  }
  const hold = defineTool({
    name: "hold",
    description: "Waits until it is let go.",
    parameters: Schema.Struct({ name: Schema.String }),
    success: Schema.Struct({ released: Schema.String }),
    handler: ({ name }) =>
      Effect.gen(function* () {
        gate(name).entered.resolve()
        yield* Effect.promise(() => gate(name).released.promise)
        return { released: name }
      }).pipe(Effect.onInterrupt(() => Effect.sync(() => void interrupted.push(name))))
  })
  const bare = { parameters: Schema.Struct({}), success: Schema.Unknown }
  const fail = defineTool({
    ...bare,
    name: "fail",
    description: "Always fails.",
    handler: () => Effect.fail(new ToolFailed({ message: "The tap is closed." }))
  })
  const explode = defineTool({
    ...bare,
    name: "explode",
    description: "Has a bug.",
    handler: () => Effect.die(new Error("secret of the implementation"))
  })
  return {
    layer: Tools.layerOf([calculator, getTime, hold, fail, explode]),
    entered: (name) => Effect.promise(() => gate(name).entered.promise),
    release: (name) => Effect.sync(() => gate(name).released.resolve()),
    interrupted
  }
}
