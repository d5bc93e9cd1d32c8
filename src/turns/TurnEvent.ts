/**
 * Owns the events of a turn: what the agent tells, with how the turn began and ended around it.
 *
 * Does not know any wire: each has its own projection of them (`http/` has the one of v1).
 */
import type { AgentEvent } from "../agent/AgentEvent.ts"
import type { TurnResult } from "./TurnResult.ts"

export type TurnEvent =
  /** The user's message is kept. `model` is the one that will be asked first. */
  { readonly type: "accepted"; readonly model: string } | AgentEvent | EndedEvent

/** The last event of every turn. */
export interface EndedEvent {
  readonly type: "ended"
  readonly result: TurnResult
}
