/**
 * Owns the meaning of a chat-completions answer, streamed or whole: OpenAI's JSON in, `effect/ai` response parts out.
 *
 * Does not read sockets or frame events. Text and reasoning that arrive in one network chunk become one part each.
 */

import type { Response } from "effect/ai"
import * as AiError from "effect/ai/AiError"
import { SseReader } from "../../net/SseReader.ts"
import { failureOfErrorBody, openAiError } from "./LlmOpenAiError.ts"
import { parseArguments, type ToolCallDelta, ToolCalls } from "./LlmOpenAiToolCalls.ts"

/** What is read of an answer. Servers differ, so nothing is taken for granted. */
interface Completion {
  readonly id?: unknown
  readonly model?: unknown
  readonly choices?: ReadonlyArray<{
    readonly delta?: Delta | null
    readonly message?: Delta | null
    readonly finish_reason?: unknown
  }> | null
  readonly usage?: Usage | null
  readonly error?: unknown
}

interface Delta {
  readonly content?: unknown
  /** The name DeepSeek, vLLM and llama.cpp use. */
  readonly reasoning_content?: unknown
  /** The name Ollama and OpenRouter use. */
  readonly reasoning?: unknown
  readonly refusal?: unknown
  readonly tool_calls?: ReadonlyArray<ToolCallDelta> | null
}

interface Usage {
  readonly prompt_tokens?: unknown
  readonly completion_tokens?: unknown
  readonly prompt_tokens_details?: { readonly cached_tokens?: unknown } | null
  readonly completion_tokens_details?: { readonly reasoning_tokens?: unknown } | null
}

const count = (value: unknown): number | undefined =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined

const minus = (total: number | undefined, part: number | undefined): number | undefined =>
  total === undefined || part === undefined ? total : Math.max(0, total - part)

const usageOf = (usage: Usage | undefined): Response.FinishPartEncoded["usage"] => {
  const input = count(usage?.prompt_tokens)
  const output = count(usage?.completion_tokens)
  const cached = count(usage?.prompt_tokens_details?.cached_tokens)
  const reasoning = count(usage?.completion_tokens_details?.reasoning_tokens)
  return {
    inputTokens: { uncached: minus(input, cached), total: input, cacheRead: cached, cacheWrite: undefined },
    outputTokens: { total: output, text: minus(output, reasoning), reasoning }
  }
}

const finishReasonOf = (reason: string | undefined, hasToolCalls: boolean): Response.FinishReason => {
  switch (reason) {
    case "length":
    case "max_tokens":
      return "length"
    case "content_filter":
      return "content-filter"
    case "error":
      return "error"
    case "tool_calls":
    case "function_call":
      return "tool-calls"
    case undefined:
      return hasToolCalls ? "tool-calls" : "unknown"
    case "stop":
    case "eos":
    case "end_turn":
      // Several servers say `stop` after tool calls.
      return hasToolCalls ? "tool-calls" : "stop"
    default:
      return hasToolCalls ? "tool-calls" : "other"
  }
}

/** The state of one streamed answer. Feed it bytes; take the parts that have come of them. */
export class CompletionParts {
  readonly #method: string
  readonly #requestedModel: string
  readonly #sse: SseReader
  readonly #toolCalls = new ToolCalls()
  #parts: Array<Response.StreamPartEncoded> = []
  #failure: AiError.AiError | undefined = undefined
  #isStarted = false
  #isDone = false
  #areCallsOut = false
  /** The block that is open, and how many there have been, for their ids. */
  #open: "text" | "reasoning" | undefined = undefined
  #blocks = 0
  /** What was said since the last part went out, in the open block. */
  #said = ""
  #finishReason: string | undefined = undefined
  #usage: Usage | undefined = undefined

  constructor(options: { readonly method: string; readonly model: string }) {
    this.#method = options.method
    this.#requestedModel = options.model
    this.#sse = new SseReader((data, event) => this.#onData(data, event))
  }

  /** Set once: nothing read afterwards counts. */
  get failure(): AiError.AiError | undefined {
    return this.#failure
  }

  /** Whether the answer is complete. Bytes may still follow; they mean nothing. */
  get isDone(): boolean {
    return this.#isDone
  }

