import { Duration, Effect, Schema, Stream } from "effect"
import { type LanguageModel, type Prompt, Tool, Toolkit } from "effect/ai"
import { type Script, ScriptedModel } from "voice-agent-api/testing"
import type { LlmSettings } from "../../src/Config.ts"
import type { ModelSettings } from "../../src/llm/Llm.ts"
import * as LlmPolicy from "../../src/llm/LlmPolicy.ts"
import * as LlmOpenAi from "../../src/llm/openai/LlmOpenAi.ts"

export const settings = (given: Partial<LlmSettings>): LlmSettings => ({
  baseUrl: undefined,
  apiKey: undefined,
  model: undefined,
  modelFast: undefined,
  modelCreative: undefined,
  fallbackModels: [],
  historyTokens: 8000,
  connectTimeout: Duration.seconds(10),
  firstTokenTimeout: Duration.seconds(30),
  tokenTimeout: Duration.seconds(30),
  totalTimeout: Duration.seconds(120),
  retries: LlmPolicy.defaultRetries,
  breaker: LlmPolicy.defaultBreaker,
  ...given
})

export const start = Effect.fnUntraced(function* (script: Script, given: Partial<LlmSettings> = {}) {
  const server = yield* ScriptedModel.serve(script)
  const provider = yield* LlmOpenAi.make(settings({ baseUrl: server.baseUrl, ...given }))
  const model = (of: Partial<ModelSettings> = {}) => provider.languageModel({ model: "test-model", ...of })
  return { server, provider, model }
})

const weather = Tool.make("get_weather", {
  description: "Tells the weather.",
  parameters: Schema.Struct({ location: Schema.String.annotate({ description: "A city" }) }),
  success: Schema.String
})
const toolkit = Toolkit.make(weather)
export const withHandlers = toolkit.pipe(
  Effect.provide(toolkit.toLayer({ get_weather: () => Effect.succeed("sunny") }))
)

export const announced = { disableToolCallResolution: true, toolCallValidation: "deferred" } as const

export const stream = (model: LanguageModel.LanguageModel, prompt: Prompt.RawInput = "hi") =>
  model.streamText({ prompt, ...announced })

export const collect = (model: LanguageModel.LanguageModel, prompt?: Prompt.RawInput) =>
  Stream.runCollect(stream(model, prompt))

export const textOf = (parts: ReadonlyArray<{ readonly type: string; readonly delta?: string }>) =>
  parts.map((part) => (part.type === "text-delta" ? (part.delta ?? "") : "")).join("")
