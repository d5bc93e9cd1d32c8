/**
 * Owns what a running turn has done so far. It is written as things happen, so that whatever ends the turn, all that
 * was said and done up to then can be kept.
 */

import type { Usage } from "../api/TurnEvent.ts"
import type { RecordedCall, TurnRecord } from "./Prompt.ts"

export interface RequestedCall {
  readonly id: string
  readonly name: string
  /** JSON, or whatever the model sent in its place. */
  readonly arguments: string
}

export interface StepUsage {
  readonly step: number
  readonly model: string
  readonly promptTokens: number
  readonly completionTokens: number
}

interface OpenCall extends RequestedCall {
  readonly step: number
  readonly textOffset: number
  result: { readonly content: string; readonly success: boolean; readonly durationMillis: number } | undefined
}

const unfinished = {
  content: '{"error":"The call was interrupted before it finished."}',
  success: false,
  durationMillis: 0
}

export class Transcript {
  readonly user: string
  reply = ""
  /** The model that answered last. */
  model: string
  readonly usage: Array<StepUsage> = []
  readonly #calls: Array<OpenCall> = []

  constructor(user: string, model: string) {
    this.user = user
    this.model = model
  }

  /** Records the calls of one step. Answers how to record the result of each, in the order given. */
  request(
    step: number,
    calls: ReadonlyArray<RequestedCall>
  ): ReadonlyArray<(result: NonNullable<OpenCall["result"]>) => void> {
    return calls.map((call) => {
      const open: OpenCall = { ...call, step, textOffset: this.reply.length, result: undefined }
      this.#calls.push(open)
      return (result) => {
        open.result = result
      }
    })
  }

  get toolNames(): ReadonlyArray<string> {
    return this.#calls.map((call) => call.name)
  }

  /** Every call with a result: one that has none yet was interrupted, and its result says so. */
  get calls(): ReadonlyArray<RecordedCall> {
    return this.#calls.map(({ result, ...call }) => {
      const { content, success, durationMillis } = result ?? unfinished
      return { ...call, result: content, success, durationMillis }
    })
  }

  get record(): TurnRecord {
    return { user: this.user, reply: this.reply, calls: this.calls }
  }

  /** Over all steps; `undefined` when the model told of none. */
  get totalUsage(): Usage | undefined {
    if (this.usage.length === 0) return undefined
    const prompt = this.usage.reduce((sum, step) => sum + step.promptTokens, 0)
    const completion = this.usage.reduce((sum, step) => sum + step.completionTokens, 0)
    return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
  }
}