  feed(chunk: Uint8Array): void {
    if (this.#isDone || this.#failure !== undefined) return
    try {
      this.#sse.feed(chunk)
    } catch (cause) {
      this.#fail(new AiError.InvalidResponseError({ description: String(cause) }))
    }
  }

  /** The body has ended. Without a finish reason and without `[DONE]` it was cut off. */
  end(): void {
    if (this.#isDone || this.#failure !== undefined) return
    this.#sse.end()
    if (this.#isDone || this.#failure !== undefined) return
    if (this.#finishReason === undefined) {
      this.#fail(
        new AiError.NetworkError({
          reason: "TransportError",
          method: "POST",
          url: "chat/completions",
          description: "The stream ended before the reply was complete"
        })
      )
    } else this.#finish()
  }

  /** The parts since the last call, in order; empty when there are none. */
  take(): Array<Response.StreamPartEncoded> {
    this.#flush()
    if (this.#parts.length === 0) return this.#parts
    const parts = this.#parts
    this.#parts = []
    return parts
  }

  /** Takes an answer that did not stream. */
  whole(body: unknown): void {
    const completion: Completion = typeof body === "object" && body !== null ? body : {}
    this.#completion(completion, "message")
    if (this.#failure !== undefined) return
    if (completion.choices?.[0]?.message) this.#finish()
    else this.#fail(new AiError.InvalidResponseError({ description: "The answer holds no message" }))
  }

  #fail(reason: AiError.AiErrorReason): void {
    this.#failure = openAiError(this.#method, reason)
  }

  #onData(data: string, event: string): void {
    if (this.#isDone || this.#failure !== undefined) return
    if (data === "[DONE]") {
      this.#finish()
      return
    }
    let body: Completion
    try {
      body = JSON.parse(data)
    } catch (cause) {
      this.#fail(new AiError.InvalidResponseError({ description: `A chunk is no JSON: ${cause}` }))
      return
    }
    if (typeof body !== "object" || body === null) {
      this.#fail(new AiError.InvalidResponseError({ description: "A chunk is no JSON object" }))
    } else if (event === "error" && body.error === undefined) {
      this.#fail(failureOfErrorBody(body))
    } else this.#completion(body, "delta")
  }

  #completion(body: Completion, kind: "delta" | "message"): void {
    if (body.error !== undefined && body.error !== null) {
      this.#fail(failureOfErrorBody(body.error))
      return
    }
    if (!this.#isStarted) {
      this.#isStarted = true
      this.#parts.push({
        type: "response-metadata",
        id: typeof body.id === "string" && body.id !== "" ? body.id : undefined,
        modelId: typeof body.model === "string" && body.model !== "" ? body.model : this.#requestedModel
      })
    }
    if (body.usage !== undefined && body.usage !== null) this.#usage = body.usage
    // One choice is asked for. The chunk that brings the usage has none.
    const choice = body.choices?.[0]
    if (choice === undefined) return
    const delta = choice[kind]
    if (delta !== undefined && delta !== null) this.#delta(delta)
    if (typeof choice.finish_reason === "string") {
      this.#finishReason = choice.finish_reason
      this.#announceCalls()
    }
  }

  #delta(delta: Delta): void {
    const reasoning = delta.reasoning_content ?? delta.reasoning
    if (typeof reasoning === "string" && reasoning !== "") this.#say("reasoning", reasoning)
    if (typeof delta.content === "string" && delta.content !== "") this.#say("text", delta.content)
    if (typeof delta.refusal === "string" && delta.refusal !== "") this.#say("text", delta.refusal)
    if (!Array.isArray(delta.tool_calls)) return
    for (const piece of delta.tool_calls) {
      if (typeof piece === "object" && piece !== null) {
        this.#close()
        this.#toolCalls.add(piece)
      }
    }
  }

  #say(kind: "text" | "reasoning", text: string): void {
    if (this.#open !== kind) {
      this.#close()
      this.#open = kind
      this.#blocks++
      this.#parts.push({ type: `${kind}-start`, id: this.#blockId })
    }
    this.#said += text
  }

  get #blockId(): string {
    return String(this.#blocks)
  }

  #flushSaid(): void {
    if (this.#said === "" || this.#open === undefined) return
    this.#parts.push({ type: `${this.#open}-delta`, id: this.#blockId, delta: this.#said })
    this.#said = ""
  }

  #close(): void {
    if (this.#open === undefined) return
    this.#flushSaid()
    this.#parts.push({ type: `${this.#open}-end`, id: this.#blockId })
    this.#open = undefined
  }

  /** Announces what has come since the last time: once per network chunk, however many deltas it brought. */
  #flush(): void {
    this.#flushSaid()
    if (this.#finishReason !== undefined) return
    for (const call of this.#toolCalls.all) {
      if (!call.isAnnounced) {
        // Without a name there is nothing to announce yet.
        if (call.name === "") continue
        call.isAnnounced = true
        this.#parts.push({ type: "tool-params-start", id: call.id, name: call.name })
      }
      if (call.unannounced === "") continue
      this.#parts.push({ type: "tool-params-delta", id: call.id, delta: call.unannounced })
      call.unannounced = ""
    }
  }

  /** The calls are complete once the finish reason is known; they need not wait for the usage that follows. */
  #announceCalls(): void {
    if (this.#areCallsOut) return
    this.#areCallsOut = true
    this.#close()
    for (const call of this.#toolCalls.all) {
      if (call.isAnnounced) this.#parts.push({ type: "tool-params-end", id: call.id })
      this.#parts.push({
        type: "tool-call",
        id: call.id,
        name: call.name,
        params: parseArguments(call.arguments)
      })
    }
  }

  #finish(): void {
    if (this.#isDone) return
    this.#isDone = true
    this.#announceCalls()
    this.#parts.push({
      type: "finish",
      reason: finishReasonOf(this.#finishReason, this.#toolCalls.all.length > 0),
      usage: usageOf(this.#usage)
    })
  }
}

const blocks = { "text-delta": "text", "reasoning-delta": "reasoning" } as const

/** The parts of an answer that did not stream, given the parts it would have streamed as. */
export const wholeParts = (parts: ReadonlyArray<Response.StreamPartEncoded>): Array<Response.PartEncoded> =>
  parts.flatMap((part): Array<Response.PartEncoded> => {
    switch (part.type) {
      case "text-delta":
      case "reasoning-delta":
        return [{ type: blocks[part.type], text: part.delta }]
      case "response-metadata":
      case "tool-call":
      case "finish":
        return [part]
      default:
        return []
    }
  })
