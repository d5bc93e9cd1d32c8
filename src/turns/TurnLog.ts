/**
 * Owns the events of one turn: puts each in its envelope, numbers and encodes it once, hands it to whoever listens,
 * and can tell them again from any point.
 *
 * Does not know SSE, WebSocket or who listens.
 */
import type { FinalEvent, TurnEvent } from "../api/TurnEvent.ts"

export interface TurnListener {
  /** `json` is the encoded event, `sequence` its number in the turn, from 1. */
  readonly onEvent: (sequence: number, json: string) => void
  /** Called after the last event. */
  readonly onEnd: () => void
}

/**
 * Deltas are most of a turn's events and are held as offsets into the reply, so that a long turn keeps little more
 * than its own text. Told again, deltas that followed one another come as one, numbered as the last of them.
 */
export class TurnLog {
  readonly turnId: string
  readonly sessionId: string
  readonly startedAt: number
  readonly #now: () => number
  readonly #listeners = new Set<TurnListener>()
  /** By sequence - 1: the length of the reply after a delta, or the JSON of any other event. */
  readonly #entries: Array<number | string> = []
  readonly #streamTail: string
  readonly #workflowTail: string
  readonly #idPrefix: string
  #text = ""
  #ended = false
  #firstDeltaAt: number | undefined

  /** `now` answers milliseconds since the epoch. */
  constructor(turnId: string, sessionId: string, now: () => number) {
    this.turnId = turnId
    this.sessionId = sessionId
    this.#now = now
    this.startedAt = now()
    this.#streamTail = `,"session_id":${JSON.stringify(sessionId)}`
    this.#workflowTail = `${this.#streamTail},"data":`
    this.#idPrefix = turnId.replaceAll("-", "").slice(-8)
  }

  /** What the deltas so far add up to. */
  get text(): string {
    return this.#text
  }

  /** When the reply began, in milliseconds since the epoch. */
  get firstDeltaAt(): number | undefined {
    return this.#firstDeltaAt
  }

  get ended(): boolean {
    return this.#ended
  }

  append(event: Exclude<TurnEvent, FinalEvent>): void {
    if (this.#ended) return
    const sequence = this.#entries.length + 1
    const json = this.#encode(sequence, event)
    if (event.type === "delta") {
      this.#firstDeltaAt ??= this.#now()
      this.#text += event.content
      this.#entries.push(this.#text.length)
    } else {
      this.#entries.push(json)
    }
    for (const listener of this.#listeners) listener.onEvent(sequence, json)
  }

  /** The last event. Nothing is taken after it. */
  end(event: FinalEvent): void {
    if (this.#ended) return
    const sequence = this.#entries.length + 1
    const json = this.#encode(sequence, event)
    this.#entries.push(json)
    this.#ended = true
    for (const listener of this.#listeners) {
      listener.onEvent(sequence, json)
      listener.onEnd()
    }
    this.#listeners.clear()
  }

  /** Tells `listener` all that came after `after`, then what comes. Answers how to stop. */
  subscribe(listener: TurnListener, after = 0): () => void {
    this.#replay(listener, after)
    if (this.#ended) {
      listener.onEnd()
      return () => {}
    }
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  #replay(listener: TurnListener, after: number): void {
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
        listener.onEvent(i + 1, this.#encode(i + 1, { type: "delta", content }))
      }
    }
  }

  #encode(sequence: number, event: TurnEvent): string {
    if ("level" in event) {
      const millis = this.#now() - this.startedAt
      return `{"level":"${event.level}","type":"${event.type}","timestamp":${millis}${this.#workflowTail}${JSON.stringify(event.data)}}`
    }
    const { type, ...rest } = event
    const id = `evt_${this.#idPrefix}${sequence.toString(16).padStart(8, "0")}`
    const head = `{"version":"1.0","id":"${id}","timestamp":"${new Date(this.#now()).toISOString()}","type":"${type}"${this.#streamTail}`
    if (event.type === "delta") return `${head},"content":${JSON.stringify(event.content)}}`
    return `${head},${JSON.stringify(rest).slice(1)}`
  }
}
