/**
 * Owns the composition: the only file that picks adapters, and the order in which parts start and stop.
 */
import { createServer } from "node:http"
import { NodeHttpClient, NodeHttpServer } from "@effect/platform-node"
import { ByteSize, Duration, Effect, Layer } from "effect"
import { HttpIncomingMessage, HttpRouter } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { Agent } from "./agent/Agent.ts"
import { layerChatHandlers, layerConversationHandlers, layerRootSocketHandlers } from "./agent/http.ts"
import { Turns } from "./agent/Turns.ts"
import { TurnsRepo } from "./agent/TurnsRepo.ts"
import { Api } from "./api/Api.ts"
import { AppConfig, type LlmSettings } from "./Config.ts"
import * as Db from "./db/Db.ts"
import { Llm } from "./llm/Llm.ts"
import * as LlmOffline from "./llm/LlmOffline.ts"
import * as LlmOpenAi from "./llm/LlmOpenAi.ts"
import { layerLogging } from "./observability/Logging.ts"
import { Health } from "./operations/Health.ts"
import { layerHealthHandlers, layerInfoHandlers } from "./operations/http.ts"
import { layerApiKeys } from "./server/ApiKeys.ts"
import { layerPages } from "./server/Pages.ts"
import { layerProblems, layerRequestContext } from "./server/RequestContext.ts"
import { layerSessionHandlers } from "./sessions/http.ts"
import { Sessions } from "./sessions/Sessions.ts"
import { SessionsRepo } from "./sessions/SessionsRepo.ts"
import { layerMcpHandlers, layerToolsHandlers } from "./tools/http.ts"
import { Tools } from "./tools/Tools.ts"

const isModelConfigured = ({ apiKey, baseUrl, model }: LlmSettings) =>
  apiKey !== undefined || baseUrl !== undefined || model !== undefined

const layerProvider = Layer.unwrap(
  Effect.map(AppConfig, ({ llm }) => (isModelConfigured(llm) ? LlmOpenAi.layer : LlmOffline.layer))
)

const layerLlm = Llm.layer.pipe(Layer.provide(layerProvider))

const layerTools = Tools.layer.pipe(Layer.provide(NodeHttpClient.layerUndici))

/** The services, over a database, a model and tools that are given. */
const layerServices = Health.layerNoDeps.pipe(
  Layer.provideMerge(Turns.layerNoDeps),
  Layer.provideMerge(Layer.mergeAll(Agent.layerNoDeps, TurnsRepo.layer, Sessions.layerNoDeps)),
  Layer.provide(SessionsRepo.layer)
)

/** All routes, over the services. */
const layerRoutes = Layer.mergeAll(
  HttpApiBuilder.layer(Api, { openapiPath: "/openapi.json" }),
  layerPages,
  layerRequestContext
).pipe(
  Layer.provide([
    layerChatHandlers,
    layerRootSocketHandlers,
    layerConversationHandlers,
    layerSessionHandlers,
    layerToolsHandlers,
    layerMcpHandlers,
    layerHealthHandlers,
    layerInfoHandlers
  ]),
  Layer.provide([layerApiKeys, layerProblems]),
  Layer.provide(
    Layer.unwrap(
      Effect.map(AppConfig, ({ corsOrigins }) =>
        corsOrigins.length === 0
          ? Layer.empty
          : HttpRouter.cors({
              allowedOrigins: corsOrigins,
              allowedHeaders: ["content-type", "authorization", "x-api-key", "x-request-id", "traceparent"],
              exposedHeaders: ["x-request-id", "x-session-id", "traceparent", "retry-after"],
              credentials: true,
              maxAge: 600
            })
      )
    )
  )
)

/** A `GET` stream of 4000 characters, percent-encoded, is 36 KB of path alone. */
const maxHeaderSize = 64 * 1024

/** Frames up to here are answered with an error; beyond, the connection is closed. */
const maxSocketPayload = 8 * 1024 * 1024

/** What a node server answers by itself, to what is not HTTP. */
const badRequest = (code: string | undefined) => {
  const [status, title] =
    code === "HPE_HEADER_OVERFLOW" ? [431, "Request Header Fields Too Large"] : [400, "Bad Request"]
  const body = JSON.stringify({
    type: "about:blank",
    title,
    status,
    detail: "The request could not be read.",
    error_code: "VALIDATION_ERROR",
    request_id: `req_${crypto.randomUUID().replaceAll("-", "")}`,
    trace_id: ""
  })
  return `HTTP/1.1 ${status} ${title}\r\nContent-Type: application/problem+json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`
}

const layerHttpServer = Layer.unwrap(
  Effect.map(AppConfig, ({ host, port }) =>
    NodeHttpServer.layer(
      () => {
        const server = createServer({ maxHeaderSize })
        server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
          if (socket.writable) socket.end(badRequest(error.code))
        })
        return server
      },
      {
        host,
        port,
        // Turns have had their grace by then.
        gracefulShutdownTimeout: Duration.seconds(1),
        websocket: { maxPayload: maxSocketPayload }
      }
    )
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
}).pipe(
  Layer.provide(Layer.succeed(HttpIncomingMessage.MaxBodySize, ByteSize.mebibytes(1))),
  Layer.provideMerge(layerHttpServer)
)

/** The whole app, over a database, a model, tools and a configuration that are given. */
export const layerApp = layerDrain.pipe(Layer.provideMerge(layerServe), Layer.provideMerge(layerServices))

/** The app's model and tools, as configured. */
export const layerPorts = Layer.mergeAll(layerLlm, layerTools)

/** The server, from its environment. */
export const layer = layerApp.pipe(
  Layer.provideMerge(Layer.mergeAll(Db.layer, layerPorts)),
  Layer.provide(layerLogging),
  Layer.provideMerge(AppConfig.layer)
)
