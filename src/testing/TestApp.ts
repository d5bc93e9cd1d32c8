/**
 * Owns the whole app in this process: no sockets, an embedded database in memory, a scripted model; and any of these
 * parts replaced by a layer of the test's own.
 *
 * Does not do WebSockets: start a server for those.
 */
import { ConfigProvider, Context, Effect, Layer, References, Schema, Stream } from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import { Api } from "../api/Api.ts"
import { type ChatHistory, ChatRequest } from "../api/ChatApi.ts"
import type { ChatEvent } from "../api/ChatEvent.ts"
import { SessionId } from "../api/Session.ts"
import { AppConfig } from "../Config.ts"
import * as Db from "../db/Db.ts"
import * as Migrations from "../db/Migrations.ts"
import { Llm, LlmProvider } from "../llm/Llm.ts"
import type { Redaction } from "../observability/Redaction.ts"
import { layerTracer, SpanProcessors } from "../observability/Tracer.ts"
import * as Server from "../Server.ts"
import type { Tools } from "../tools/Tools.ts"
import type { TraceStore } from "../traces/TraceStore.ts"
import * as InProcessHttp from "./InProcessHttp.ts"
import type { Script, Scripted } from "./Script.ts"
import { ScriptedModel } from "./ScriptedModel.ts"
import { TurnSpans, type TurnTrace } from "./TurnSpans.ts"

export type AppClient = HttpApiClient.ForApi<typeof Api>

type Event = typeof ChatEvent.Type

type History = (typeof ChatHistory.Type)["messages"]

/** One turn, as a client saw it. */
export interface TurnRun {
  readonly turnId: string
  readonly sessionId: string
  /** All events, in order. */
  readonly events: ReadonlyArray<Event>
  /** What the deltas add up to. */
  readonly reply: string
  /** The event that ended it. */
  readonly end: Extract<Event, { readonly type: "end" | "error" | "cancelled" }>
}

/** Layers are built once for each app. One that fails is a defect: the app could not start. */
export interface TestAppOptions {
  /** What the model says. Default: nothing; `app.model.push` gives it more. */
  readonly script?: Script
  /** Environment values, by the names in `.env.example`. */
  readonly settings?: Readonly<Record<string, string>>
  /** In place of the embedded database in memory. It is brought up to the newest schema. */
  readonly db?: Layer.Layer<Db.Db, unknown, AppConfig>
  /** In place of the scripted model; retries, timeouts, breakers and fallbacks stay. */
  readonly provider?: Layer.Layer<LlmProvider, unknown, AppConfig>
  /** In place of the model with its policy. */
  readonly llm?: Layer.Layer<Llm, unknown, AppConfig>
  /** In place of the built-in tools. */
  readonly tools?: Layer.Layer<Tools, unknown, AppConfig>
  /** In place of the app's tracer, such as `Layer.succeed(Tracer.Tracer, mine)`. `trace` has nothing to tell then. */
  readonly tracer?: Layer.Layer<never, unknown, AppConfig>
}

const defaults = { LLM_MODEL: "scripted", LOG_LEVEL: "None", SHUTDOWN_GRACE: "0" }

const layerDb = Db.layerMemory

/** With the log level that the settings ask for; none is the default. */
const layerLogLevel = Layer.unwrap(
  Effect.map(AppConfig, ({ logLevel }) => Layer.succeed(References.MinimumLogLevel, logLevel))
)

const layerMigrated = (options: TestAppOptions) =>
  Layer.effectDiscard(Migrations.up()).pipe(Layer.provideMerge(options.db ?? layerDb))

const decodeRequest = Schema.decodeEffect(ChatRequest)
const decodeSessionId = Schema.decodeEffect(SessionId)

const isDelta = (event: Event): event is Extract<Event, { readonly type: "delta" }> => event.type === "delta"

