/**
 * Owns the set of tools and how a call is run: checked against its schema, bounded in time and size, and always
 * answered.
 *
 * Does not decide when a tool is called (the model does) and does not speak HTTP.
 */
import { Clock, Context, Effect, Layer, Predicate, Schema, SchemaIssue, type StandardSchema } from "effect"
import type { Tool } from "effect/ai"
import * as Toolkit from "effect/ai/Toolkit"
import type { HttpClient } from "effect/http"
import type { AppConfig } from "../Config.ts"
import { SpanName } from "../observability/SpanName.ts"
import { builtInWith, type ToolUrls } from "./builtin/BuiltInTools.ts"
import { contentOf } from "./ToolContent.ts"
import type { ToolDefinition, ToolFailed } from "./ToolDefinition.ts"
import { ToolHttp } from "./ToolHttp.ts"
import { infoOf, type ToolInfo, withoutNulls } from "./ToolInfo.ts"
import {
  countCall,
  describeFailure,
  inSpan,
  millisSince,
  type Ran,
  runnerOf,
  type SpanFailure
} from "./ToolRun.ts"

export { builtIn } from "./builtin/BuiltInTools.ts"
export { defineTool, type ToolDefinition, ToolFailed, withDefault } from "./ToolDefinition.ts"
export { ToolHttp } from "./ToolHttp.ts"
export type { ToolInfo } from "./ToolInfo.ts"

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
  /** `field` is a path such as `place.city` or `days[0]`; `arguments` when they are wrong as a whole. */
  issues: Schema.Array(Schema.Struct({ field: Schema.String, message: Schema.String }))
}) {
  override get message() {
    return this.issues.map((issue) => `${issue.field}: ${issue.message}`).join("; ")
  }
}

/** What a call came to. */
export interface ToolOutcome {
  readonly success: boolean
  /** A JSON value; `null` when it failed. */
  readonly data: Schema.Json
  readonly error: string | null
  readonly durationMillis: number
}

/** What the agent sends back to the model: always there, bounded in size. */
export interface ToolCallResult extends ToolOutcome {
  /** The text the model sees: the data, or `{"error": …}`, as JSON, cut at the size limit. */
  readonly content: string
}

export class Tools extends Context.Service<
  Tools,
  {
    readonly list: ReadonlyArray<ToolInfo>
    /**
     * For `LanguageModel.streamText` with tool-call resolution disabled. Handlers run as `call` runs them; but the
     * toolkit's own `handle` writes the arguments on the current span, so prefer `call`.
     */
    // biome-ignore lint/suspicious/noExplicitAny: the tools are known at run time only
    readonly toolkit: Toolkit.WithHandler<any>
    /**
     * Runs one tool for a person: a wrong name or wrong arguments are errors, a failing tool is an outcome.
     * `args` is the JSON value; `undefined` and `null` count as `{}`.
     */
    readonly execute: (
      name: string,
      args: unknown
    ) => Effect.Effect<ToolOutcome, ToolNotFound | ToolArgumentsInvalid>
    /**
     * Runs one tool for the model: whatever is wrong, the result says so. `args` is the JSON value, or its text as
     * the model wrote it, which need not be valid.
     */
    readonly call: (name: string, args: unknown) => Effect.Effect<ToolCallResult>
  }
>()("voice-agent/tools/Tools") {
  /**
   * Offers the tools given: `Tools.layerOf([...builtIn, mine])`, whose built-in tools need `ToolHttp.layer`. Two of
   * one name, or a name no model could call, is a defect.
   */
  static readonly layerOf = <const Definitions extends ReadonlyArray<ToolDefinition<unknown>>>(
    definitions: Definitions & ReadonlyArray<ToolDefinition<Requirements<Definitions[number]>>>,
    options: ToolsOptions = {}
  ): Layer.Layer<Tools, never, Requirements<Definitions[number]>> =>
    Layer.effect(
      Tools,
      Effect.suspend(() => make<Requirements<Definitions[number]>>(definitions, options))
    )

  /** The built-in tools with their upstreams elsewhere. */
  static readonly layerWith = (
    urls: ToolUrls,
    options?: ToolsOptions
  ): Layer.Layer<Tools, never, AppConfig | HttpClient.HttpClient> =>
    Tools.layerOf(builtInWith(urls), options).pipe(Layer.provide(ToolHttp.layer))

  /** The built-in tools: `calculator`, `get_time`, `get_weather`, and `web_search` when `TAVILY_API_KEY` is set. */
  static readonly layer: Layer.Layer<Tools, never, AppConfig | HttpClient.HttpClient> = Tools.layerWith({})
}

