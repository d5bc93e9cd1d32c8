/**
 * Owns one model call of a turn: asks, tells what comes as events, counts it and puts it on its span.
 *
 * Does not build the prompt, run tools, or decide what comes next (`Agent` does).
 */
import { Cause, Clock, Effect, Exit, Stream } from "effect"
import type { Prompt, Response } from "effect/ai"
import type { AnyToolkit, Llm, LlmPart, LlmUnavailable, ModelOverride, ModelVariant } from "../llm/Llm.ts"
import { GenAi } from "../observability/GenAi.ts"
import type { Metrics } from "../observability/Metrics.ts"
import { SpanName } from "../observability/SpanName.ts"
import { noStack } from "../observability/spans.ts"
import type { AgentEvent, RequestedCall } from "./AgentEvent.ts"

export interface ModelQuestion {
  readonly sessionId: string
  readonly step: number
  readonly prompt: Prompt.Prompt
  readonly toolkit: AnyToolkit | undefined
  readonly variant: ModelVariant
  readonly override: ModelOverride
  /** The model that answered last, or will be asked first. */
  readonly model: string
  readonly emit: (event: AgentEvent) => void
}

/** The one place that tells operators what a model's server said. */
const warnOf = ({ cause, message }: LlmUnavailable) =>
  Effect.logWarning(`The model failed: ${message}`, cause instanceof Error ? cause.message : undefined)

// biome-ignore lint/suspicious/noExplicitAny: the tools are known at run time only
const requestedCall = (part: Response.ToolCallPart<string, any>): RequestedCall => ({
  id: part.id,
  name: part.name,
  arguments: typeof part.params === "string" ? part.params : JSON.stringify(part.params ?? {})
})

/** What has come of one call so far. */
class Answer {
  readonly #question: ModelQuestion
  readonly calls: Array<RequestedCall> = []
  /** The model that was asked: the first of the plan, or the fallback that took over. Prices go by it. */
  asked: string | undefined
  /** The model that says it answers: a server may give the dated name of the one asked. */
  model: string
  text = ""
  firstChunkAt: number | undefined
  finish: Response.FinishPart | undefined

  constructor(question: ModelQuestion) {
    this.#question = question
    this.model = question.model
  }

  take(parts: ReadonlyArray<LlmPart>, now: number): void {
    const { emit, step } = this.#question
    let text = ""
    let finish: Response.FinishPart | undefined
    for (const part of parts) {
      if (part.type === "text-delta") text += part.delta
      else if (part.type === "tool-call") this.calls.push(requestedCall(part))
      else if (part.type === "response-metadata" && part.modelId !== undefined) {
        this.asked ??= part.modelId
        this.model = part.modelId
      } else if (part.type === "finish") finish = part
    }
    if (this.firstChunkAt === undefined) {
      this.firstChunkAt = now
      emit({ type: "answering", step, model: this.model })
    }
    if (text !== "") {
      this.text += text
      emit({ type: "text", text })
    }
    if (finish === undefined) return
    this.finish = finish
    const promptTokens = finish.usage.inputTokens.total
    const completionTokens = finish.usage.outputTokens.total
    if (promptTokens === undefined || completionTokens === undefined) return
    emit({ type: "usage", step, model: this.model, promptTokens, completionTokens })
  }
}

/** How to ask a model. Answers the tool calls it asks for. */
export const makeModelCall = (
  llm: Llm["Service"],
  metrics: Metrics["Service"],
  options: { readonly traceContent: boolean }
) => {
  const asked = ({ override, prompt, sessionId, variant }: ModelQuestion) => ({
    [GenAi.operationName]: "chat",
    [GenAi.providerName]: llm.provider,
    [GenAi.requestModel]: llm.modelFor(variant, override),
    [GenAi.conversationId]: sessionId,
    ...(override.temperature === undefined ? {} : { [GenAi.requestTemperature]: override.temperature }),
    ...(override.maxTokens === undefined ? {} : { [GenAi.requestMaxTokens]: override.maxTokens }),
    ...(options.traceContent ? { [GenAi.inputMessages]: JSON.stringify(prompt.content) } : {})
  })

  const answered = ({ finish, firstChunkAt, model, text }: Answer, startedAt: number) => {
    const input = finish?.usage.inputTokens.total
    const output = finish?.usage.outputTokens.total
    return {
      ...(firstChunkAt === undefined
        ? {}
        : {
            [GenAi.responseModel]: model,
            [GenAi.responseTimeToFirstChunk]: (firstChunkAt - startedAt) / 1000
          }),
      ...(finish === undefined ? {} : { [GenAi.responseFinishReasons]: [finish.reason.replace("-", "_")] }),
      ...(input === undefined ? {} : { [GenAi.usageInputTokens]: input }),
      ...(output === undefined ? {} : { [GenAi.usageOutputTokens]: output }),
      ...(options.traceContent ? { [GenAi.outputMessages]: text } : {})
    }
  }

  const count = (question: ModelQuestion, answer: Answer, exit: Exit.Exit<void, LlmUnavailable>) => {
    const { finish } = answer
    return metrics.llmCall({
      model: answer.asked ?? llm.modelFor(question.variant, question.override),
      outcome: Exit.isSuccess(exit) ? "ok" : Cause.hasInterruptsOnly(exit.cause) ? "cancelled" : "failed",
      promptTokens: finish?.usage.inputTokens.total ?? 0,
      completionTokens: finish?.usage.outputTokens.total ?? 0
    })
  }

  return Effect.fnUntraced(
    function* (question: ModelQuestion) {
      const { override, prompt, toolkit, variant } = question
      const clock = yield* Clock.Clock
      const startedAt = clock.currentTimeMillisUnsafe()
      const answer = new Answer(question)
      yield* Effect.annotateCurrentSpan(asked(question))
      yield* Stream.runForEachArray(llm.stream({ prompt, toolkit, variant, override }), (parts) => {
        answer.take(parts, clock.currentTimeMillisUnsafe())
        return Effect.void
      }).pipe(
        Effect.onExit((exit) => {
          count(question, answer, exit)
          return Effect.annotateCurrentSpan(answered(answer, startedAt))
        }),
        Effect.tapError(warnOf)
      )
      return answer.calls
    },
    Effect.withSpan(SpanName.callLlm, { kind: "client" }, noStack)
  )
}
