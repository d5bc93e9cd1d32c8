import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Context, Effect, Exit, Layer, Logger, Metric, Schema, Stream } from "effect"
import { FetchHttpClient } from "effect/http"
import { AppConfig } from "../../src/Config.ts"
import { builtIn, defineTool, ToolHttp, Tools, withDefault } from "../../src/tools/Tools.ts"
import { named, probe, transient } from "./Probe.ts"
import { record } from "./RecordingTracer.ts"

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
            {
              name: "text",
              type: "string",
              description: "What to answer",
              required: true,
              default: null,
              enum: null
            },
            {
              name: "times",
              type: "integer",
              description: "How often",
              required: false,
              default: 1,
              enum: null
            },
            {
              name: "tone",
              type: "string",
              description: "How",
              required: false,
              default: null,
              enum: ["loud", "soft"]
            },
            {
              name: "note",
              type: "string | null",
              description: "",
              required: false,
              default: null,
              enum: null
            },
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
      for (const definitions of [
        [echo, echo],
        [defineTool({ ...named("no spaces"), handler: () => Effect.succeed(null) })]
      ]) {
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
      const hidden = defineTool({
        ...named("hidden"),
        handler: () => Effect.succeed(null),
        isOffered: Effect.succeed(false)
      })
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

  it.effect("can have one's own tools beside those built in", () =>
    Effect.gen(function* () {
      const mine = defineTool({ ...named("mine"), handler: () => Effect.succeed("yes") })
      const layer = Tools.layerOf([...builtIn, mine]).pipe(
        Layer.provide(ToolHttp.layer),
        Layer.provide([AppConfig.layer, FetchHttpClient.layer])
      )
      const tools = yield* Effect.provide(Tools, layer).pipe(
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({}))
      )
      assert.deepStrictEqual(
        tools.list.map(({ name }) => name),
        ["calculator", "get_time", "get_weather", "mine"]
      )
      assert.strictEqual((yield* tools.execute("mine", {})).data, "yes")
    })
  )

  it.effect("gives a toolkit for a model, whose handlers run as calls do", () =>
    Effect.gen(function* () {
      const { toolkit } = yield* Tools
      assert.deepStrictEqual(Object.keys(toolkit.tools), ["probe"])
      const results = yield* toolkit
        .handle("probe", {})
        .pipe(
          Effect.flatMap(Stream.runCollect),
          Effect.provideContext(Context.empty() as Context.Context<unknown>)
        )
      assert.deepInclude(results[0], {
        isFailure: true,
        encodedResult: { message: "The tool failed unexpectedly." }
      })
    }).pipe(Effect.provide([probe(() => Effect.die("boom")), Logger.layer([])]))
  )
})

describe("a call's arguments", () => {
  it.effect("may have unknown fields, and null for what is left open", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      const { data } = yield* tools.execute("echo", {
        text: "hi",
        times: null,
        tone: null,
        note: null,
        place: { city: "Oslo", zip: null },
        unheardOf: 1
      })
      assert.deepStrictEqual(data, { heard: { text: "hi", times: 1, note: null, place: { city: "Oslo" } } })
    }).pipe(Effect.provide(Tools.layerOf([echo])))
  )

  it.effect("are refused by the names of all fields that are wrong", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      const error = yield* Effect.flip(
        tools.execute("echo", { text: null, times: 9, tone: "shrill", place: {}, days: [1, "x"] })
      )
      assert.deepStrictEqual(error._tag === "ToolArgumentsInvalid" ? error.issues : [], [
        { field: "text", message: "Missing key" },
        { field: "times", message: "Expected a value between 1 and 3" },
        { field: "tone", message: 'Expected "loud" | "soft"' },
        { field: "place.city", message: "Missing key" },
        { field: "days[1]", message: "Expected number" }
      ])
      for (const args of [null, undefined, {}]) {
        assert.strictEqual((yield* Effect.flip(tools.execute("echo", args))).message, "text: Missing key")
      }
      for (const args of ["text", 5, ["text"]]) {
        assert.strictEqual(
          (yield* Effect.flip(tools.execute("echo", args))).message,
          "arguments: Expected object"
        )
      }
      const unknown = yield* Effect.flip(tools.execute("nope", {}))
      assert.strictEqual(unknown.message, 'There is no tool named "nope".')
    }).pipe(Effect.provide(Tools.layerOf([echo])))
  )

  it.effect("may be text from a model, which is told what is wrong with it", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      const good = yield* tools.call("echo", '{"text":"hi","times":2}')
      assert.deepStrictEqual(JSON.parse(good.content), { heard: { text: "hi", times: 2 } })
      const contents: Array<unknown> = []
      for (const args of ['{"text": "hi"', "", "[]", '{"times": 0}', '{"__proto__": {"text": "hi"}}']) {
        const result = yield* tools.call("echo", args)
        assert.isFalse(result.success)
        contents.push(JSON.parse(result.content))
      }
      assert.deepStrictEqual(contents, [
        {
          error:
            "The arguments are wrong. arguments: Expected a JSON object, got text that is not valid JSON."
        },
        { error: "The arguments are wrong. text: Missing key." },
        { error: "The arguments are wrong. arguments: Expected object." },
        { error: "The arguments are wrong. text: Missing key; times: Expected a value between 1 and 3." },
        { error: "The arguments are wrong. text: Missing key." }
      ])
      const unknown = yield* tools.call("nope", {})
      assert.strictEqual(
        unknown.content,
        '{"error":"There is no tool named \\"nope\\". The tools are: echo."}'
      )
    }).pipe(Effect.provide(Tools.layerOf([echo])))
  )
})

