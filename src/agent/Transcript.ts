/**
 * Owns what a turn has said and done so far: the sum of its events. Whatever ends the turn, all that was said and done up
 * to then is here.
 */
import type { AgentEvent, CallResult, RequestedCall, StepUsage, Usage } from "./AgentEvent.ts"
import type { RecordedCall, TurnRecord } from "./Prompt.ts"

interface OpenCall extends RequestedCall {
  readonly step: number
  readonly textOffset: number
  result: Pick<CallResult, "content" | "success" | "durationMillis"> | undefined
}

const unfinished = {
  content: '{"error":"The call was interrupted before it finished."}',
  success: false,
  durationMillis: 0
}

export class Transcript {
  readonly user: string
  readonly #usage: Array<StepUsage> = []
  readonly #calls: Array<OpenCall> = []
  /** Where the calls of the last step begin. */
  #stepAt = 0
  #reply = ""
  #model: string

  /** `model` is the one that will be asked first. */
  constructor(user: string, model: string) {
    this.user = user
    this.#model = model
  }

  add(event: AgentEvent): void {
    switch (event.type) {
      case "text":
        this.#reply += event.text
        return
      case "answering":
        this.#model = event.model
        return
      case "usage": {
        const { type: _, ...usage } = event
        this.#usage.push(usage)
        return
      }
      case "step_finished":
        this.#stepAt = this.#calls.length
        for (const call of event.calls) {
          this.#calls.push({ ...call, step: event.step, textOffset: this.#reply.length, result: undefined })
        }
        return
      case "tool_finished": {
        const open = this.#calls[this.#stepAt + event.position]
        if (open !== undefined) open.result = event.result
      }
    }
  }

  /** All that was said, complete or not. */
  get reply(): string {
    return this.#reply
  }

  /** The model that answered last. */
  get model(): string {
    return this.#model
  }

  get usage(): ReadonlyArray<StepUsage> {
    return this.#usage
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
    return { user: this.user, reply: this.#reply, calls: this.calls }
  }

  /** Over all steps; `undefined` when the model told of none. */
  get totalUsage(): Usage | undefined {
    if (this.#usage.length === 0) return undefined
    return {
      promptTokens: this.#usage.reduce((sum, step) => sum + step.promptTokens, 0),
      completionTokens: this.#usage.reduce((sum, step) => sum + step.completionTokens, 0)
    }
  }
}
