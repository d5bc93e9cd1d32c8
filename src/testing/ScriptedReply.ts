/**
 * Owns what a scripted model may answer, and how an answer reads as OpenAI's chat-completions wire format.
 *
 * Does not listen on a socket or decide when bytes leave (`ScriptedServer.ts` and `ScriptedProvider.ts` do).
 */

/** Token counts as OpenAI spells them. */
export interface ScriptedUsage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens?: number
  readonly prompt_tokens_details?: { readonly cached_tokens: number }
  readonly completion_tokens_details?: { readonly reasoning_tokens: number }
}

export interface ScriptedToolCall {
  readonly name: string
  /** An object is sent as JSON; a string is sent as it is, valid or not. */
  readonly arguments: unknown
  /** Default: `call_<request>_<position>`. `null`: this call never carries an id. */
  readonly id?: string | null
}

/** How tool calls are cut into deltas. The defaults are OpenAI's own habits. */
export interface ToolCallStyle {
  /** In how many deltas the arguments of one call arrive, or the cuts themselves. Default 2. */
  readonly pieces?: number | ((json: string) => ReadonlyArray<string>)
  /** Whether each delta carries the `index` of its call. Default true. */
  readonly index?: boolean
  /** Which deltas of a call carry its id. Default `first`. */
  readonly ids?: "first" | "every" | "none"
  /** Whether the first delta carries the name only, with empty arguments. Default true; Ollama sends both at once. */
  readonly nameApart?: boolean
  /** Whether the deltas of several calls are dealt in turn instead of call after call. Needs `index`. Default false. */
  readonly interleaved?: boolean
}

/** What goes wrong after `after` tokens (text, reasoning and tool-call deltas all count; 0: before the first). */
export interface StreamFault {
  readonly after: number
  /**
   * `hang`: nothing more comes, the connection stays open. `cut`: the socket is destroyed.
   * `end`: the body ends properly, but without `finish_reason` and `[DONE]`. `malformed`: a chunk that is no JSON, then the rest.
   * `error`: a chunk `{"error": …}`, then the body ends.
   */
  readonly kind: "hang" | "cut" | "end" | "malformed" | "error"
  /** The message of an `error` chunk. */
  readonly message?: string
}

/** Settings every streamed reply takes. */
export interface StreamOptions {
  /** Sent as `reasoning_content` deltas, before anything else. */
  readonly reasoning?: Iterable<string>
  /**
   * Time between two tokens. Absent: all tokens are written in one turn of the event loop (one `write` each), and mostly
   * arrive together. 0: one turn of the event loop each.
   */
  readonly delayMillis?: number
  /** Wait before the response head. */
  readonly headDelayMillis?: number
  /** Tokens that share one `write`. Default 1. */
  readonly tokensPerWrite?: number
  /** Counts to report, or `null` for a server that never does. Sent when the request asks for them, as OpenAI does. */
  readonly usage?: ScriptedUsage | null
  /** Default `stop`, or `tool_calls` after tool calls. `null`: none is sent. */
  readonly finishReason?: string | null
  /** Whether `[DONE]` closes the stream. Default true. */
  readonly done?: boolean
  /** The model that claims to have answered. Default: the one asked for. */
  readonly model?: string
  readonly fault?: StreamFault
}

export interface StreamReply extends StreamOptions {
  readonly kind: "stream"
  /** Text tokens, one delta each. A generator is run while sending, so a token can say when it left. */
  readonly text?: Iterable<string>
  readonly toolCalls?: ReadonlyArray<ScriptedToolCall>
  readonly toolCallStyle?: ToolCallStyle
}

/** An HTTP status with a body, as JSON unless it is a string. */
export interface StatusReply {
  readonly kind: "status"
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
}

/** Takes the request and never answers. */
export interface HangReply {
  readonly kind: "hang"
}

/** Takes the request, then destroys the socket without an answer. */
export interface CutReply {
  readonly kind: "cut"
}