export interface ToolsOptions {
  /** Most characters (UTF-16 units) of a result the model sees, at least 200. Default: 8,000. */
  readonly maxContentLength?: number
}

/** What the handlers of these tools need. */
type Requirements<D> = D extends ToolDefinition<infer R> ? R : never

type Failure = ToolNotFound | ToolArgumentsInvalid | ToolFailed

const invalid = (name: string, issues: ReadonlyArray<StandardSchema.StandardSchemaV1.Issue>) =>
  new ToolArgumentsInvalid({
    name,
    issues: issues.slice(0, maxIssues).map(({ message, path = [] }) => ({
      field: fieldOf(path.map((key) => (typeof key === "object" ? key.key : key))),
      message
    }))
  })

/** Enough to mend the arguments by; a list of a thousand wrong members needs no thousand messages. */
const maxIssues = 20

const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

/** `["days", 0, "name"]` → `days[0].name` */
const fieldOf = (path: ReadonlyArray<PropertyKey>): string =>
  path.reduce<string>(
    (field, key) =>
      typeof key === "number" ? `${field}[${key}]` : field === "" ? String(key) : `${field}.${String(key)}`,
    ""
  ) || "arguments"

/** For spans: which fields are wrong, but not what they were. */
const describe = (error: Failure): SpanFailure => {
  switch (error._tag) {
    case "ToolFailed":
      return describeFailure(error)
    case "ToolNotFound":
      return { type: "tool_not_found", message: "there is no such tool" }
    case "ToolArgumentsInvalid":
      return {
        type: "invalid_arguments",
        message: `wrong arguments: ${error.issues.map((issue) => issue.field).join(", ")}`
      }
  }
}

/** The arguments as a model wrote them: JSON text, or a value already. Nothing at all means none are needed. */
const readArguments = (name: string, args: unknown): Effect.Effect<unknown, ToolArgumentsInvalid> =>
  typeof args !== "string"
    ? Effect.succeed(args)
    : args.trim() === ""
      ? Effect.succeed({})
      : Effect.mapError(decodeJson(args), () =>
          invalid(name, [{ message: "Expected a JSON object, got text that is not valid JSON" }])
        )

const decodeJson = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Unknown))

const make = <R>(definitions: ReadonlyArray<ToolDefinition<R>>, options: ToolsOptions) =>
  Effect.gen(function* () {
    const { maxContentLength = 8000 } = options
    const services = yield* Effect.context<R>()
    const offered = yield* Effect.filter(definitions, ({ isOffered }) => isOffered ?? Effect.succeed(true))
    const entries = new Map<string, Entry>()
    for (const definition of offered) {
      const { name } = definition.tool
      if (!/^[a-zA-Z0-9_-]{1,64}$/u.test(name)) {
        return yield* Effect.die(new Error(`A model can't call a tool named ${JSON.stringify(name)}`))
      }
      if (entries.has(name)) return yield* Effect.die(new Error(`Two tools are named ${name}`))
      entries.set(name, entryOf(definition, services))
    }

    const perform = Effect.fnUntraced(function* (name: string, args: unknown) {
      const entry = entries.get(name)
      if (entry === undefined) return yield* new ToolNotFound({ name })
      const decoded = yield* entry.decode(args ?? {})
      return yield* entry.run(decoded)
    })

    const traced = <A>(name: string, self: Effect.Effect<A, Failure>): Effect.Effect<A, Failure> =>
      self.pipe(
        inSpan(SpanName.executeTool, name.slice(0, 64), describe),
        Effect.tapError((error) =>
          error._tag === "ToolFailed"
            ? Effect.void
            : countCall(entries.has(name) ? name : "unknown", describe(error).type)
        )
      )

    const execute = (name: string, args: unknown) =>
      perform(name, args).pipe((self) => traced(name, self), answered, timed)

    const call = (name: string, args: unknown) =>
      readArguments(name, args).pipe(
        Effect.flatMap((value) => perform(name, value)),
        (self) => traced(name, self),
        answered,
        Effect.catch((error) => Effect.succeed(failed(advice(error, [...entries.keys()])))),
        timed,
        Effect.map((outcome) => ({
          ...outcome,
          content: contentOf(outcome.success ? outcome.data : { error: outcome.error }, maxContentLength)
        }))
      )

    const toolkit = yield* toolkitOf([...entries.values()])
    return Tools.of({ list: [...entries.values()].map((entry) => entry.info), toolkit, execute, call })
  })

