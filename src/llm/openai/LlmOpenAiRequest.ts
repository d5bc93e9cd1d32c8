/**
 * Owns the translation of a prompt, its tools and the settings of a call into the body of a chat-completions request.
 *
 * Does not send it. Reasoning of earlier turns is left out, as the API has no place for it.
 */
import { Effect } from "effect"
import type { LanguageModel } from "effect/ai"
import * as AiError from "effect/ai/AiError"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import type {
  ChatCompletionAssistantMessageParam,
  ChatCompletionContentPart,
  ChatCompletionCreateParams,
  ChatCompletionFunctionTool,
  ChatCompletionMessageParam,
  ChatCompletionToolMessageParam,
  ChatCompletionUserMessageParam
} from "openai/resources/chat/completions"
import type { ModelSettings } from "../Llm.ts"

/** What a server or a model has turned out not to take. */
export interface Quirks {
  readonly noStreamOptions: boolean
  readonly noTemperature: boolean
  /** Whether it wants `max_completion_tokens` in place of `max_tokens`. */
  readonly maxCompletionTokens: boolean
}

/**
 * OpenAI's reasoning models: they refuse `temperature` and `max_tokens`. Also behind a gateway's vendor prefix, such as
 * `openai/gpt-5-mini`.
 */
export const isReasoningModel = (model: string): boolean =>
  /(?:^|\/)(?:gpt-5|o[134])(?![0-9a-z])/i.test(model)

const textOf = (parts: ReadonlyArray<Prompt.Part>): string => {
  let text = ""
  for (const part of parts) if (part.type === "text") text += part.text
  return text
}

const imageUrl = (part: Prompt.FilePart): string => {
  if (part.data instanceof URL) return part.data.href
  const base64 = typeof part.data === "string" ? part.data : Buffer.from(part.data).toString("base64")
  return base64.startsWith("data:") || base64.startsWith("http")
    ? base64
    : `data:${part.mediaType};base64,${base64}`
}

const userMessage = (message: Prompt.UserMessage): ChatCompletionUserMessageParam => {
  if (message.content.every((part) => part.type === "text")) {
    return { role: "user", content: textOf(message.content) }
  }
  return {
    role: "user",
    content: message.content.map((part): ChatCompletionContentPart => {
      if (part.type === "text") return { type: "text", text: part.text }
      if (part.mediaType.startsWith("image/")) {
        return { type: "image_url", image_url: { url: imageUrl(part) } }
      }
      return { type: "text", text: Prompt.toolModelOutputToText([part]) }
    })
  }
}

/**
 * The arguments of an earlier call. What was no JSON then is wrapped: chat templates of several servers parse the
 * arguments and fail on anything but an object.
 */
const argumentsText = (params: unknown): string =>
  JSON.stringify(typeof params === "object" && params !== null ? params : { unparsed: params ?? null })

const resultMessage = (part: Prompt.ToolResultPart): ChatCompletionToolMessageParam => ({
  role: "tool",
  tool_call_id: part.id,
  content:
    part.modelOutput !== undefined
      ? Prompt.toolModelOutputToText(part.modelOutput)
      : typeof part.result === "string"
        ? part.result
        : (JSON.stringify(part.result) ?? "null")
})

const assistantMessages = (message: Prompt.AssistantMessage): ReadonlyArray<ChatCompletionMessageParam> => {
  const text = textOf(message.content)
  const toolCalls = message.content.flatMap((part) =>
    part.type === "tool-call"
      ? [
          {
            id: part.id,
            type: "function" as const,
            function: { name: part.name, arguments: argumentsText(part.params) }
          }
        ]
      : []
  )
  const results = message.content.flatMap((part) =>
    part.type === "tool-result" ? [resultMessage(part)] : []
  )
  const assistant: ChatCompletionAssistantMessageParam = {
    role: "assistant",
    content: text === "" && toolCalls.length > 0 ? null : text,
    ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls })
  }
  return [assistant, ...results]
}

/** The messages of a prompt, in OpenAI's terms. */
const toMessages = (prompt: Prompt.Prompt): Array<ChatCompletionMessageParam> =>
  prompt.content.flatMap((message): ReadonlyArray<ChatCompletionMessageParam> => {
    switch (message.role) {
      case "system":
        return [{ role: "system", content: message.content }]
      case "user":
        return [userMessage(message)]
      case "assistant":
        return assistantMessages(message)
      case "tool":
        return message.content.flatMap((part) => (part.type === "tool-result" ? [resultMessage(part)] : []))
    }
  })

/** Making a JSON schema takes longer than the rest of a request, and tools do not change. */
const encodedTools = new WeakMap<Tool.Any, ChatCompletionFunctionTool>()

const toTool = (tool: Tool.Any): ChatCompletionFunctionTool => {
  let encoded = encodedTools.get(tool)
  if (encoded === undefined) {
    const description = Tool.getDescription(tool)
    const strict = Tool.getStrictMode(tool)
    encoded = {
      type: "function",
      function: {
        name: tool.name,
        ...(description === undefined ? {} : { description }),
        parameters: { ...Tool.getJsonSchema(tool) },
        ...(strict === undefined ? {} : { strict })
      }
    }
    encodedTools.set(tool, encoded)
  }
  return encoded
}

/** `auto` is what servers do without being told; some refuse to be told. */
const toToolChoice = (
  choice: LanguageModel.ToolChoice<string>
): Pick<ChatCompletionCreateParams, "tool_choice"> => {
  if (choice === "auto") return {}
  if (typeof choice === "string") return { tool_choice: choice }
  if ("tool" in choice) return { tool_choice: { type: "function", function: { name: choice.tool } } }
  // The tools that are not among `oneOf` have been left out already.
  return choice.mode === "required" ? { tool_choice: "required" } : {}
}

const toResponseFormat = (
  format: LanguageModel.ProviderOptions["responseFormat"]
): Pick<ChatCompletionCreateParams, "response_format"> =>
  format.type === "text"
    ? {}
    : {
        response_format: {
          type: "json_schema",
          json_schema: {
            name: format.objectName,
            strict: true,
            schema: Tool.getJsonSchemaFromSchema(format.schema, { transformer: toCodecOpenAI })
          }
        }
      }

/** The body of a request, without `stream`. Fails for a schema that OpenAI's structured output cannot express. */
export const toBody = (
  options: LanguageModel.ProviderOptions,
  settings: ModelSettings
): Effect.Effect<Omit<ChatCompletionCreateParams, "stream">, AiError.AiErrorReason> =>
  Effect.try({
    try: () => ({
      model: settings.model,
      messages: toMessages(options.prompt),
      ...(options.tools.length === 0
        ? {}
        : { tools: options.tools.map(toTool), ...toToolChoice(options.toolChoice) }),
      ...toResponseFormat(options.responseFormat)
    }),
    catch: (cause) => new AiError.UnsupportedSchemaError({ description: String(cause) })
  })

/** The settings of a call as far as the model takes them. */
export const toLimits = (
  settings: ModelSettings,
  quirks: Quirks
): Pick<ChatCompletionCreateParams, "temperature" | "max_tokens" | "max_completion_tokens"> => ({
  ...(settings.temperature === undefined || quirks.noTemperature
    ? {}
    : { temperature: settings.temperature }),
  ...(settings.maxTokens === undefined
    ? {}
    : quirks.maxCompletionTokens
      ? { max_completion_tokens: settings.maxTokens }
      : { max_tokens: settings.maxTokens })
})
