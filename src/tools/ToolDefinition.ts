/**
 * Owns what a tool is: its `effect/ai` definition, its handler, how a call of it is run, and how it can fail.
 *
 * Does not run anything (`ToolRun.ts` does) and knows no particular tool.
 */
import { Duration, Effect, Schema } from "effect"
import * as Tool from "effect/ai/Tool"

/**
 * The tool ran and could not do what was asked.
 *
 * `message` is shown to the model and to people: one or two sentences, no secrets, no stack. It may quote the
 * arguments, so it never goes on a span; `detail` does, and must not quote them.
 */
export class ToolFailed extends Schema.TaggedError<ToolFailed>()("ToolFailed", {
  message: Schema.String,
  /** The kind of failure; `error.type` on the span and `outcome` in the metrics. Absent: `failed`. */
  reason: Schema.optionalKey(
    Schema.Literals(["failed", "invalid", "not_found", "upstream", "unavailable", "timeout", "unexpected"])
  ),
  /** What happened, for telemetry: `HTTP 503 from api.example.com`. */
  detail: Schema.optionalKey(Schema.String),
  /** Whether the same call may well succeed in a moment. Such a call is made again when the tool is idempotent. */
  isTransient: Schema.optionalKey(Schema.Boolean),
  cause: Schema.optionalKey(Schema.Defect())
}) {}

export type ToolFailureReason = NonNullable<ToolFailed["reason"]>

/**
 * One tool. Made with `defineTool`. `R` is what its handler needs; it is taken once, when `Tools.layerOf` is built.
 */
export interface ToolDefinition<out R = never> {
  readonly tool: Tool.Any
  /** Decodes the JSON value of the arguments, and names everything that is wrong with it. */
  readonly decode: (args: unknown) => Effect.Effect<unknown, Schema.SchemaError>
  /** Encodes what the handler answers as a JSON value. */
  readonly encode: (value: unknown) => Effect.Effect<Schema.Json, Schema.SchemaError>
  /** Takes decoded arguments; answers the decoded side of the success schema. */
  readonly handler: (args: never) => Effect.Effect<unknown, ToolFailed, R>
  /** Longest a call may take, with all its retries. */
  readonly timeout: Duration.Duration
  /** Whether a call may be made again after a passing failure. */
  readonly isIdempotent: boolean
  /** Last part of the span's name, `tool.<spanName>`. */
  readonly spanName: string
  /** Asked once, when the layer is built. `undefined`: always offered. */
  readonly isOffered: Effect.Effect<boolean, never, R> | undefined
}

/** A schema that needs nothing to decode or encode. */
type PlainSchema = Schema.Top & { readonly DecodingServices: never; readonly EncodingServices: never }

/**
 * Makes a tool from one definition, which then serves function calling, `/tools` and MCP.
 *
 * Describe every field with `.annotate({ description })`: models choose arguments by it. A field is optional by
 * `Schema.optionalKey`, or by `withDefault` when it has a default. `null` for an optional field counts as absent, and
 * fields the schema does not name are ignored.
 *
 * The handler answers the success schema's type; what reaches the caller is its JSON encoding. It fails with
 * `ToolFailed` only; anything else is a defect, of which callers see no more than that the tool failed.
 *
 * ```ts
 * const rollDice = defineTool({
 *   name: "roll_dice",
 *   description: "Rolls dice and answers their sum.",
 *   parameters: Schema.Struct({
 *     count: withDefault(Schema.Int.annotate({ description: "How many dice, 1 to 10" }), 1)
 *   }),
 *   success: Schema.Struct({ sum: Schema.Int }),
 *   handler: ({ count }) => Effect.map(Random.nextIntBetween(count, 6 * count), (sum) => ({ sum }))
 * })
 * const layer = Tools.layerOf([...builtIn, rollDice]).pipe(Layer.provide(ToolHttp.layer))
 * ```
 */
export const defineTool = <
  const Name extends string,
  const Fields extends { readonly [field: string]: PlainSchema },
  Success extends PlainSchema,
  R = never
>(options: {
  /** What the model calls it by: up to 64 letters, digits, `_` and `-`. */
  readonly name: Name
  /** When to use it and what it answers; the model chooses tools by this. */
  readonly description: string
  readonly parameters: Schema.Struct<Fields>
  readonly success: Success
  readonly handler: (args: Schema.Struct<Fields>["Type"]) => Effect.Effect<Success["Type"], ToolFailed, R>
  /** Default: 15 seconds. */
  readonly timeout?: Duration.Input
  /** Default: false. */
  readonly isIdempotent?: boolean
  /** Default: the tool's name. */
  readonly spanName?: string
  /** Whether it is offered at all, for a tool that depends on a setting. Default: always. */
  readonly isOffered?: Effect.Effect<boolean, never, R>
}): ToolDefinition<R> => ({
  tool: Tool.make(options.name, {
    description: options.description,
    parameters: options.parameters,
    success: options.success,
    failure: Schema.Struct({ message: Schema.String }),
    failureMode: "return"
  }),
  decode: Schema.decodeUnknownEffect(Schema.toCodecJson(options.parameters), { errors: "all" }),
  encode: Schema.encodeUnknownEffect(Schema.toCodecJson(options.success)),
  handler: options.handler,
  timeout: Duration.fromInputUnsafe(options.timeout ?? Duration.seconds(15)),
  isIdempotent: options.isIdempotent ?? false,
  spanName: options.spanName ?? options.name,
  isOffered: options.isOffered
})

/** An optional field with a default: decoded when the field is absent, and shown in the tool's JSON Schema. */
export const withDefault = <S extends Schema.Top>(
  schema: S,
  value: S["Encoded"]
): Schema.withDecodingDefaultKey<S["Rebuild"]> =>
  Schema.withDecodingDefaultKey<S["Rebuild"]>(Effect.succeed(value))(schema.annotate({ default: value }))