type Answer = Omit<ToolOutcome, "durationMillis">

const failed = (error: string): Answer => ({ success: false, data: null, error })

/** A failing tool is an answer too. What was wrong before it ran stays an error. */
const answered = (
  self: Effect.Effect<Ran, Failure>
): Effect.Effect<Answer, ToolNotFound | ToolArgumentsInvalid> =>
  self.pipe(
    Effect.map(({ encoded }): Answer => ({ success: true, data: encoded, error: null })),
    Effect.catchTag("ToolFailed", ({ message }) => Effect.succeed(failed(message)))
  )

const timed = <A extends Answer, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const start = yield* Clock.currentTimeNanos
    const outcome = yield* self
    return { ...outcome, durationMillis: yield* millisSince(start) }
  })

interface Entry {
  readonly tool: Tool.Any
  readonly info: ToolInfo
  readonly decode: (args: unknown) => Effect.Effect<unknown, ToolArgumentsInvalid>
  readonly run: (args: unknown) => Effect.Effect<Ran, ToolFailed>
}

const entryOf = <R>(definition: ToolDefinition<R>, services: Context.Context<R>): Entry => {
  const { tool } = definition
  const info = infoOf(tool)
  return {
    tool,
    info,
    decode: (args) =>
      // A struct without fields would take a list or a string for an object.
      Predicate.isObject(args)
        ? Effect.mapError(definition.decode(withoutNulls(args, info.jsonSchema)), ({ issue }) =>
            invalid(tool.name, issuesOf(issue).issues)
          )
        : Effect.fail(invalid(tool.name, [{ message: "Expected object" }])),
    run: runnerOf({
      ...definition,
      isOffered: undefined,
      // The caller's own services win: its clock, tracer and current span.
      handler: (args) => Effect.updateContext(definition.handler(args), (own) => Context.merge(services, own))
    })
  }
}

/** Tells a model what it can do about an error, which a person sees for themselves. */
const advice = (error: ToolNotFound | ToolArgumentsInvalid, names: ReadonlyArray<string>): string =>
  error._tag === "ToolNotFound"
    ? `${error.message} The tools are: ${names.join(", ")}.`
    : `The arguments are wrong. ${error.message}.`

const toolkitOf = (entries: ReadonlyArray<Entry>) => {
  const toolkit = Toolkit.make(...entries.map((entry) => entry.tool))
  const handlers = Object.fromEntries(
    entries.map(({ run, tool }) => [
      tool.name,
      (args: unknown) =>
        run(args).pipe(
          Effect.map((ran) => ran.value),
          Effect.mapError(({ message }) => ({ message }))
        )
    ])
  )
  // biome-ignore lint/suspicious/noExplicitAny: the tools are known at run time only
  return toolkit.toHandlers(handlers as any).pipe(
    Effect.flatMap((context) => Effect.provideContext(toolkit, context)),
    // biome-ignore lint/suspicious/noExplicitAny: as above
    Effect.map((built) => built as Toolkit.WithHandler<any>)
  )
}
