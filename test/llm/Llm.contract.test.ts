import { layer } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { llmContract, llmContractUnscripted, Reply, ScriptedModel } from "voice-agent-api/testing"
import { LlmProvider } from "../../src/llm/Llm.ts"
import * as LlmOffline from "../../src/llm/offline/LlmOffline.ts"
import * as LlmOpenAi from "../../src/llm/openai/LlmOpenAi.ts"
import { settings } from "./OpenAiProvider.ts"

const openAi = Layer.effectContext(
  Effect.gen(function* () {
    const server = yield* ScriptedModel.serve(() => Reply.text("Hello."))
    const provider = yield* LlmOpenAi.make(settings({ baseUrl: server.baseUrl }))
    return Context.make(ScriptedModel, server).pipe(Context.add(LlmProvider, provider))
  })
)
const scripted = ScriptedModel.layer(() => Reply.text("Hello."))

layer(openAi)("an OpenAI-compatible server", llmContract)
layer(openAi)("an OpenAI-compatible server, unscripted", llmContractUnscripted)
layer(scripted)("the scripted model in process", llmContract)
layer(scripted)("the scripted model in process, unscripted", llmContractUnscripted)
layer(LlmOffline.layer)("the offline model", llmContractUnscripted)
