/** Owns the tools that tests of the runner define. */
import { type Effect, Schema } from "effect"
import { defineTool, ToolFailed, Tools } from "../../src/tools/Tools.ts"

export const named = <Name extends string>(name: Name) => ({
  name,
  description: "Does what a test needs.",
  parameters: Schema.Struct({}),
  success: Schema.Unknown
})

/** A tool `probe` that does as told. */
export const probe = <R = never>(
  handler: () => Effect.Effect<unknown, ToolFailed, R>,
  options: { readonly isIdempotent?: boolean } = {}
) => Tools.layerOf([defineTool({ ...named("probe"), handler, ...options })])

/** A failure worth a retry, whose message quotes an argument. */
export const transient = new ToolFailed({
  message: "busy with secret-argument",
  reason: "upstream",
  detail: "HTTP 503",
  isTransient: true
})
