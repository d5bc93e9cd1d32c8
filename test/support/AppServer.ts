/**
 * Owns app instances for tests that look behind the wire: over a database that is given (several on one, if need be),
 * with tools of the test's own, and with the services at hand.
 *
 * `TestServer` is for tests that need none of this.
 */
import { Context, Effect, Layer, References, type Scope } from "effect"
import { HttpServer } from "effect/http"
import { SqlClient } from "effect/sql"
import { type Script, ScriptedModel, type ScriptedServer, TurnSpans } from "voice-agent-api/testing"
import type { Db } from "../../src/db/Db.ts"
import { SpanProcessors } from "../../src/observability/Tracer.ts"
import * as Server from "../../src/Server.ts"
import type { Tools } from "../../src/tools/Tools.ts"
import { TurnPace, Turns } from "../../src/turns/Turns.ts"
import { scriptedConfig } from "./scriptedConfig.ts"
import * as TestDb from "./TestDb.ts"

export interface AppServer {
  /** `http://127.0.0.1:<port>`. */
  readonly url: string
  readonly model: ScriptedServer
  readonly turns: Turns["Service"]
  readonly sql: SqlClient.SqlClient
  /** Every span there has been. */
  readonly spans: TurnSpans
}

export interface AppServerOptions {
  /** Environment values. */
  readonly settings?: Readonly<Record<string, string>>
  /** In place of the built-in ones. */
  readonly tools?: Layer.Layer<Tools>
  /** How soon it notes what other processes do. */
  readonly pace?: (typeof TurnPace)["Service"]
}

/** Starts an instance that runs until the scope closes. */
export const make = (
  db: Context.Context<Db>,
  model: ScriptedServer,
  { pace, settings = {}, tools }: AppServerOptions = {}
): Effect.Effect<AppServer, never, Scope.Scope> => {
  const spans = new TurnSpans()
  const config = scriptedConfig(model, { LOG_LEVEL: "None", ...settings })
  const app = Server.layerApp.pipe(
    Layer.provide(Layer.succeedContext(db)),
    Layer.provide(tools === undefined ? Server.layerPorts : Layer.merge(Server.layerPorts, tools)),
    Layer.provide(config),
    Layer.provide(Layer.succeed(SpanProcessors, [spans.processor])),
    Layer.provide(Layer.succeed(References.MinimumLogLevel, "None")),
    Layer.provide(pace === undefined ? Layer.empty : Layer.succeed(TurnPace, pace))
  )
  return Effect.gen(function* () {
    // Fresh: two instances of one test are two servers.
    const context = yield* Layer.build(Layer.fresh(app))
    const { address } = Context.get(context, HttpServer.HttpServer)
    return {
      url: `http://127.0.0.1:${"port" in address ? address.port : 0}`,
      model,
      turns: Context.get(context, Turns),
      sql: Context.get(db, SqlClient.SqlClient),
      spans
    }
  }).pipe(Effect.orDie)
}

export class TestApp extends Context.Service<TestApp, AppServer>()("voice-agent/test/TestApp") {
  /** One instance, with a model and an empty database of its own. */
  static readonly layer = (script: Script = [], options: AppServerOptions = {}): Layer.Layer<TestApp> =>
    Layer.effect(
      TestApp,
      Effect.gen(function* () {
        const model = yield* ScriptedModel.serve(script)
        return yield* make(yield* Layer.build(TestDb.layer), model, options)
      })
    )
}
