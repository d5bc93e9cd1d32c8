/**
 * Owns the set of tools and how a call is run: checked against its schema, bounded in time and size, and always
 * answered.
 *
 * Does not decide when a tool is called (the model does) and does not speak HTTP.
 */
import { Context, type Duration, type Effect, Schema } from "effect"
import type { Tool, Toolkit } from "effect/ai"

/** The tool ran and could not do what was asked. `message` is shown to the model and to people. */
export class ToolFailed extends Schema.TaggedError<ToolFailed>()("ToolFailed", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** No tool of that name is offered. */
export class ToolNotFound extends Schema.TaggedError<ToolNotFound>()("ToolNotFound", {
  name: Schema.String
}) {
  override get message() {
    return `There is no tool named ${JSON.stringify(this.name.slice(0, 100))}.`
  }
}

/** The arguments do not fit the tool's schema. */
export class ToolArgumentsInvalid extends Schema.TaggedError<ToolArgumentsInvalid>()("ToolArgumentsInvalid", {
  name: Schema.String,
  issues: Schema.Array(Schema.Struct({ field: Schema.String, message: Schema.String }))
}) {
  override get message() {
    return this.issues.map((issue) => `${issue.field}: ${issue.message}`).join("; ")
  }
}

/** One tool: its `effect/ai` definition, its handler, and how a call of it is run. Made with `defineTool`. */
export interface ToolDefinition {
  readonly tool: Tool.Any
  /** Takes decoded arguments; answers a JSON value. */
  readonly handler: (args: never) => Effect.Effect<unknown, ToolFailed>
  /** Longest a call may take. */
  readonly timeout: Duration.Duration
  /** Whether a call may be made again after a passing failure. */
  readonly isIdempotent: boolean
  /** Last part of the span's name, `tool.<spanName>`. */
  readonly spanName: string
}

/** What a call came to. */
export interface ToolOutcome {
  readonly success: boolean
  /** A JSON value; `null` when it failed. */
  readonly data: unknown
  readonly error: string | null
  readonly durationMillis: number
}

/** What the agent sends back to the model: always there, bounded in size. */
export interface ToolCallResult extends ToolOutcome {
  /** The text the model sees: the data, or the failure, as JSON, cut at the size limit. */
  readonly content: string
}

export interface ToolParameter {
  readonly name: string
  readonly type: string
  readonly description: string
  readonly required: boolean
  readonly default: unknown
  readonly enum: ReadonlyArray<unknown> | null
}

export interface ToolInfo {
  readonly name: string
  readonly description: string
  readonly parameters: ReadonlyArray<ToolParameter>
  /** JSON Schema of the arguments, as OpenAI's function calling wants it. */
  readonly jsonSchema: Record<string, unknown>
}

export class Tools extends Context.Service<
  Tools,
  {
    readonly list: ReadonlyArray<ToolInfo>
    // biome-ignore lint/suspicious/noExplicitAny: the tools are known at run time only
    readonly toolkit: Toolkit.WithHandler<any>
    /** Runs one tool for a person: a wrong name or wrong arguments are errors, a failing tool is an outcome. */
    readonly execute: (
      name: string,
      args: unknown
    ) => Effect.Effect<ToolOutcome, ToolNotFound | ToolArgumentsInvalid>
    /** Runs one tool for the model: whatever is wrong, the result says so. */
    readonly call: (name: string, args: unknown) => Effect.Effect<ToolCallResult>
  }
>()("voice-agent/tools/Tools") {}
