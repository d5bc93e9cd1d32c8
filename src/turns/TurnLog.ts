/**
 * Owns the events of one turn that runs in this process: numbers them, hands each to whoever listens, and can tell them
 * again from any point.
 *
 * Does not know any wire form or who listens.
 */
import type { EndedEvent, TurnEvent } from "./TurnEvent.ts"
import type { TurnFeed, TurnListener } from "./TurnFeed.ts"

interface Entry {
  readonly event: TurnEvent
  readonly at: number
}

/**
 * Pieces of text are most of a turn's events and are held as offsets into the reply, so that a long turn keeps little more
 * than its own text. Told again, each carries the time of the event before it that is no text.
 */
export class TurnLog implements TurnFeed {
  readonly turnId: string
  readonly sessionId: string
  readonly startedAt: number
  readonly #now: () => number
  readonly #listeners = new Set<TurnListener>()
  /** By sequence - 1: the length of the reply after a piece of text, or any other event. */
  readonly #entries: Array<number | Entry> = []
  #text = ""
  #ended = false
  #firstTextAt: number | undefined

  /** `now` answers milliseconds since the epoch. */
  constructor(turnId: string, sessionId: string, now: () => number) {
    this.turnId = turnId
    this.sessionId = sessionId
    this.#now = now
    this.startedAt = now()
  }

  /** The reply so far. */
  get text(): string {
    return this.#text
  }

  /** When the reply began, in milliseconds since the epoch. */
  get firstTextAt(): number | undefined {
    return this.#firstTextAt
  }

  get ended(): boolean {
    return this.#ended
  }

  append(event: Exclude<TurnEvent, EndedEvent>): void {
    if (!this.#ended) this.#add(event)
  }

  /** The last event. Nothing is taken after it. */
  end(event: EndedEvent): void {
    if (this.#ended) return
    this.#ended = true
    this.#add(event)
    for (const listener of this.#listeners) listener.onEnd()
    this.#listeners.clear()
  }

  subscribe(listener: TurnListener, after = 0): () => void {
    this.#replay(listener, after)
    if (this.#ended) {
      listener.onEnd()
      return () => {}
    }
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  #add(event: TurnEvent): void {
    const at = this.#now()
    if (event.type === "text") {
      this.#firstTextAt ??= at
      this.#text += event.text
      this.#entries.push(this.#text.length)
    } else {
      this.#entries.push({ event, at })
    }
    const sequence = this.#entries.length
    for (const listener of this.#listeners) listener.onEvent(event, sequence, at)
  }

  #replay(listener: TurnListener, after: number): void {
    let from = 0
    let at = this.startedAt
    for (const [i, entry] of this.#entries.entries()) {
      if (typeof entry === "number") {
        const text = this.#text.slice(from, entry)
        from = entry
        if (i >= after) listener.onEvent({ type: "text", text }, i + 1, at)
      } else {
        at = entry.at
        if (i >= after) listener.onEvent(entry.event, i + 1, at)
      }
    }
  }
}
