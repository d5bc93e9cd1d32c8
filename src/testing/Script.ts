/**
 * Owns what a script is, and one run of it: which reply is next, and what was asked so far.
 *
 * Does not send replies (`ScriptedServer.ts` does over HTTP, `ScriptedProvider.ts` in process).
 */
import type { ScriptedReply } from "./ScriptedReply.ts"
import { Exchange, type ScriptedRequest, type ScriptedRequestBody } from "./ScriptedRequest.ts"

/** Decides each answer. `index` counts requests from 0. */
export type ReplyFunction = (
  body: ScriptedRequestBody,
  index: number,
  request: ScriptedRequest
) => ScriptedReply | Promise<ScriptedReply>

/** Replies in order, or a function. A list that has run out answers 400 and says so. */
export type Script = ReadonlyArray<ScriptedReply> | ReplyFunction

/** What a test has in hand of a scripted model. */
export interface Scripted {
  /** In order of arrival, within `keepRequests`. */
  readonly requests: ReadonlyArray<ScriptedRequest>
  /** Appends replies to the list; they are used before the function of the script, if there is one. */
  readonly push: (...replies: ReadonlyArray<ScriptedReply>) => void
  /** The request number `index` (from 0), at once or as soon as it arrives. */
  readonly received: (index: number) => Promise<ScriptedRequest>
}

const refusal = (type: string, message: string): ScriptedReply => ({
  kind: "status",
  status: 400,
  headers: {},
  body: { error: { message, type } }
})

/** One run of a script. */
export class ScriptRun implements Scripted {
  readonly requests: Array<Exchange> = []
  readonly #script: Script
  readonly #queue: Array<ScriptedReply>
  readonly #keep: number
  readonly #waiting = new Map<number, PromiseWithResolvers<ScriptedRequest>>()
  #count = 0

  constructor(script: Script, keepRequests: number | undefined) {
    this.#script = script
    this.#queue = typeof script === "function" ? [] : [...script]
    this.#keep = keepRequests ?? Number.POSITIVE_INFINITY
  }

  readonly push = (...replies: ReadonlyArray<ScriptedReply>): void => void this.#queue.push(...replies)

  readonly received = (index: number): Promise<ScriptedRequest> => {
    const known = this.requests.find((request) => request.index === index)
    if (known !== undefined) return Promise.resolve(known)
    const entry = this.#waiting.get(index) ?? Promise.withResolvers<ScriptedRequest>()
    this.#waiting.set(index, entry)
    return entry.promise
  }

  /** Takes a request down. */
  accept(
    path: string,
    headers: Exchange["headers"],
    body: ScriptedRequestBody,
    receivedAt = performance.now()
  ): Exchange {
    const exchange = new Exchange(this.#count++, path, headers, body, receivedAt)
    this.requests.push(exchange)
    if (this.requests.length > this.#keep) this.requests.shift()
    this.#waiting.get(exchange.index)?.resolve(exchange)
    this.#waiting.delete(exchange.index)
    return exchange
  }

  /** The reply to a request, at once unless the script takes its time. A script that fails answers 400 and says why. */
  replyTo(exchange: Exchange): ScriptedReply | Promise<ScriptedReply> {
    const queued = this.#queue.shift()
    if (queued !== undefined) return queued
    if (typeof this.#script !== "function")
      return refusal("script_exhausted", `The script has no reply for request ${exchange.index}`)
    const failed = (error: unknown) => refusal("script_failed", `The script failed: ${error}`)
    try {
      const reply = this.#script(exchange.body, exchange.index, exchange)
      return reply instanceof Promise ? reply.catch(failed) : reply
    } catch (error) {
      return failed(error)
    }
  }
}
