/**
 * Owns what the agent does in a turn, told as it happens: few typed events, from which everything else about a running
 * turn follows. What has been said and done so far (`Transcript`) is their sum, and every wire form a projection.
 *
 * Does not number, keep, encode or send them.
 */

export interface RequestedCall {
  readonly id: string
  readonly name: string
  /** JSON, or whatever the model sent in its place. */
  readonly arguments: string
}

/** Tokens of one or more model calls. */
export interface Usage {
  readonly promptTokens: number
  readonly completionTokens: number
}

export interface StepUsage extends Usage {
  /** From 0: which model call of the turn. */
  readonly step: number
  readonly model: string
}

/** What the model and the client are told of a call that has ended. */
export interface CallResult {
  /** What goes to the model. */
  readonly content: string
  readonly success: boolean
  /** A sentence, when it failed. */
  readonly error: string | null
  readonly durationMillis: number
}

export type AgentEvent =
  /** The agent has begun. */
  | { readonly type: "started"; readonly user: string; readonly earlierTurns: number }
  /** A model is about to be asked. */
  | { readonly type: "step_started"; readonly step: number; readonly model: string }
  /** A model has begun to answer; which one may differ from the one asked. */
  | { readonly type: "answering"; readonly step: number; readonly model: string }
  /** The next piece of the reply. */
  | { readonly type: "text"; readonly text: string }
  | ({ readonly type: "usage" } & StepUsage)
  /** The model's answer is complete. `calls` are about to be run; none: the reply is complete. */
  | {
      readonly type: "step_finished"
      readonly step: number
      readonly calls: ReadonlyArray<RequestedCall>
    }
  /** `position`: which of the step's calls, from 0. */
  | {
      readonly type: "tool_started"
      readonly step: number
      readonly position: number
      readonly call: RequestedCall
    }
  | {
      readonly type: "tool_finished"
      readonly step: number
      readonly position: number
      readonly call: RequestedCall
      readonly result: CallResult
    }
  /** Nothing is left to do. */
  | { readonly type: "replied" }
