/**
 * Owns whether the server is well: what each part says, and what it adds up to.
 */
import { Clock, Context, Effect, Layer, Result } from "effect"
import { SqlClient } from "effect/sql"
import type { HealthStatus } from "../api/OperationsApi.ts"
import { DbInfo, guard } from "../db/Db.ts"
import { Llm } from "../llm/Llm.ts"
import { Turns } from "../turns/Turns.ts"

export interface ComponentHealth {
  readonly name: string
  readonly status: HealthStatus
  readonly message: string
  readonly responseMillis: number
}

export interface HealthReport {
  readonly status: HealthStatus
  readonly components: ReadonlyArray<ComponentHealth>
  readonly metrics: Readonly<Record<string, number>>
}

export class Health extends Context.Service<
  Health,
  {
    readonly report: Effect.Effect<HealthReport>
    /** Why the server should get no traffic; `undefined` when it should. */
    readonly notReady: Effect.Effect<string | undefined>
  }
>()("voice-agent/operations/Health") {
  static readonly layerNoDeps: Layer.Layer<Health, never, SqlClient.SqlClient | DbInfo | Llm | Turns> =
    Layer.effect(
      Health,
      Effect.suspend(() => make)
    )
}

const worst = (statuses: ReadonlyArray<HealthStatus>): HealthStatus =>
  statuses.includes("unhealthy") ? "unhealthy" : statuses.includes("degraded") ? "degraded" : "healthy"

const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const info = yield* DbInfo
  const llm = yield* Llm
  const turns = yield* Turns

  const database = Effect.gen(function* () {
    const startedAt = yield* Clock.currentTimeMillis
    const result = yield* Effect.result(guard(sql`SELECT 1 AS alive`))
    const responseMillis = (yield* Clock.currentTimeMillis) - startedAt
    return Result.isSuccess(result)
      ? { name: "database", status: "healthy" as const, message: info.description, responseMillis }
      : { name: "database", status: "unhealthy" as const, message: result.failure.message, responseMillis }
  })

  const model: ComponentHealth = llm.isOffline
    ? {
        name: "model",
        status: "degraded",
        message: "No model is configured: the offline model answers",
        responseMillis: 0
      }
    : {
        name: "model",
        status: "healthy",
        message: `${llm.models.default} (${llm.provider})`,
        responseMillis: 0
      }

  const agent = Effect.map(turns.status, ({ open, draining }) => ({
    open,
    health: {
      name: "turns",
      status: draining ? ("degraded" as const) : ("healthy" as const),
      message: draining ? "Shutting down: no more turns are taken" : `${open} open`,
      responseMillis: 0
    }
  }))

  return Health.of({
    report: Effect.gen(function* () {
      const { open, health } = yield* agent
      const components: ReadonlyArray<ComponentHealth> = [yield* database, model, health]
      const memory = process.memoryUsage()
      return {
        status: worst(components.map(({ status }) => status)),
        components,
        metrics: {
          open_turns: open,
          resident_memory_bytes: memory.rss,
          heap_used_bytes: memory.heapUsed
        }
      }
    }),
    notReady: Effect.gen(function* () {
      const { draining } = yield* turns.status
      if (draining) return "The server is shutting down"
      const { message, status } = yield* database
      return status === "unhealthy" ? message : undefined
    })
  })
})
