/**
 * Owns the wire shapes of what operators ask: health and information.
 */
import { Schema } from "effect"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import { Timestamp } from "./Fields.ts"
import { Authorization } from "./Security.ts"

const HealthStatus = Schema.Literals(["healthy", "degraded", "unhealthy"])
export type HealthStatus = typeof HealthStatus.Type

const reportFields = {
  timestamp: Timestamp,
  version: Schema.String,
  uptime_seconds: Schema.Finite,
  components: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      status: HealthStatus,
      message: Schema.String,
      response_time_ms: Schema.Finite,
      last_check: Timestamp
    })
  ),
  metrics: Schema.Record(Schema.String, Schema.Finite)
}

const Working = Schema.Struct({ status: Schema.Literals(["healthy", "degraded"]), ...reportFields }).annotate(
  {
    identifier: "HealthReport"
  }
)

const Broken = Schema.Struct({ status: Schema.Literal("unhealthy"), ...reportFields })
  .annotate({ identifier: "UnhealthyReport" })
  .pipe(HttpApiSchema.status(503))

const Ready = Schema.Struct({ status: Schema.Literal("ready") })
const NotReady = Schema.Struct({ status: Schema.Literal("not_ready"), reason: Schema.String }).pipe(
  HttpApiSchema.status(503)
)

/** Open to anyone: load balancers and probes carry no credentials. */
export class HealthApi extends HttpApiGroup.make("health")
  .add(
    HttpApiEndpoint.get("report", "/health", { success: [Working, Broken] }),
    HttpApiEndpoint.get("live", "/health/live", {
      success: Schema.Struct({ status: Schema.Literal("alive") })
    }),
    HttpApiEndpoint.get("ready", "/health/ready", { success: [Ready, NotReady] })
  )
  .prefix("/api/v1") {}

export class InfoApi extends HttpApiGroup.make("info")
  .add(
    HttpApiEndpoint.get("info", "/info", {
      success: Schema.Struct({
        name: Schema.String,
        version: Schema.String,
        models: Schema.Struct({
          provider: Schema.String,
          default: Schema.String,
          fast: Schema.String,
          creative: Schema.String,
          fallbacks: Schema.Array(Schema.String)
        }),
        tools: Schema.Array(Schema.String),
        features: Schema.Record(Schema.String, Schema.Boolean)
      })
    })
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}

/** Prometheus text. Guarded: give the scraper the key as a header. */
export class MetricsApi extends HttpApiGroup.make("metrics")
  .add(
    HttpApiEndpoint.get("metrics", "/metrics", {
      success: Schema.String.pipe(
        HttpApiSchema.asText({ contentType: "text/plain; version=0.0.4; charset=utf-8" })
      )
    })
  )
  .middleware(Authorization) {}
