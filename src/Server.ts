/**
 * Owns the composition: the only file that picks adapters, and the order in which parts start and stop.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { ByteSize, Duration, Effect, type FileSystem, Layer, type Path } from "effect"
import type * as Etag from "effect/http/Etag"
import * as HttpIncomingMessage from "effect/http/HttpIncomingMessage"
import type * as HttpPlatform from "effect/http/HttpPlatform"
import * as HttpRouter from "effect/http/HttpRouter"
import type * as HttpServer from "effect/http/HttpServer"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import { Agent } from "./agent/Agent.ts"
import { AppConfig, type LlmSettings } from "./Config.ts"
import * as Db from "./db/Db.ts"
import { layerApiKeys } from "./http/ApiKeys.ts"
import { layerCors } from "./http/Cors.ts"
import { layerChatHandlers, layerConversationHandlers, layerRootSocketHandlers } from "./http/chat.ts"
import { makeNodeServer } from "./http/NodeServer.ts"
import { layerHealthHandlers, layerInfoHandlers } from "./http/operations.ts"
import { layerPages } from "./http/Pages.ts"
import { publishedApi } from "./http/PublishedApi.ts"
import { layerProblems, layerRequestContext, layerRoute } from "./http/RequestContext.ts"
import { layerSessionHandlers } from "./http/sessions.ts"
import { layerMcpHandlers, layerToolsHandlers } from "./http/tools.ts"
import { layerMetricsHandlers, layerTurnHandlers } from "./http/traces.ts"
import { Llm } from "./llm/Llm.ts"
import * as LlmOffline from "./llm/offline/LlmOffline.ts"
import * as LlmOpenAi from "./llm/openai/LlmOpenAi.ts"
import { layerLogging } from "./observability/Logging.ts"
import { Metrics } from "./observability/Metrics.ts"
import { Redaction } from "./observability/Redaction.ts"
import { layerTracer } from "./observability/Tracer.ts"
import { Health } from "./operations/Health.ts"
import { Sessions } from "./sessions/Sessions.ts"
import { SessionsRepo } from "./sessions/SessionsRepo.ts"
import { ToolHttp, Tools } from "./tools/Tools.ts"
import { TraceStore } from "./traces/TraceStore.ts"
import { Turns } from "./turns/Turns.ts"
import { TurnsRepo } from "./turns/TurnsRepo.ts"

const isModelConfigured = ({ apiKey, baseUrl, model }: LlmSettings) =>
  apiKey !== undefined || baseUrl !== undefined || model !== undefined

const layerProvider = Layer.unwrap(
  Effect.map(AppConfig, ({ llm }) => (isModelConfigured(llm) ? LlmOpenAi.layer : LlmOffline.layer))
)

/** The model, as configured. */
export const layerLlm = Llm.layer.pipe(Layer.provide(layerProvider))

/** The tools, as configured. */
export const layerTools = Tools.layer.pipe(Layer.provide(NodeHttpClient.layerUndici))

/** What the built-in tools need, for those who offer them next to tools of their own. */
export const layerToolHttp = ToolHttp.layer.pipe(Layer.provide(NodeHttpClient.layerUndici))

/** The services, over a database, a model and tools that are given. */
const layerServices = Health.layerNoDeps.pipe(
  Layer.provideMerge(Turns.layerNoDeps),
  Layer.provideMerge(Layer.mergeAll(Agent.layerNoDeps, TurnsRepo.layer, Sessions.layerNoDeps)),
  Layer.provideMerge(Metrics.layer),
  Layer.provide(SessionsRepo.layer)
)

/** All routes, over the services. */
const layerRoutes = Layer.mergeAll(
  HttpApiBuilder.layer(publishedApi, { openapiPath: "/openapi.json" }),
  layerPages
).pipe(
  Layer.provide([
    layerChatHandlers,
    layerRootSocketHandlers,
    layerConversationHandlers,
    layerSessionHandlers,
    layerToolsHandlers,
    layerMcpHandlers,
    layerHealthHandlers,
    layerInfoHandlers,
    layerMetricsHandlers,
    layerTurnHandlers
  ]),
  Layer.provide([layerApiKeys, layerProblems, layerRoute]),
  // In this order: the first built is around all others.
  Layer.provide(layerCors.pipe(Layer.provide(layerRequestContext)))
)

/** Frames up to here are answered with an error; beyond, the connection is closed. */
const maxSocketPayload = 8 * 1024 * 1024

const layerHttpServer = Layer.unwrap(
  Effect.map(AppConfig, ({ host, port }) =>
    NodeHttpServer.layer(makeNodeServer, {
      host,
      port,
      // Turns have had their grace by then.
      gracefulShutdownTimeout: Duration.seconds(1),
      websocket: { maxPayload: maxSocketPayload }
    })
  )
)

/** Before anything stops, running turns get their grace. Still answering: 503 to new turns and to the readiness probe. */
const layerDrain = Layer.effectDiscard(
  Effect.gen(function* () {
    const turns = yield* Turns
    const { shutdownGrace } = yield* AppConfig
    yield* Effect.addFinalizer(() => turns.drain(shutdownGrace))
  })
)

const layerServe = HttpRouter.serve(layerRoutes, {
  routerConfig: { ignoreTrailingSlash: true, maxParamLength: 20_000 },
  disableLogger: true,
  disableListenLog: true
}).pipe(Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.mebibytes(1))))

/** What answers requests besides the app: a server, and what of a platform serving needs. */
type Http =
  | HttpServer.HttpServer
  | HttpPlatform.HttpPlatform
  | FileSystem.FileSystem
  | Path.Path
  | Etag.Generator

/** The whole app, over an HTTP server and a tracer too. The server begins to listen when all else is ready. */
export const layerAppOver = <E, R, E2, R2>(
  http: Layer.Layer<Http, E, R>,
  tracer: Layer.Layer<never, E2, R2>
) =>
  layerDrain.pipe(
    Layer.provideMerge(layerServe.pipe(Layer.provideMerge(http))),
    Layer.provideMerge(layerServices),
    Layer.provideMerge(tracer),
    Layer.provideMerge(TraceStore.layer),
    Layer.provide(Redaction.layer)
  )

/** The whole app, over a database, a model, tools and a configuration that are given. */
export const layerApp = layerAppOver(layerHttpServer, layerTracer)

/** The app's model and tools, as configured. */
export const layerPorts = Layer.mergeAll(layerLlm, layerTools)

/** The server from its environment, with a model and tools of one's own: `Layer.merge(layerLlm, myTools)`. */
export const layerUsing = <E, R>(ports: Layer.Layer<Llm | Tools, E, R>) =>
  layerApp.pipe(
    Layer.provideMerge(Layer.mergeAll(Db.layer, ports)),
    Layer.provide(layerLogging.pipe(Layer.provide(Redaction.layer))),
    Layer.provideMerge(AppConfig.layer)
  )

/** The server, from its environment. */
export const layer = layerUsing(layerPorts)
