/**
 * Owns a whole server that keeps its log lines, and sends its spans to a collector of the test's own.
 */
import { NodeHttpClient } from "@effect/platform-node"
import { Context, Effect, Layer, type Scope } from "effect"
import { HttpServer } from "effect/http"
import { SqlClient } from "effect/sql"
import { type Script, ScriptedModel, type ScriptedServer } from "voice-agent-api/testing"
import type { AppConfig } from "../../src/Config.ts"
import { layerLoggingTo } from "../../src/observability/Logging.ts"
import { Redaction } from "../../src/observability/Redaction.ts"
import * as Server from "../../src/Server.ts"
import type { Tools } from "../../src/tools/Tools.ts"
import * as OtlpReceiver from "../support/OtlpReceiver.ts"
import { scriptedConfig } from "../support/scriptedConfig.ts"
import * as TestDb from "../support/TestDb.ts"

export interface Logged {
  readonly url: string
  readonly model: ScriptedServer
  readonly otlp: OtlpReceiver.OtlpReceiver
  readonly sql: SqlClient.SqlClient
  /** As written, in order. */
  readonly lines: ReadonlyArray<string>
}

export interface LoggedOptions {
  /** Environment values, made when it is known where the model is. */
  readonly settings?: (model: ScriptedServer) => Readonly<Record<string, string>>
  /** In place of the built-in ones; may ask for what those have. */
  readonly tools?: Layer.Layer<Tools, never, AppConfig | Layer.Success<typeof NodeHttpClient.layerUndici>>
}

export const make = (
  script: Script,
  { settings = () => ({}), tools }: LoggedOptions = {}
): Effect.Effect<Logged, never, Scope.Scope> =>
  Effect.gen(function* () {
    const lines: Array<string> = []
    const otlp = yield* OtlpReceiver.make
    const model = yield* ScriptedModel.serve(script)
    const config = scriptedConfig(model, {
      LOG_FORMAT: "json",
      OTEL_EXPORTER_OTLP_ENDPOINT: otlp.url,
      OTEL_BSP_SCHEDULE_DELAY: "20",
      ...settings(model)
    })
    const ports =
      tools === undefined
        ? Server.layerPorts
        : Layer.merge(Server.layerPorts, tools.pipe(Layer.provide(NodeHttpClient.layerUndici)))
    const app = Server.layerApp.pipe(
      Layer.provideMerge(Layer.merge(TestDb.layer, ports)),
      Layer.provide(layerLoggingTo((line) => void lines.push(line)).pipe(Layer.provide(Redaction.layer))),
      Layer.provide(config)
    )
    const context = yield* Layer.build(Layer.fresh(app))
    const { address } = Context.get(context, HttpServer.HttpServer)
    return {
      url: `http://127.0.0.1:${"port" in address ? address.port : 0}`,
      model,
      otlp,
      sql: Context.get(context, SqlClient.SqlClient),
      lines
    }
  }).pipe(Effect.orDie)
