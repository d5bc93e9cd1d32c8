/**
 * Owns the handlers of health and information.
 */
import { DateTime, Effect } from "effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import { Api } from "../api/Api.ts"
import { AppConfig } from "../Config.ts"
import { DbInfo } from "../db/Db.ts"
import { Llm } from "../llm/Llm.ts"
import { Health } from "../operations/Health.ts"
import { Tools } from "../tools/Tools.ts"
import { version } from "../version.ts"

export const layerHealthHandlers = HttpApiBuilder.group(
  Api,
  "health",
  Effect.fnUntraced(function* (handlers) {
    const health = yield* Health
    return handlers
      .handle("report", () =>
        Effect.gen(function* () {
          const { components, metrics, status } = yield* health.report
          const timestamp = DateTime.formatIso(yield* DateTime.now)
          return {
            status,
            timestamp,
            version,
            uptime_seconds: Math.round(process.uptime()),
            components: components.map(({ responseMillis, ...component }) => ({
              ...component,
              response_time_ms: responseMillis,
              last_check: timestamp
            })),
            metrics
          }
        })
      )
      .handle("live", () => Effect.succeed({ status: "alive" as const }))
      .handle("ready", () =>
        Effect.map(health.notReady, (reason) =>
          reason === undefined ? { status: "ready" as const } : { status: "not_ready" as const, reason }
        )
      )
  })
)

export const layerInfoHandlers = HttpApiBuilder.group(
  Api,
  "info",
  Effect.fnUntraced(function* (handlers) {
    const llm = yield* Llm
    const tools = yield* Tools
    const db = yield* DbInfo
    const { apiKeys } = yield* AppConfig
    return handlers.handle("info", () =>
      Effect.succeed({
        name: "voice-agent-api",
        version,
        models: { provider: llm.provider, ...llm.models, fallbacks: llm.fallbackModels },
        tools: tools.list.map((tool) => tool.name),
        features: {
          api_keys: apiKeys.length > 0,
          embedded_database: db.kind === "embedded",
          offline_model: llm.isOffline,
          streaming: true,
          voice: false
        }
      })
    )
  })
)
