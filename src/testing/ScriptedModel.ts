/**
 * Owns the ways to have a scripted model: in this process as a layer, or as an HTTP server for black-box tests. Both
 * take the same script and keep the same records.
 *
 * @example
 * const model = yield* ScriptedModel.serve([Reply.status(503), Reply.text(["Hel", "lo"])])
 * // point LLM_BASE_URL at model.baseUrl …
 * assert.strictEqual(model.requests.length, 2)
 */
import { Context, Effect, Layer, type Scope } from "effect"
import { LanguageModel } from "effect/ai"
import { LlmProvider } from "../llm/Llm.ts"
import { type Script, type Scripted, ScriptRun } from "./Script.ts"
import { makeScriptedProvider } from "./ScriptedProvider.ts"
import { type ScriptedServer, type ScriptedServerOptions, startScriptedServer } from "./ScriptedServer.ts"

export interface ScriptedModelOptions {
  /** Requests to remember; the oldest are forgotten. Default: all. */
  readonly keepRequests?: number
  /** The names of the models, by variant. Default: `scripted`. */
  readonly models?: Partial<LlmProvider["Service"]["models"]>
}

/** What the model was asked, and how to tell it more to say. */
export class ScriptedModel extends Context.Service<ScriptedModel, Scripted>()(
  "voice-agent/testing/ScriptedModel"
) {
  /** In this process. `provider` goes where a model's provider goes; the rest is for the test. */
  static readonly make = (
    script: Script = [],
    { keepRequests, models }: ScriptedModelOptions = {}
  ): { readonly model: Scripted; readonly provider: LlmProvider["Service"] } => {
    const model = new ScriptRun(script, keepRequests)
    return { model, provider: makeScriptedProvider(model, models) }
  }

  /** In this process, as a provider of models for `Llm`, and as one `LanguageModel` for code that asks a model itself. */
  static readonly layer = (
    script: Script = [],
    options: ScriptedModelOptions = {}
  ): Layer.Layer<ScriptedModel | LlmProvider | LanguageModel.LanguageModel> =>
    Layer.effectContext(
      Effect.gen(function* () {
        const { model, provider } = ScriptedModel.make(script, options)
        const languageModel = yield* provider.languageModel({ model: provider.models.default })
        return Context.make(ScriptedModel, model).pipe(
          Context.add(LlmProvider, provider),
          Context.add(LanguageModel.LanguageModel, languageModel)
        )
      })
    )

  /** Over HTTP, until the scope closes. */
  static readonly serve = (
    script: Script = [],
    options?: ScriptedServerOptions
  ): Effect.Effect<ScriptedServer, never, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.promise(() => startScriptedServer(script, options)),
      (server) => Effect.promise(() => server.close())
    )
}
