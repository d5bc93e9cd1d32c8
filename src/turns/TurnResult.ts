/**
 * Owns what came of a turn: how it ended, told from how its effect did.
 *
 * Does not run, store or send anything.
 */
import { Cause, Exit, Option, Schema } from "effect"
import type { Usage } from "../agent/AgentEvent.ts"
import type { DbUnavailable } from "../db/DbUnavailable.ts"
import type { LlmUnavailable } from "../llm/Llm.ts"
import type { EndStatus } from "./TurnsRepo.ts"

export type CancelReason =
  | "client_request"
  | "client_disconnected"
  | "new_message"
  | "session_deleted"
  | "shutdown"

export interface TurnResult {
  readonly status: EndStatus
  /** All that was said, complete or not. */
  readonly reply: string
  /** The assistant's message; `null` when nothing was said. */
  readonly messageId: string | null
  readonly tools: ReadonlyArray<string>
  readonly model: string
  readonly usage: Usage | null
  /** From the request to the end, waiting included. */
  readonly processingMillis: number
  readonly traceId: string
  /** Why it was stopped, when it was cancelled or interrupted. */
  readonly cancelReason: CancelReason | null
  /** A sentence for a person, and its code, when it failed. */
  readonly error: string | null
  readonly errorCode: string | null
}

/** The whole of a turn took longer than it may. */
export class TurnTimedOut extends Schema.TaggedError<TurnTimedOut>()("TurnTimedOut", {}) {}

/** Another process ended the turn, or deleted its session, while it waited. */
export class TurnTaken extends Schema.TaggedError<TurnTaken>()("TurnTaken", {
  isDeleted: Schema.Boolean
}) {}

export type Outcome = Pick<TurnResult, "status" | "cancelReason" | "error" | "errorCode">

const failed = (errorCode: string, error: string): Outcome => ({
  status: "failed",
  cancelReason: null,
  error,
  errorCode
})

export const unexpected = failed("INTERNAL_ERROR", "Something went wrong on our side.")

const stopped = (cancelReason: CancelReason): Outcome => ({
  status: cancelReason === "shutdown" ? "interrupted" : "cancelled",
  cancelReason,
  error: null,
  errorCode: null
})

/** How a turn ended, told from how its effect did. `cancelled` is why it was stopped, if it was. */
export const outcomeOf = (
  exit: Exit.Exit<void, LlmUnavailable | DbUnavailable | TurnTimedOut | TurnTaken>,
  cancelled: CancelReason | undefined
): Outcome => {
  if (Exit.isSuccess(exit)) return { status: "completed", cancelReason: null, error: null, errorCode: null }
  if (Cause.hasInterruptsOnly(exit.cause)) return stopped(cancelled ?? "shutdown")
  const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  switch (error?._tag) {
    case "LlmUnavailable":
      return error.reason === "timeout"
        ? failed("LLM_TIMEOUT", "The language model took too long to answer.")
        : failed("LLM_UNAVAILABLE", "The language model is not available at the moment.")
    case "DbUnavailable":
      return failed("SERVICE_UNAVAILABLE", "The database is not available at the moment.")
    case "TurnTimedOut":
      return failed("TURN_TIMEOUT", "The answer took too long and was stopped.")
    case "TurnTaken":
      return stopped(error.isDeleted ? "session_deleted" : "shutdown")
    default:
      return unexpected
  }
}

/** What is told when the end of a turn could not be stored: nothing is acknowledged that is not kept. */
export const asNotStored = (result: TurnResult): TurnResult => ({
  ...result,
  ...failed("SERVICE_UNAVAILABLE", "The reply could not be stored. Try again in a moment."),
  messageId: null
})
