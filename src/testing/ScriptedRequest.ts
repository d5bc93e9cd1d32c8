/**
 * Owns the record of what a scripted model was asked, and what has become of each exchange.
 */
import type { IncomingHttpHeaders } from "node:http"

/** One entry of `messages`, as sent. */
export interface ScriptedMessage {
  readonly role: string
  readonly content?: unknown
  readonly tool_calls?: ReadonlyArray<{
    readonly id: string
    readonly type: string
    readonly function: { readonly name: string; readonly arguments: string }
  }>
  readonly tool_call_id?: string
}

/** The body of a chat-completions request. Fields not named here are there too. */
export interface ScriptedRequestBody {
  readonly model: string
  readonly messages: ReadonlyArray<ScriptedMessage>
  readonly stream?: boolean
  readonly stream_options?: { readonly include_usage?: boolean }
  readonly tools?: ReadonlyArray<{
    readonly type: string
    readonly function: { readonly name: string; readonly description?: string; readonly parameters?: unknown }
  }>
  readonly temperature?: number
  readonly max_tokens?: number
  readonly max_completion_tokens?: number
  readonly [key: string]: unknown
}

/** What a tool answered, as the model was given it. */
export interface ScriptedToolResult {
  readonly id: string
  /** Empty when no call of that id came before. */
  readonly name: string
  readonly content: string
}

const textOf = (content: unknown): string =>
  typeof content === "string"
    ? content
    : Array.isArray(content)
      ? content.map((part) => (typeof part?.text === "string" ? part.text : "")).join("")
      : ""

/** `aborted`: the client went away first. `cut`: the script destroyed the connection. */
export type ScriptedOutcome = "completed" | "cut" | "aborted"

/** One chat-completions request, and what has become of it so far. */
export interface ScriptedRequest {
  /** From 0, in order of arrival. */
  readonly index: number
  /** With the query. */
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: ScriptedRequestBody
  /** What the user said last. */
  readonly message: string
  /** What the tools answered since the user said that, in order. */
  readonly toolResults: ReadonlyArray<ScriptedToolResult>
  /** Milliseconds when the request had been read: of `performance.now()` over HTTP, of the clock in process. */
  readonly receivedAt: number
  /** Deltas written so far. */
  readonly tokensSent: number
  /** `undefined` while the exchange goes on. */
  readonly outcome: ScriptedOutcome | undefined
  /** Whether the client went away before the answer was complete. */
  readonly aborted: boolean
  /** Resolves when the exchange is over. */
  readonly ended: Promise<ScriptedOutcome>
}

/** A request as whoever answers it sees it: the public record and how to end it. */
export class Exchange implements ScriptedRequest {
  readonly index: number
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: ScriptedRequestBody
  readonly receivedAt: number
  readonly ended: Promise<ScriptedOutcome>
  tokensSent = 0
  outcome: ScriptedOutcome | undefined = undefined
  wasCut = false
  readonly #resolve: (outcome: ScriptedOutcome) => void

  constructor(
    index: number,
    path: string,
    headers: IncomingHttpHeaders,
    body: ScriptedRequestBody,
    receivedAt = performance.now()
  ) {
    this.index = index
    this.receivedAt = receivedAt
    this.path = path
    this.headers = headers
    this.body = body
    const { promise, resolve } = Promise.withResolvers<ScriptedOutcome>()
    this.ended = promise
    this.#resolve = resolve
  }

  get message(): string {
    return textOf(this.body.messages.findLast(({ role }) => role === "user")?.content)
  }

  get toolResults(): ReadonlyArray<ScriptedToolResult> {
    const { messages } = this.body
    const calls = messages.flatMap(({ tool_calls = [] }) => tool_calls)
    return messages
      .slice(messages.findLastIndex(({ role }) => role === "user") + 1)
      .filter(({ role }) => role === "tool")
      .map(({ content, tool_call_id: id = "" }) => ({
        id,
        name: calls.findLast((call) => call.id === id)?.function.name ?? "",
        content: textOf(content)
      }))
  }

  get aborted(): boolean {
    return this.outcome === "aborted"
  }

  end(outcome: ScriptedOutcome): void {
    if (this.outcome !== undefined) return
    this.outcome = outcome
    this.#resolve(outcome)
  }
}
