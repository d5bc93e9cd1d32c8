/**
 * Owns a turn's events as a Server-Sent Events body: one frame an event, a comment when nothing was sent for a while.
 *
 * Push, not pull: an event goes from the turn into the response without a fiber or a promise between, and what comes
 * together is written together.
 */
import { Readable } from "node:stream"
import { Clock, Effect, Schedule, type Scope } from "effect"
import type { Turn } from "./Turns.ts"

/** A client this far behind, in bytes, is cut off. */
const maxBehind = 4 * 1024 * 1024

const checkEvery = 4_000

/** With a check to notice the quiet, and one that may come late, a comment goes out at least every 15 s. */
const quietFor = 7_000

export class SseBody extends Readable {
  readonly #turn: Turn
  readonly #onClose: (body: SseBody) => void
  readonly #unsubscribe: () => void
  #pending = ""
  #lastWrite: number

  constructor(turn: Turn, now: number, onClose: (body: SseBody) => void) {
    super({ highWaterMark: 64 * 1024 })
    this.#turn = turn
    this.#lastWrite = now
    this.#onClose = onClose
    this.#unsubscribe = turn.log.subscribe({
      onEvent: (sequence, json) => this.#add(`id: ${turn.id}:${sequence}\ndata: ${json}\n\n`),
      onEnd: () => {
        this.#flush()
        this.push(null)
      }
    })
  }

  #add(frame: string) {
    if (this.#pending === "") queueMicrotask(() => this.#flush())
    this.#pending += frame
  }

  #flush() {
    if (this.#pending === "" || this.destroyed) return
    this.push(this.#pending)
    this.#pending = ""
    this.#lastWrite = -1
    if (this.readableLength > maxBehind) this.destroy()
  }

  /** Sends a comment if nothing was sent for a while, and nothing waits to be. `now` in milliseconds. */
  keepAlive(now: number) {
    if (this.#turn.log.ended || this.readableLength > 0) return
    if (this.#lastWrite < 0) this.#lastWrite = now
    else if (now - this.#lastWrite >= quietFor) this.#add(": still here\n\n")
  }

  override _read() {}

  /** Called on the last byte, and when the client goes away: what it asked for stops then. */
  override _destroy(error: Error | null, done: (error: Error | null) => void) {
    this.#unsubscribe()
    if (!this.#turn.log.ended) this.#turn.cancel("client_disconnected")
    this.#onClose(this)
    done(error)
  }
}

/** How to make bodies that are kept alive as long as the scope is. */
export const makeSseBodies: Effect.Effect<(turn: Turn) => SseBody, never, Scope.Scope> = Effect.gen(
  function* () {
    const clock = yield* Clock.Clock
    const open = new Set<SseBody>()
    yield* Effect.sync(() => {
      const now = clock.currentTimeMillisUnsafe()
      for (const body of open) body.keepAlive(now)
    }).pipe(Effect.repeat(Schedule.spaced(checkEvery)), Effect.forkScoped)
    return (turn) => {
      const body = new SseBody(turn, clock.currentTimeMillisUnsafe(), (closed) => open.delete(closed))
      open.add(body)
      return body
    }
  }
)