/** A response body byte for byte, each piece in a `write` and a turn of the event loop of its own. */
export interface RawReply {
  readonly kind: "raw"
  readonly pieces: ReadonlyArray<string | Uint8Array>
  /** What follows the last piece. */
  readonly ending: "end" | "cut" | "hang"
  readonly contentType: string
}

export type ScriptedReply = StreamReply | StatusReply | HangReply | CutReply | RawReply

const tokensOf = (text: string | Iterable<string>): Iterable<string> =>
  typeof text === "string" ? (text.match(/\s*\S+\s*$|\s*\S+/g) ?? []) : text

/** The ways a scripted model may answer. */
export const Reply = {
  /** Streams text. A plain string is cut into words; a list is sent token by token. */
  text: (text: string | Iterable<string>, options: StreamOptions = {}): StreamReply => ({
    ...options,
    kind: "stream",
    text: tokensOf(text)
  }),
  /** Asks for tools, optionally after some text. */
  toolCalls: (
    calls: ReadonlyArray<ScriptedToolCall>,
    options: StreamOptions & ToolCallStyle & { readonly text?: string | Iterable<string> } = {}
  ): StreamReply => ({
    ...options,
    kind: "stream",
    text: tokensOf(options.text ?? []),
    toolCalls: calls,
    toolCallStyle: options
  }),
  /** An HTTP error. `retryAfter` is sent as it is: seconds, or an HTTP date. */
  status: (
    status: number,
    options: {
      readonly retryAfter?: string | number
      readonly headers?: Readonly<Record<string, string>>
      readonly body?: unknown
    } = {}
  ): StatusReply => ({
    kind: "status",
    status,
    headers: {
      ...options.headers,
      ...(options.retryAfter === undefined ? {} : { "retry-after": String(options.retryAfter) })
    },
    body: options.body ?? { error: { message: `scripted status ${status}`, type: "scripted", code: null } }
  }),
  /** Never answers; not even the response head. To hang later, give a stream the fault `hang`. */
  hang: { kind: "hang" } satisfies HangReply,
  /** Destroys the connection before the response head. To cut later, give a stream the fault `cut`. */
  cut: { kind: "cut" } satisfies CutReply,
  raw: (
    pieces: ReadonlyArray<string | Uint8Array>,
    options: { readonly ending?: RawReply["ending"]; readonly contentType?: string } = {}
  ): RawReply => ({
    kind: "raw",
    pieces,
    ending: options.ending ?? "end",
    contentType: options.contentType ?? "text/event-stream"
  })
}

/** The texts of one streamed reply, in the order they are sent. */
export interface EncodedStream {
  /** Comes with the response head: the chunk that names the role. */
  readonly head: string
  readonly tokens: Iterable<string>
  /** `finish_reason`, usage and `[DONE]`, given how many tokens went out. */
  readonly tail: (tokensSent: number) => string
}

interface ToolCallDelta {
  readonly index?: number
  readonly id?: string
  readonly type?: "function"
  readonly function: { readonly name?: string; readonly arguments: string }
}

const cut = (json: string, pieces: number): ReadonlyArray<string> => {
  const size = Math.max(1, Math.ceil(json.length / Math.max(1, pieces)))
  const result: Array<string> = []
  for (let at = 0; at < json.length; at += size) result.push(json.slice(at, at + size))
  return result.length === 0 ? [""] : result
}

const argumentsText = (call: ScriptedToolCall): string =>
  typeof call.arguments === "string" ? call.arguments : JSON.stringify(call.arguments)

const callId = (call: ScriptedToolCall, request: number, position: number): string | null =>
  call.id === undefined ? `call_${request}_${position}` : call.id

