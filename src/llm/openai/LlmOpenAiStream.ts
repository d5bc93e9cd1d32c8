/**
 * Owns the way from a response body to a pull of response parts: one chunk of parts per network chunk, backpressure, and
 * what becomes of the connection in the end.
 *
 * Does not send requests or bound time. No promise and no queue per chunk: a waiting fiber is resumed by the `data` event.
 */
import type { IncomingMessage } from "node:http"
import { type Array as Arr, Cause, Effect, type Pull } from "effect"
import type { Response } from "effect/ai"
import * as AiError from "effect/ai/AiError"
import { openAiError } from "./LlmOpenAiError.ts"
import type { CompletionParts } from "./LlmOpenAiParts.ts"

type Chunk = Arr.NonEmptyReadonlyArray<Response.StreamPartEncoded>
type ChunkPull = Pull.Pull<Chunk, AiError.AiError>

/** Bytes taken in while nobody pulls, before the socket is paused. */
const highWaterBytes = 64 * 1024

/** How long the end of a complete answer may keep its connection from being used again. */
const drainMillis = 1000

let due: Array<() => void> = []

const wakeAll = (): void => {
  const wakes = due
  due = []
  for (const wake of wakes) wake()
}

/**
 * Wakes a reader once all sockets that are readable now have been read. Node emits one event per HTTP chunk, so often many
 * per read; and one immediate for all streams costs far less than one tick for each.
 */
const wakeSoon = (wake: () => void): void => {
  if (due.push(wake) === 1) setImmediate(wakeAll)
}

const isNonEmpty = (
  parts: Array<Response.StreamPartEncoded>
): parts is Arr.NonEmptyArray<Response.StreamPartEncoded> => parts.length > 0

export class PartsReader {
  readonly #incoming: IncomingMessage
  readonly #parts: CompletionParts
  readonly #method: string
  readonly #url: string
  #waiter: ((pull: ChunkPull) => void) | undefined = undefined
  #failure: AiError.AiError | undefined = undefined
  #unread = 0
  #isEnded = false
  #isWakeDue = false

  constructor(
    incoming: IncomingMessage,
    parts: CompletionParts,
    options: { readonly method: string; readonly url: string }
  ) {
    this.#incoming = incoming
    this.#parts = parts
    this.#method = options.method
    this.#url = options.url
    incoming.on("data", this.#onData)
    incoming.on("end", this.#onEnd)
    incoming.on("error", this.#onBroken)
    incoming.on("close", this.#onBroken)
  }

  /** The parts that have arrived, or the wait for the next. */
  readonly pull: ChunkPull = Effect.suspend(() => {
    const ready = this.#next()
    if (this.#incoming.isPaused()) this.#incoming.resume()
    if (ready !== undefined) return ready
    return Effect.callback<Chunk, AiError.AiError | Cause.Done>((resume) => {
      this.#waiter = resume
      return Effect.sync(() => {
        this.#waiter = undefined
      })
    })
  })

  /** Gives the connection back when the answer is complete, and destroys it otherwise. */
  release(): void {
    const incoming = this.#incoming
    incoming.off("data", this.#onData)
    incoming.off("end", this.#onEnd)
    incoming.off("close", this.#onBroken)
    if (this.#isEnded) return
    if (!this.#parts.isDone) {
      incoming.destroy()
      return
    }
    // `[DONE]` comes before the body's own end. Read up to it, or the connection could not be used again.
    const timer = setTimeout(() => incoming.destroy(), drainMillis)
    timer.unref()
    incoming.once("close", () => clearTimeout(timer))
    incoming.resume()
  }

  #next(): ChunkPull | undefined {
    const parts = this.#parts.take()
    this.#unread = 0
    if (isNonEmpty(parts)) return Effect.succeed(parts)
    const failure = this.#parts.failure ?? this.#failure
    if (failure !== undefined) return Effect.fail(failure)
    return this.#parts.isDone ? Cause.done() : undefined
  }

  #wake(): void {
    const waiter = this.#waiter
    if (waiter === undefined) return
    const ready = this.#next()
    if (ready === undefined) return
    this.#waiter = undefined
    waiter(ready)
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#parts.feed(chunk)
    this.#unread += chunk.length
    if (this.#waiter !== undefined) {
      if (this.#isWakeDue) return
      this.#isWakeDue = true
      wakeSoon(this.#onDue)
    } else if (this.#unread > highWaterBytes) this.#incoming.pause()
  }

  readonly #onDue = (): void => {
    this.#isWakeDue = false
    this.#wake()
  }

  readonly #onEnd = (): void => {
    this.#isEnded = true
    this.#parts.end()
    this.#wake()
  }

  readonly #onBroken = (error?: Error): void => {
    if (this.#isEnded || this.#failure !== undefined) return
    this.#failure = openAiError(
      this.#method,
      new AiError.NetworkError({
        reason: "TransportError",
        method: "POST",
        url: this.#url,
        description: `The connection broke before the reply was complete${error === undefined ? "" : `: ${error.message}`}`
      })
    )
    this.#wake()
  }
}
