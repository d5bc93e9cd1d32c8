/**
 * A provider for Ollama's own protocol (`POST /api/chat`, one JSON document a line), in place of its OpenAI-compatible
 * one. One request, no retries: retries, time limits, breakers and fallbacks are the policy's over it, `Llm`.
 *
 * Format: https://github.com/ollama/ollama/blob/main/docs/api.md
 */
import { Effect, Layer, Schema, Stream } from "effect"
import { AiError, LanguageModel, type Prompt, type Response, Tool } from "effect/ai"
import { Ndjson } from "effect/encoding"
import { HttpClient, HttpClientRequest } from "effect/http"
import { LlmProvider, type ModelSettings } from "voice-agent-api"

export interface OllamaOptions {
  /** Such as `http://localhost:11434`. */
  readonly url: string
  readonly model: string
}

const Chunk = Schema.Struct({
  error: Schema.optionalKey(Schema.String),
  message: Schema.optionalKey(
    Schema.Struct({
      content: Schema.optionalKey(Schema.String),
      tool_calls: Schema.optionalKey(
        Schema.Array(
          Schema.Struct({ function: Schema.Struct({ name: Schema.String, arguments: Schema.Unknown }) })
        )
      )
    })
  ),
  done: Schema.optionalKey(Schema.Boolean),
  done_reason: Schema.optionalKey(Schema.String),
  prompt_eval_count: Schema.optionalKey(Schema.Int),
  eval_count: Schema.optionalKey(Schema.Int)
})
type Chunk = typeof Chunk.Type

const textOf = (message: Prompt.UserMessage | Prompt.AssistantMessage) =>
  message.content.map((part) => (part.type === "text" ? part.text : "")).join("")

const messagesOf = (prompt: Prompt.Prompt) =>
  prompt.content.flatMap((message): ReadonlyArray<object> => {
    switch (message.role) {
      case "system":
        return [{ role: "system", content: message.content }]
      case "user":
        return [{ role: "user", content: textOf(message) }]
      case "assistant": {
        const calls = message.content.flatMap((part) =>
          part.type === "tool-call" ? [{ function: { name: part.name, arguments: part.params } }] : []
        )
        return [
          { role: "assistant", content: textOf(message), ...(calls.length > 0 && { tool_calls: calls }) }
        ]
      }
      case "tool":
        return message.content.flatMap((part) =>
          part.type === "tool-result"
            ? [
                {
                  role: "tool",
                  tool_name: part.name,
                  content: typeof part.result === "string" ? part.result : JSON.stringify(part.result)
                }
              ]
            : []
        )
    }
  })

const bodyOf = ({ prompt, tools }: LanguageModel.ProviderOptions, settings: ModelSettings) => ({
  model: settings.model,
  messages: messagesOf(prompt),
  tools: tools.map((tool) => ({
    type: "function",
    function: {
      name: tool.name,
      description: Tool.getDescription(tool),
      parameters: Tool.getJsonSchema(tool)
    }
  })),
  options: { temperature: settings.temperature, num_predict: settings.maxTokens }
})

const failure = (reason: AiError.AiErrorReason) =>
  AiError.make({ module: "Ollama", method: "streamText", reason })

const lostConnection = (url: string, cause: unknown) =>
  failure(new AiError.NetworkError({ reason: "TransportError", method: "POST", url, cause }))

const finishOf = ({ done_reason, eval_count, prompt_eval_count }: Chunk): Response.FinishPartEncoded => ({
  type: "finish",
  reason: done_reason === "length" ? "length" : "stop",
  usage: {
    inputTokens: {
      uncached: undefined,
      total: prompt_eval_count,
      cacheRead: undefined,
      cacheWrite: undefined
    },
    outputTokens: { total: eval_count, text: undefined, reasoning: undefined }
  }
})

const partsOf = (chunk: Chunk): ReadonlyArray<Response.StreamPartEncoded> => [
  ...(chunk.message?.content ? [{ type: "text-delta", id: "0", delta: chunk.message.content } as const] : []),
  ...(chunk.message?.tool_calls ?? []).map(
    ({ function: { arguments: params, name } }) =>
      // Ollama gives calls no ids.
      ({ type: "tool-call", id: crypto.randomUUID(), name, params, providerExecuted: false }) as const
  ),
  ...(chunk.done === true ? [finishOf(chunk)] : [])
]

const make = Effect.fnUntraced(function* (options: OllamaOptions) {
  const client = yield* HttpClient.HttpClient
  const url = new URL("/api/chat", options.url).href

  const open = Effect.fnUntraced(function* (request: LanguageModel.ProviderOptions, settings: ModelSettings) {
    const response = yield* HttpClientRequest.post(url).pipe(
      HttpClientRequest.bodyJsonUnsafe(bodyOf(request, settings)),
      client.execute,
      Effect.mapError((cause) => lostConnection(url, cause))
    )
    if (response.status >= 400)
      return yield* failure(AiError.reasonFromHttpStatus({ status: response.status }))
    let isDone = false
    const chunks = response.stream.pipe(
      Stream.pipeThroughChannel(Ndjson.decodeSchema(Chunk)()),
      Stream.mapError((cause) =>
        cause._tag === "HttpClientError"
          ? lostConnection(url, cause)
          : failure(new AiError.InvalidResponseError({ description: cause.message }))
      ),
      Stream.mapEffect((chunk) => {
        isDone ||= chunk.done === true
        return chunk.error === undefined
          ? Effect.succeed(partsOf(chunk))
          : Effect.fail(failure(new AiError.InternalProviderError({ description: chunk.error })))
      }),
      Stream.flattenIterable
    )
    // A body that just ends was cut off.
    const end = Stream.suspend(() =>
      isDone ? Stream.empty : Stream.fail(lostConnection(url, "It ended early"))
    )
    return Stream.concat(chunks, end)
  })

  return LlmProvider.of({
    name: "ollama",
    models: { default: options.model, fast: options.model, creative: options.model },
    isOffline: false,
    languageModel: (settings) =>
      LanguageModel.make({
        streamText: (request) => Stream.unwrap(open(request, settings)),
        // The server only streams.
        generateText: () => Effect.die(new Error("Ollama.ts only streams"))
      })
  })
})

export const layer = (options: OllamaOptions): Layer.Layer<LlmProvider, never, HttpClient.HttpClient> =>
  Layer.effect(LlmProvider, make(options))
