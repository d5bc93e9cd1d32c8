/**
 * Owns which web pages may call from a browser: those of the configured origins.
 */
import { Effect, Layer } from "effect"
import * as HttpMiddleware from "effect/http/HttpMiddleware"
import * as HttpRouter from "effect/http/HttpRouter"
import { AppConfig } from "../Config.ts"

export const layerCors = Layer.unwrap(
  Effect.map(AppConfig, ({ corsOrigins }) => {
    if (corsOrigins.length === 0) return Layer.empty
    const isPublic = corsOrigins.includes("*")
    return HttpRouter.middleware(
      HttpMiddleware.cors({
        // A list of one would be told to every origin.
        allowedOrigins: isPublic ? ["*"] : (origin) => corsOrigins.includes(origin),
        allowedHeaders: [
          "content-type",
          "authorization",
          "x-api-key",
          "x-request-id",
          "traceparent",
          "tracestate",
          "cache-control",
          "last-event-id"
        ],
        exposedHeaders: ["x-request-id", "x-session-id", "traceparent", "retry-after"],
        credentials: !isPublic,
        maxAge: 600
      }),
      { global: true }
    )
  })
)