const runOf = (events: ReadonlyArray<Event>): TurnRun => {
  const [start] = events
  const end = events.at(-1)
  if (start?.type !== "start" || (end?.type !== "end" && end?.type !== "error" && end?.type !== "cancelled"))
    throw new Error(`The stream broke off: ${JSON.stringify(events)}`)
  return {
    turnId: start.turn_id,
    sessionId: start.session_id,
    events,
    reply: events
      .filter(isDelta)
      .map(({ content }) => content)
      .join(""),
    end
  }
}

export class TestApp extends Context.Service<
  TestApp,
  {
    /** Asks the app as a client written against the API does, with the first of `API_KEYS` where there are any. */
    readonly client: AppClient
    /** The same without types. A path is enough of a URL. */
    readonly fetch: InProcessHttp.Fetch
    /** What the scripted model was asked. Nothing, where another one answers. */
    readonly model: Scripted
    /** Runs a turn to its end. One that is refused, or whose stream breaks off, is a defect: see `client` for these. */
    readonly turn: (message: string | typeof ChatRequest.Encoded) => Effect.Effect<TurnRun>
    /** What the session's history holds, oldest first, with metadata; the newest 200. */
    readonly history: (sessionId: string) => Effect.Effect<History>
    /** The spans of a turn, once they have all ended. */
    readonly trace: (turn: Pick<TurnRun, "turnId">) => Effect.Effect<TurnTrace>
  }
>()("voice-agent/testing/TestApp") {
  static readonly make = Effect.fnUntraced(function* (options: TestAppOptions = {}) {
    const settings: Record<string, string> = { ...defaults, ...options.settings }
    const { model, provider } = ScriptedModel.make(options.script)
    const spans = new TurnSpans()
    const config = AppConfig.layer.pipe(
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(settings)))
    )
    const layerLlm =
      options.llm ?? Llm.layer.pipe(Layer.provide(options.provider ?? Layer.succeed(LlmProvider, provider)))
    const { fetch, layer: layerHttp } = InProcessHttp.make()
    const app = Server.layerAppOver<never, never, unknown, AppConfig | Redaction | TraceStore>(
      layerHttp,
      options.tracer ?? layerTracer
    ).pipe(
      Layer.provide([layerMigrated(options), layerLlm, options.tools ?? Server.layerTools]),
      Layer.provide([layerLogLevel, Layer.succeed(SpanProcessors, [spans.processor])]),
      Layer.provide(config),
      Layer.orDie
    )
    // Fresh: two apps of one test share nothing.
    yield* Layer.build(Layer.fresh(app))
    const key = settings.API_KEYS?.split(",")[0]?.trim() ?? ""
    const client = yield* HttpApiClient.make(Api, {
      baseUrl: InProcessHttp.baseUrl,
      transformClient: HttpClient.mapRequest((request) =>
        key === "" ? request : HttpClientRequest.setHeader(request, "x-api-key", key)
      )
    }).pipe(
      Effect.provide(FetchHttpClient.layer),
      Effect.provideService(FetchHttpClient.Fetch, fetch as typeof globalThis.fetch)
    )
    return TestApp.of({
      client,
      fetch,
      model,
      turn: (message) =>
        decodeRequest(typeof message === "string" ? { message } : message).pipe(
          Effect.flatMap((payload) => client.chat.stream({ payload })),
          Effect.flatMap((stream) => Stream.runCollect(stream)),
          Effect.map(runOf),
          Effect.orDie
        ),
      history: (sessionId) =>
        decodeSessionId(sessionId).pipe(
          Effect.flatMap((session_id) =>
            client.chat.history({ params: { session_id }, query: { limit: 200, include_metadata: true } })
          ),
          Effect.map(({ messages }) => messages),
          Effect.orDie
        ),
      trace: ({ turnId }) =>
        options.tracer === undefined
          ? Effect.promise(() => spans.trace(turnId))
          : Effect.die(new Error("The spans went to the tracer that was given"))
    })
  })

  static readonly layer = (options: TestAppOptions = {}): Layer.Layer<TestApp> =>
    Layer.effect(TestApp, TestApp.make(options))
}
