/**
 * Owns the first version of the wire's events (docs/API.md): makes them of a turn's own events, puts each in its
 * envelope, numbers and encodes it once however many listen, and can tell them again from any point.
 *
 * Does not know SSE, WebSocket or who listens.
 */
import type { AgentEvent, Usage } from "../agent/AgentEvent.ts"
import type { Node, StreamEvent, Usage as WireUsage, WorkflowEvent } from "../api/ChatEvent.ts"
import type { TurnEvent } from "../turns/TurnEvent.ts"
import type { TurnFeed } from "../turns/TurnFeed.ts"
import type { TurnResult } from "../turns/TurnResult.ts"
import { cut } from "./cut.ts"

type WithoutEnvelope<E, K extends PropertyKey> = E extends unknown ? Omit<E, K> : never

type StreamBody = WithoutEnvelope<StreamEvent, "version" | "id" | "timestamp" | "session_id">
type WorkflowBody = WithoutEnvelope<WorkflowEvent, "timestamp" | "session_id">

export interface V1Listener {
  /** `json` is the encoded event, `sequence` its number in the turn, from 1. */
  readonly onEvent: (sequence: number, json: string) => void
  /** Called after the last event. */
  readonly onEnd: () => void
}

const displayNames: Readonly<Record<Node, string>> = {
  process_input: "Read the message",
  call_llm: "Ask the model",
  handle_tools: "Run the tools",
  format_response: "Finish the reply"
}

/** Arguments as a client may draw them: every string cut at 100 characters. */
const shownArguments = (text: string): unknown => {
  try {
    return JSON.parse(text, (_, value) => (typeof value === "string" ? cut(value, 100) : value))
  } catch {
    return cut(text, 100)
  }
}

export const wireUsage = ({ completionTokens, promptTokens }: Usage): WireUsage => ({
  prompt_tokens: promptTokens,
  completion_tokens: completionTokens,
  total_tokens: promptTokens + completionTokens
})

const lastEvent = (result: TurnResult): StreamBody =>
  result.error !== null
    ? { type: "error", error: result.error, error_code: result.errorCode ?? "INTERNAL_ERROR" }
    : result.status === "completed"
      ? {
          type: "end",
          content: result.reply,
          metadata: {
            message_id: result.messageId,
            tool_calls: result.tools.length,
            model: result.model,
            usage: result.usage === null ? null : wireUsage(result.usage),
            processing_time_ms: result.processingMillis,
            trace_id: result.traceId
          }
        }
      : { type: "cancelled", reason: result.cancelReason ?? "shutdown" }

/**
 * Deltas are most of a turn's events and are held as offsets into the reply. Told again, deltas that followed one another
 * come as one, numbered as the last of them.
 */
export class V1Events {
  readonly #feed: TurnFeed
  readonly #listeners = new Set<V1Listener>()
  /** By sequence - 1: the length of the reply after a delta, or the JSON of any other event. */
  readonly #entries: Array<number | string> = []
  readonly #streamTail: string
  readonly #workflowTail: string
  readonly #idPrefix: string
  #text = ""
  #ended = false
  #at: number

  // What has to be remembered from one event to the next.
  #model = ""
  #isStreaming = false
  #runStartedAt = 0
  #nodeStartedAt = 0
  #callsOpen = 0

  /** Each turn's events are projected once: `v1Events` keeps the projection with the turn. */
  constructor(feed: TurnFeed) {
    this.#feed = feed
    this.#at = feed.startedAt
    this.#streamTail = `,"session_id":${JSON.stringify(feed.sessionId)}`
    this.#workflowTail = `${this.#streamTail},"data":`
    this.#idPrefix = feed.turnId.replaceAll("-", "").slice(-8)
    feed.subscribe({
      onEvent: (event, _, at) => {
        this.#at = at
        this.#project(event)
      },
      onEnd: () => this.#end()
    })
  }

  get ended(): boolean {
    return this.#ended
  }

  /** Tells `listener` all that came after event `after`, then what comes. Answers how to stop. */
  subscribe(listener: V1Listener, after = 0): () => void {
    this.#replay(listener, after)
    if (this.#ended) {
      listener.onEnd()
      return () => {}
    }
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  #project(event: TurnEvent): void {
    switch (event.type) {
      case "accepted":
        this.#stream({ type: "start", model: event.model, turn_id: this.#feed.turnId })
        return
      case "started":
        this.#started(event)
        return
      case "step_started":
        this.#model = event.model
        this.#isStreaming = false
        this.#nodeStarted("call_llm")
        this.#streaming("started")
        return
      case "answering":
        this.#model = event.model
        return
      case "text":
        this.#delta(event.text)
        return
      case "usage":
        this.#workflow({ level: "node", type: "token_usage", data: wireUsage(event) })
        return
      case "step_finished":
        this.#stepFinished(event)
        return
      case "tool_started":
        this.#workflow({ level: "node", type: "tool_executing", data: { tool: event.call.name } })
        return
      case "tool_finished":
        this.#toolFinished(event)
        return
      case "replied":
        this.#replied()
        return
      case "ended":
        this.#stream(lastEvent(event.result))
        return
    }
  }

