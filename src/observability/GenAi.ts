/**
 * Owns the attribute names of the OpenTelemetry semantic conventions for generative AI, version 1.41.0 (in
 * development: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/). Nothing else spells them.
 */
export const GenAi = {
  operationName: "gen_ai.operation.name",
  providerName: "gen_ai.provider.name",
  conversationId: "gen_ai.conversation.id",
  requestModel: "gen_ai.request.model",
  requestTemperature: "gen_ai.request.temperature",
  requestMaxTokens: "gen_ai.request.max_tokens",
  responseModel: "gen_ai.response.model",
  responseFinishReasons: "gen_ai.response.finish_reasons",
  /** Seconds. */
  responseTimeToFirstChunk: "gen_ai.response.time_to_first_chunk",
  usageInputTokens: "gen_ai.usage.input_tokens",
  usageOutputTokens: "gen_ai.usage.output_tokens",
  toolName: "gen_ai.tool.name",
  toolCallId: "gen_ai.tool.call.id",
  /** Only with `TRACE_CONTENT=true`. */
  inputMessages: "gen_ai.input.messages",
  /** Only with `TRACE_CONTENT=true`. */
  outputMessages: "gen_ai.output.messages",
  /** Only with `TRACE_CONTENT=true`. */
  toolCallArguments: "gen_ai.tool.call.arguments"
} as const
