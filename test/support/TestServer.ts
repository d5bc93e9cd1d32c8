/**
 * Owns a whole server for tests: real HTTP on a port of its own, a scripted model behind it, a database of its own.
 */
import { Context, Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { type Script, ScriptedModel, type ScriptedServer } from "voice-agent-api/testing"
import * as Server from "../../src/Server.ts"
import { scriptedConfig } from "./scriptedConfig.ts"
import * as TestDb from "./TestDb.ts"

export class TestServer extends Context.Service<
  TestServer,
  {
    /** `http://127.0.0.1:<port>`. */
    readonly url: string
    readonly model: ScriptedServer
  }
>()("voice-agent/test/TestServer") {}

/** A server whose model answers by `script`. `settings` are environment values. */
export const layer = (script: Script = [], settings: Readonly<Record<string, string>> = {}) =>
  Layer.unwrap(
    Effect.map(ScriptedModel.serve(script), (model) => {
      const config = scriptedConfig(model, { LOG_LEVEL: "None", ...settings })
      return Layer.effect(
        TestServer,
        Effect.map(HttpServer.HttpServer, ({ address }) => ({
          url: `http://127.0.0.1:${"port" in address ? address.port : 0}`,
          model
        }))
      ).pipe(
        Layer.provide(Server.layerApp),
        Layer.provide(Layer.mergeAll(TestDb.layer, Server.layerPorts)),
        Layer.provide(config)
      )
    })
  )
