/**
 * Owns the port through which a turn's events are read: from any point on, live or after the end.
 *
 * Does not say where they are kept: `TurnLog` keeps those of a turn that runs in this process.
 */
import type { TurnEvent } from "./TurnEvent.ts"

export interface TurnListener {
  /** `sequence` numbers the turn's events from 1; `at` is when it happened, in milliseconds since the epoch. */
  readonly onEvent: (event: TurnEvent, sequence: number, at: number) => void
  /** Called after the last event. */
  readonly onEnd: () => void
}

export interface TurnFeed {
  readonly turnId: string
  readonly sessionId: string
  /** In milliseconds since the epoch. */
  readonly startedAt: number
  readonly ended: boolean
  /** Tells `listener` all that came after event `after`, then what comes. Answers how to stop. */
  readonly subscribe: (listener: TurnListener, after?: number) => () => void
}
