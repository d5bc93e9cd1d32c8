/**
 * Owns what every stream to a client has in common: what comes together is sent together, a client too far behind is cut
 * off, and streams are counted.
 *
 * Does not know how a frame is written: SSE and WebSocket each say that.
 */
import type { Metrics } from "../observability/Metrics.ts"

/** A client that is this far behind with reading, in bytes, is cut off. */
const maxBehind = 4 * 1024 * 1024

export interface ClientWire {
  /** Sends frames that came together. */
  readonly write: (frames: ReadonlyArray<string>) => void
  /** Bytes that the client has yet to take. */
  readonly behind: () => number
  readonly cutOff: () => void
}

export class ClientFeed {
  readonly #wire: ClientWire
  #pending: Array<string> = []

  constructor(wire: ClientWire) {
    this.#wire = wire
  }

  /** Sends the frame with those that come in the same step of the loop. */
  send(frame: string): void {
    if (this.#pending.push(frame) === 1) queueMicrotask(() => this.flush())
  }

  flush(): void {
    const frames = this.take()
    if (frames.length === 0) return
    this.#wire.write(frames)
    if (this.#wire.behind() > maxBehind) this.#wire.cutOff()
  }

  /** What waits, for someone who sends it in another way. */
  take(): ReadonlyArray<string> {
    const frames = this.#pending
    this.#pending = []
    return frames
  }
}

/** Counts a stream as open. Answers how to count it as closed. */
export const countStream = (metrics: Metrics["Service"], transport: "sse" | "websocket"): (() => void) => {
  metrics.streamOpened(transport)
  return () => metrics.streamClosed(transport)
}