describe("telemetry", () => {
  it.effect(
    "is a span for the call and one for the tool, without arguments or messages that quote them",
    () =>
      Effect.gen(function* () {
        const failing = defineTool({
          ...named("failing"),
          parameters: Schema.Struct({ query: Schema.String }),
          handler: () => Effect.fail(transient),
          spanName: "fail"
        })
        const { spans } = yield* record(
          Effect.gen(function* () {
            const tools = yield* Tools
            yield* tools.call("echo", { text: "secret-argument" })
            yield* tools.call("failing", { query: "secret-argument" })
            yield* tools.call("echo", { text: 1, times: "secret-argument" })
            yield* tools.call("nope", { text: "secret-argument" })
          }).pipe(Effect.provide([Tools.layerOf([echo, failing]), Logger.layer([])]))
        )
        const told: ReadonlyArray<Record<string, unknown>> = spans.map((span) => ({
          name: span.name,
          parent: span.parentName,
          ...Object.fromEntries(span.attributes)
        }))
        const operation = { "gen_ai.operation.name": "execute_tool" }
        const ok = { ...operation, duration_ms: 0, success: true }
        const bad = (type: string, message: string) => ({
          ...operation,
          duration_ms: 0,
          success: false,
          "error.type": type,
          "error.message": message
        })
        assert.deepStrictEqual(told, [
          { name: "tool.execute", parent: undefined, "gen_ai.tool.name": "echo", ...ok },
          { name: "tool.echo", parent: "tool.execute", "gen_ai.tool.name": "echo", ...ok },
          {
            name: "tool.execute",
            parent: undefined,
            "gen_ai.tool.name": "failing",
            ...bad("upstream", "HTTP 503")
          },
          {
            name: "tool.fail",
            parent: "tool.execute",
            "gen_ai.tool.name": "failing",
            ...bad("upstream", "HTTP 503")
          },
          {
            name: "tool.execute",
            parent: undefined,
            "gen_ai.tool.name": "echo",
            ...bad("invalid_arguments", "wrong arguments: text, times")
          },
          {
            name: "tool.execute",
            parent: undefined,
            "gen_ai.tool.name": "nope",
            ...bad("tool_not_found", "there is no such tool")
          }
        ])
        assert.deepStrictEqual(
          spans.map((span) => span.failed),
          [false, false, true, true, true, true]
        )
        assert.notInclude(spans.map((span) => span.everything).join(), "secret-argument")
      })
  )

  it.effect("counts calls by tool and outcome, and times them", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      yield* tools.call("probe", {})
      yield* tools.call("probe", [])
      yield* tools.call("made-up-by-a-model", {})
      const snapshot = yield* Metric.snapshot
      const counted: ReadonlyArray<Record<string, unknown>> = snapshot.flatMap(({ attributes, id, state }) =>
        id === "tool_calls_total"
          ? [{ ...attributes, count: (state as { readonly count: number }).count }]
          : []
      )
      assert.deepStrictEqual(counted, [
        { tool: "probe", outcome: "success", count: 1 },
        { tool: "probe", outcome: "invalid_arguments", count: 1 },
        { tool: "unknown", outcome: "tool_not_found", count: 1 }
      ])
      assert.deepStrictEqual(
        snapshot.flatMap(({ attributes, id }) => (id === "tool_duration_seconds" ? [attributes] : [])),
        [{ tool: "probe" }]
      )
    }).pipe(
      Effect.provide(probe(() => Effect.succeed(1))),
      Effect.provideService(Metric.MetricRegistry, new Map())
    )
  )
})