  #started({ earlierTurns, user }: Extract<AgentEvent, { type: "started" }>): void {
    this.#runStartedAt = this.#at
    this.#workflow({ level: "graph", type: "workflow_started", data: { user_input: cut(user, 100) } })
    this.#nodeStarted("process_input")
    this.#workflow({
      level: "node",
      type: "thinking_phase",
      data: {
        phase: "analyzing",
        node: "process_input",
        details: `earlier turns in this session: ${earlierTurns}`
      }
    })
    this.#nodeFinished("process_input")
    this.#route("process_input", "call_llm", "message accepted")
  }

  #delta(content: string): void {
    if (!this.#isStreaming) {
      this.#isStreaming = true
      this.#streaming("streaming")
    }
    this.#text += content
    this.#emit(this.#text.length, this.#encodeDelta(this.#entries.length + 1, content))
  }

  #stepFinished({ calls }: Extract<AgentEvent, { type: "step_finished" }>): void {
    this.#streaming("finished")
    this.#nodeFinished("call_llm")
    this.#callsOpen = calls.length
    if (calls.length === 0) return
    this.#route("call_llm", "handle_tools", `tools asked for: ${calls.length}`)
    this.#nodeStarted("handle_tools")
    this.#stream({
      type: "tool_calls",
      tool_calls: calls.map((call) => ({
        id: call.id,
        type: "function",
        function: { name: call.name, arguments: call.arguments }
      }))
    })
    for (const call of calls) {
      this.#workflow({
        level: "node",
        type: "tool_call_pending",
        data: { tool: call.name, args: shownArguments(call.arguments) }
      })
    }
  }

  #toolFinished({ call, result }: Extract<AgentEvent, { type: "tool_finished" }>): void {
    this.#workflow({
      level: "node",
      type: "tool_result",
      data: {
        tool: call.name,
        success: result.success,
        summary: cut(result.error ?? result.content, 200),
        duration_ms: Math.round(result.durationMillis)
      }
    })
    this.#callsOpen--
    if (this.#callsOpen > 0) return
    this.#nodeFinished("handle_tools")
    this.#route("handle_tools", "call_llm", "results for the model")
  }

  #replied(): void {
    this.#route("call_llm", "format_response", "reply complete")
    this.#nodeStarted("format_response")
    this.#nodeFinished("format_response")
    this.#workflow({
      level: "graph",
      type: "workflow_complete",
      data: { total_duration_ms: this.#at - this.#runStartedAt }
    })
  }

  #streaming(phase: string): void {
    this.#workflow({ level: "node", type: "llm_streaming", data: { phase, details: this.#model } })
  }

  #nodeStarted(node: Node): void {
    this.#nodeStartedAt = this.#at
    this.#workflow({
      level: "graph",
      type: "node_started",
      data: { node, display_name: displayNames[node] }
    })
  }

  #nodeFinished(node: Node): void {
    this.#workflow({
      level: "graph",
      type: "node_finished",
      data: { node, display_name: displayNames[node], duration_ms: this.#at - this.#nodeStartedAt }
    })
  }

  #route(from: Node, to: Node, reason: string): void {
    this.#workflow({ level: "graph", type: "route_decision", data: { from, to, reason } })
  }

  #workflow({ data, level, type }: WorkflowBody): void {
    const json = `{"level":"${level}","type":"${type}","timestamp":${this.#at - this.#feed.startedAt}${this.#workflowTail}${JSON.stringify(data)}}`
    this.#emit(json, json)
  }

  #stream({ type, ...rest }: StreamBody): void {
    const json = `${this.#head(this.#entries.length + 1, type)},${JSON.stringify(rest).slice(1)}`
    this.#emit(json, json)
  }

  #encodeDelta(sequence: number, content: string): string {
    return `${this.#head(sequence, "delta")},"content":${JSON.stringify(content)}}`
  }

  #head(sequence: number, type: string): string {
    const id = `evt_${this.#idPrefix}${sequence.toString(16).padStart(8, "0")}`
    return `{"version":"1.0","id":"${id}","timestamp":"${new Date(this.#at).toISOString()}","type":"${type}"${this.#streamTail}`
  }

  #emit(entry: number | string, json: string): void {
    const sequence = this.#entries.push(entry)
    for (const listener of this.#listeners) listener.onEvent(sequence, json)
  }

  #end(): void {
    this.#ended = true
    for (const listener of this.#listeners) listener.onEnd()
    this.#listeners.clear()
  }

  #replay(listener: V1Listener, after: number): void {
    let from = 0
    for (let i = Math.min(after, this.#entries.length) - 1; i >= 0; i--) {
      const entry = this.#entries[i]
      if (typeof entry === "number") {
        from = entry
        break
      }
    }
    for (let i = after; i < this.#entries.length; i++) {
      const entry = this.#entries[i]
      if (typeof entry === "string") {
        listener.onEvent(i + 1, entry)
      } else if (entry !== undefined && typeof this.#entries[i + 1] !== "number") {
        const content = this.#text.slice(from, entry)
        from = entry
        listener.onEvent(i + 1, this.#encodeDelta(i + 1, content))
      }
    }
  }
}

const projections = new WeakMap<TurnFeed, V1Events>()

/** The v1 events of a turn. */
export const v1Events = (feed: TurnFeed): V1Events => {
  const known = projections.get(feed)
  if (known !== undefined) return known
  const made = new V1Events(feed)
  projections.set(feed, made)
  return made
}