const toolCallDeltas = (reply: StreamReply, request: number): Array<ToolCallDelta> => {
  const style = reply.toolCallStyle ?? {}
  const pieces = style.pieces ?? 2
  const perCall = (reply.toolCalls ?? []).map((call, position) => {
    const json = argumentsText(call)
    const parts = typeof pieces === "number" ? cut(json, pieces) : pieces(json)
    const id = callId(call, request, position)
    const texts = (style.nameApart ?? true) ? ["", ...parts] : parts
    return texts.map((text, n): ToolCallDelta => {
      const showsId = id !== null && (style.ids === "every" || (style.ids !== "none" && n === 0))
      return {
        ...((style.index ?? true) ? { index: position } : {}),
        ...(showsId ? { id } : {}),
        ...(n === 0 ? { type: "function" } : {}),
        function: { ...(n === 0 ? { name: call.name } : {}), arguments: text }
      }
    })
  })
  if (style.interleaved !== true) return perCall.flat()
  const longest = Math.max(0, ...perCall.map((deltas) => deltas.length))
  return Array.from({ length: longest }, (_, n) => perCall.flatMap((deltas) => deltas.slice(n, n + 1))).flat()
}

const finishReasonOf = (reply: StreamReply): string | null =>
  reply.finishReason === undefined
    ? reply.toolCalls === undefined || reply.toolCalls.length === 0
      ? "stop"
      : "tool_calls"
    : reply.finishReason

const usageOf = (reply: StreamReply, tokens: number): ScriptedUsage => {
  const usage = reply.usage ?? { prompt_tokens: 10, completion_tokens: tokens }
  return { total_tokens: usage.prompt_tokens + usage.completion_tokens, ...usage }
}

/** The events of a streamed reply. `request` numbers the ids; `includeUsage` is what the request asked for. */
export const encodeStream = (
  reply: StreamReply,
  options: { readonly request: number; readonly model: string; readonly includeUsage: boolean }
): EncodedStream => {
  const model = reply.model ?? options.model
  const base = `data: {"id":"chatcmpl-${options.request}","object":"chat.completion.chunk","created":1700000000,"model":${JSON.stringify(model)},`
  const open = `${base}"choices":[{"index":0,"delta":`
  const close = `,"finish_reason":null}]}\n\n`
  const finishReason = finishReasonOf(reply)

  function* tokens(): Iterable<string> {
    for (const token of reply.reasoning ?? [])
      yield `${open}{"reasoning_content":${JSON.stringify(token)}}${close}`
    for (const token of reply.text ?? []) yield `${open}{"content":${JSON.stringify(token)}}${close}`
    if (reply.toolCalls === undefined) return
    for (const delta of toolCallDeltas(reply, options.request))
      yield `${open}{"tool_calls":[${JSON.stringify(delta)}]}${close}`
  }

  return {
    head: `${open}{"role":"assistant","content":""}${close}`,
    tokens: tokens(),
    tail: (sent) =>
      (finishReason === null ? "" : `${open}{},"finish_reason":${JSON.stringify(finishReason)}}]}\n\n`) +
      (options.includeUsage && reply.usage !== null
        ? `${base}"choices":[],"usage":${JSON.stringify(usageOf(reply, sent))}}\n\n`
        : "") +
      (reply.done === false ? "" : "data: [DONE]\n\n")
  }
}

/** The same reply as one JSON body, for a request that does not stream. */
export const encodeWhole = (
  reply: StreamReply,
  options: { readonly request: number; readonly model: string }
): string => {
  const text = [...(reply.text ?? [])]
  const reasoning = [...(reply.reasoning ?? [])]
  const toolCalls = (reply.toolCalls ?? []).map((call, position) => ({
    id: callId(call, options.request, position) ?? "",
    type: "function",
    function: { name: call.name, arguments: argumentsText(call) }
  }))
  return JSON.stringify({
    id: `chatcmpl-${options.request}`,
    object: "chat.completion",
    created: 1700000000,
    model: reply.model ?? options.model,
    choices: [
      {
        index: 0,
        message: {
          role: "assistant",
          content: text.length === 0 && toolCalls.length > 0 ? null : text.join(""),
          ...(reasoning.length === 0 ? {} : { reasoning_content: reasoning.join("") }),
          ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls })
        },
        finish_reason: finishReasonOf(reply)
      }
    ],
    ...(reply.usage === null
      ? {}
      : { usage: usageOf(reply, text.length + reasoning.length + toolCalls.length) })
  })
}
