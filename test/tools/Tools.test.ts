import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Metric, Ref, Schema, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { AppConfig, type Settings } from "../../src/Config.ts"
import { builtIn, defineTool, ToolFailed, Tools, withDefault } from "../../src/tools/Tools.ts"
import { recordingTracer } from "./recordingTracer.ts"

const Nothing = Schema.Struct({})

const echo = defineTool({
  name: "echo",
  description: "Answers what it is given.",
  parameters: Schema.Struct({
    text: Schema.String.annotate({ description: "What to answer" }),
    times: withDefault(
      Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 })).annotate({ description: "How often" }),
      1
    ),
    tone: Schema.optionalKey(Schema.Literals(["loud", "soft"]).annotate({ description: "How" })),
    note: Schema.optionalKey(Schema.NullOr(Schema.String)),
    place: Schema.optionalKey(Schema.Struct({ city: Schema.String, zip: Schema.optionalKey(Schema.String) })),
    days: Schema.optionalKey(Schema.Array(Schema.Finite))
  }),
  success: Schema.Struct({ heard: Schema.Unknown }),
  handler: (args) => Effect.succeed({ heard: args })
})

const tool = <R = never>(
  handler: () => Effect.Effect<unknown, ToolFailed, R>,
  options: { readonly isIdempotent?: boolean; readonly timeout?: "1 minute" } = {}
) =>
  defineTool({
    name: "probe",
    description: "Does what a test needs.",
    parameters: Nothing,
    success: Schema.Unknown,
    handler,
    ...options
  })

const transient = new ToolFailed({
  message: "busy with secret-argument",
  reason: "upstream",
  detail: "HTTP 503",
  isTransient: true
})

describe("the list", () => {
  it.effect("describes each tool for people and for models", () =>
    Effect.gen(function* () {
      const { list } = yield* Tools
      const jsonSchema = {
        type: "object",
        properties: {
          text: { type: "string", description: "What to answer" },
          times: { type: "integer", minimum: 1, maximum: 3, description: "How often", default: 1 },
          tone: { type: "string", enum: ["loud", "soft"], description: "How" },
          note: { anyOf: [{ type: "string" }, { type: "null" }] },
          place: {
            type: "object",
            properties: { city: { type: "string" }, zip: { type: "string" } },
            required: ["city"],
            additionalProperties: true
          },
          days: { type: "array", items: { type: "number" } }
        },
        required: ["text"]
      }
      assert.deepStrictEqual(list, [
        {
          name: "echo",
          description: "Answers what it is given.",
          parameters: [
            { name: "text", type: "string", description: "What to answer", required: true, default: null, enum: null },
            { name: "times", type: "integer", description: "How often", required: false, default: 1, enum: null },
            { name: "tone", type: "string", description: "How", required: false, default: null, enum: ["loud", "soft"] },
            { name: "note", type: "string | null", description: "", required: false, default: null, enum: null },
            { name: "place", type: "object", description: "", required: false, default: null, enum: null },
            { name: "days", type: "array", description: "", required: false, default: null, enum: null }
          ],
          jsonSchema
        }
      ])
    }).pipe(Effect.provide(Tools.layerOf([echo])))
  )

  it.effect("refuses two tools of one name, and names that no model can call", () =>
    Effect.gen(function* () {
      for (const definitions of [[echo, echo], [defineTool({ ...named("no spaces"), handler: () => Effect.void })]]) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Tools.layerOf(definitions))))
        assert.isTrue(Exit.hasDies(exit))
      }
    })
  )

  it.effect("takes services for its handlers when it is built, and lists tools that are offered", () =>
    Effect.gen(function* () {
      class Greeting extends Context.Service<Greeting, string>()("test/Greeting") {}
      const greet = defineTool({
        ...named("greet"),
        success: Schema.String,
        handler: () => Effect.map(Greeting, (greeting) => `${greeting}!`)
      })
      const hidden = defineTool({ ...named("hidden"), handler: () => Effect.void, isOffered: Effect.succeed(false) })
      const layer = Tools.layerOf([greet, hidden]).pipe(Layer.provide(Layer.succeed(Greeting, "hello")))
      const tools = yield* Effect.provide(Tools, layer)
      assert.deepStrictEqual(
        tools.list.map(({ name }) => name),
        ["greet"]
      )
      assert.strictEqual((yield* tools.execute("greet", {})).data, "hello!")
      assert.strictEqual((yield* Effect.flip(tools.execute("hidden", {})))._tag, "ToolNotFound")
    })
  )

  it.effect("gives a toolkit for a model, whose handlers run as calls do", () =>
    Effect.gen(function* () {
      const { toolkit } = yield* Tools
      assert.deepStrictEqual(Object.keys(toolkit.tools), ["probe"])
      const results = yield* Effect.flatMap(toolkit.handle("probe", {}), (stream) => Stream.runCollect(stream))
      assert.deepInclude(results[0], { isFailure: true, encodedResult: { message: "The tool failed unexpectedly." } })
    }).pipe(Effect.provide([Tools.layerOf([tool(() => Effect.die("boom"))]), Logger.layer([])]))
  )
})

const named = <Name extends string>(name: Name) => ({
  name,
  description: "Does what a test needs.",
  parameters: Nothing,
  success: Schema.Void as Schema.Codec<unknown, unknown>
})
