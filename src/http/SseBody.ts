/**
 * Owns a turn's events as a Server-Sent Events body: one frame an event, a comment when nothing was sent for a while.
 *
 * Push, not pull: an event goes from the turn into the response without a fiber, a promise or a buffer of its own
 * between, and what comes together is written together.
 */
import { ServerResponse } from "node:http"
import { Readable } from "node:stream"
import { Clock, Effect, Schedule, type Scope } from "effect"
import type { Turn } from "../turns/Turns.ts"
import { ClientFeed } from "./ClientFeed.ts"
import { v1Events } from "./V1Events.ts"

const checkEvery = 4_000

/** With a check to notice the quiet, and one that may come late, a comment goes out at least every 15 s. */
const quietFor = 7_000

export class SseBody extends Readable {
  readonly #turn: Turn
  readonly #onClose: (body: SseBody) => void
  readonly #unsubscribe: () => void
  readonly #feed: ClientFeed
  /** What goes out with the end. */
  #last = ""
  #lastWrite: number
  /** Where a response is, it is written to as it is: a stream in front of it costs as much again for each token. */
  #response: ServerResponse | undefined

  constructor(turn: Turn, now: number, onClose: (body: SseBody) => void) {
    super({ highWaterMark: 64 * 1024 })
    this.#turn = turn
    this.#lastWrite = now
    this.#onClose = onClose
    this.#feed = new ClientFeed({
      write: (frames) => this.#write(frames.join("")),
      behind: () => this.#behind,
      cutOff: () => this.destroy()
    })
    this.#unsubscribe = v1Events(turn.feed).subscribe({
      onEvent: (sequence, json) => this.#feed.send(`id: ${turn.id}:${sequence}\ndata: ${json}\n\n`),
      onEnd: () => {
        if (this.#response === undefined) {
          this.#feed.flush()
          this.push(null)
          return
        }
        this.#last = this.#feed.take().join("")
        this.push(null)
        // Nothing is left to read, so that this comes to its end.
        this.resume()
      }
    })
  }

  override pipe<T extends NodeJS.WritableStream>(destination: T, options?: { end?: boolean }): T {
    if (!(destination instanceof ServerResponse) || this.#turn.feed.ended)
      return super.pipe(destination, options)
    const waiting: Buffer | null = this.read()
    if (waiting !== null) destination.write(waiting)
    this.#response = destination
    // The last event and the end of the body in one write; first of all who listen, since others end it empty.
    this.prependOnceListener("end", () => destination.end(this.#last))
    return destination
  }

  /** Bytes that the client has yet to take. */
  get #behind(): number {
    return this.#response === undefined ? this.readableLength : this.#response.writableLength
  }

  #write(text: string) {
    if (this.destroyed) return
    if (this.#response === undefined) this.push(text)
    else this.#response.write(text)
    this.#lastWrite = -1
  }

  /** Sends a comment if nothing was sent for a while, and nothing waits to be. `now` in milliseconds. */
  keepAlive(now: number) {
    if (this.#turn.feed.ended || this.#behind > 0) return
    if (this.#lastWrite < 0) this.#lastWrite = now
    else if (now - this.#lastWrite >= quietFor) this.#feed.send(": still here\n\n")
  }

  override _read() {}

  /** Called on the last byte, and when the client goes away: what it asked for stops then. */
  override _destroy(error: Error | null, done: (error: Error | null) => void) {
    this.#unsubscribe()
    if (!this.#turn.feed.ended) this.#turn.cancel("client_disconnected")
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
