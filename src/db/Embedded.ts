/**
 * Owns the one session of the embedded PostgreSQL: hands it to one connection at a time, clean, and starts the thread
 * that runs it anew after a crash or a statement that would not end.
 *
 * Does not speak SQL to its callers: `connect` is a byte stream of the PostgreSQL protocol, for `PgClient`. Does not
 * guard the data directory against other processes: `DataDirLock.ts` does.
 */
import { Duplex } from "node:stream"
import * as v8 from "node:v8"
import { Worker } from "node:worker_threads"
import { Effect, Schema } from "effect"
import type { Request, Response, WorkerInput } from "./EmbeddedWorker.ts"

/** The embedded database did not start. */
class EmbeddedStartFailed extends Schema.TaggedError<EmbeddedStartFailed>()("EmbeddedStartFailed", {
  detail: Schema.String
}) {
  override get message() {
    return `The embedded database did not start: ${this.detail}`
  }
}

export interface Embedded {
  /** PostgreSQL's version, such as "18.6". */
  readonly version: string
  /**
   * A new connection. It gets the session, rolled back and without anything the last one left in it, once the last one
   * has ended; what is written before that waits.
   */
  readonly connect: () => Duplex
}

export const make = Effect.fnUntraced(function* (input: WorkerInput) {
  // The optimising compiler would make a warm PGlite about a fifth faster, and takes 500 MB for some seconds to get
  // there. V8 has these for the whole process: other WebAssembly in it runs unoptimised as well.
  v8.setFlagsFromString("--no-wasm-tier-up")
  v8.setFlagsFromString("--no-wasm-dynamic-tiering")
  const runFork = Effect.runForkWith(yield* Effect.context())
  const thread = new Thread(input, () =>
    runFork(Effect.logWarning("The embedded database had to be stopped, and is started again"))
  )
  const session = new Session(thread)
  yield* Effect.addFinalizer(() => Effect.promise(() => thread.close()))
  const version = yield* Effect.tryPromise({
    try: () => thread.start(),
    catch: (error) =>
      new EmbeddedStartFailed({ detail: error instanceof Error ? error.message : String(error) })
  })
  return {
    version,
    connect: () => new Connection(session)
  } satisfies Embedded
})

/**
 * How long a statement may go on once its caller has given up: Postgres in a thread cannot be signalled, so past this
 * the thread is stopped, which the database survives as it does a power cut.
 */
const cancelGraceMillis = 3_000

const closeMillis = 10_000

/** Codes in the place of the protocol's version, and the type of the message that ends a connection. */
const cancelRequest = 80_877_102
const sslRequest = 80_877_103
const terminate = "X".charCodeAt(0)

const simpleQuery = (text: string) => {
  const frame = Buffer.alloc(6 + Buffer.byteLength(text))
  frame.write("Q")
  frame.writeUInt32BE(frame.length - 1, 1)
  frame.write(text, 5)
  return frame
}

/** Each alone: together they would be one transaction, which DISCARD ALL refuses. */
const cleanSession = [simpleQuery("ROLLBACK"), simpleQuery("DISCARD ALL")]

interface Running {
  readonly onData: (bytes: Uint8Array) => void
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/** The thread, one request at a time. A request fails when the thread ends under it. */
class Thread {
  private readonly input: WorkerInput
  private worker: Worker | undefined
  private started: Promise<string> | undefined
  private running: Running | undefined
  private closed = false
  private readonly onRestart: () => void

  constructor(input: WorkerInput, onRestart: () => void) {
    this.input = input
    this.onRestart = onRestart
  }

  /** Resolves to the version of PostgreSQL. */
  start(): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    const worker = new Worker(new URL("./EmbeddedWorker.ts", import.meta.url), {
      workerData: this.input,
      name: "postgres"
    })
    const ended = (error: Error) => {
      reject(error)
      if (this.worker !== worker) return
      this.worker = undefined
      this.started = undefined
      this.take()?.reject(error)
    }
    worker.on("error", ended)
    worker.on("exit", () => ended(new Error("The database thread has ended")))
    worker.on("message", (response: Response) => {
      switch (response._tag) {
        case "Started":
          return resolve(response.version)
        case "Data":
          return this.running?.onData(response.bytes)
        case "Failed":
          ended(new Error(response.message))
          return void worker.terminate()
        case "Done": {
          // First, because a caller may go on, and even close us, within `onData`.
          const running = this.take()
          if (response.bytes.length > 0) running?.onData(response.bytes)
          running?.resolve()
        }
      }
    })
    this.worker = worker
    this.started = promise
    return promise
  }

  async exec(message: Uint8Array, onData: (bytes: Uint8Array) => void = () => {}): Promise<void> {
    if (this.started === undefined) {
      // Nothing of a database in memory is left once its thread has ended.
      if (this.closed || this.input.dataDir === undefined) throw new Error("The database thread has ended")
      this.onRestart()
      this.start()
    }
    await this.started
    if (this.closed || this.worker === undefined) throw new Error("The database thread has ended")
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.running = { onData, resolve, reject }
    this.worker.postMessage({ _tag: "Exec", message } satisfies Request)
    return promise
  }

  private take(): Running | undefined {
    const running = this.running
    this.running = undefined
    return running
  }

  /** Gives what runs now a little more time, then stops the thread. The next request starts a new one, which recovers. */
  cancel() {
    const { running } = this
    if (running === undefined) return
    setTimeout(() => {
      if (this.running === running) this.stop()
    }, cancelGraceMillis).unref()
  }

  private stop() {
    void this.worker?.terminate()
  }

  /** Never fails: a thread that does not end by itself is stopped, and the next start recovers. */
  async close(): Promise<void> {
    const { worker } = this
    this.closed = true
    if (worker === undefined) return
    const exit = new Promise((resolve) => worker.once("exit", resolve))
    const timer = setTimeout(() => void worker.terminate(), closeMillis)
    // The thread gets to this when it has done what runs.
    worker.postMessage({ _tag: "Close" } satisfies Request)
    await exit
    clearTimeout(timer)
  }
}

/** Who has the session. */
class Session {
  readonly thread: Thread
  /** Settles when the session is free. Connections queue up behind one another. */
  private free: Promise<void> = Promise.resolve()

  constructor(thread: Thread) {
    this.thread = thread
  }

  /** Waits for the session and cleans it. Resolves to what gives it back. */
  async acquire(): Promise<() => void> {
    const before = this.free
    const { promise, resolve } = Promise.withResolvers<void>()
    this.free = before.then(() => promise)
    await before
    try {
      for (const message of cleanSession) await this.thread.exec(message)
    } catch (error) {
      resolve()
      throw error
    }
    return resolve
  }
}

/** One connection of the driver, which writes whole messages, and waits for an answer before it writes again. */
class Connection extends Duplex {
  private readonly session: Session
  private release: Promise<() => void> | undefined
  private executing: Promise<unknown> | undefined

  constructor(session: Session) {
    super()
    this.session = session
  }

  override _read() {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void) {
    // The first message has no type byte, only a length, and that starts with a zero.
    const code = chunk[0] === 0 ? chunk.readUInt32BE(4) : undefined
    if (code === cancelRequest) {
      this.session.thread.cancel()
      callback()
      // The driver waits for this.
      this.destroy()
    } else if (code === sslRequest) {
      this.push("N")
      callback()
    } else if (chunk[0] === terminate) {
      callback()
    } else {
      this.exec(chunk).then(() => callback(), callback)
    }
  }

  private async exec(chunk: Buffer) {
    this.release ??= this.session.acquire()
    await this.release
    if (this.destroyed) return
    // A copy: what the driver writes is a view of a pool that would go over whole.
    const message = new Uint8Array(chunk)
    this.executing = this.session.thread.exec(message, (bytes) => {
      if (!this.destroyed) this.push(bytes)
    })
    await this.executing
    this.executing = undefined
  }

  override _final(callback: () => void) {
    this.giveBack()
    this.push(null)
    callback()
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void) {
    if (this.executing !== undefined) this.session.thread.cancel()
    this.giveBack()
    callback(error)
  }

  /** Once what runs has ended: two connections never run at the same time. */
  private giveBack() {
    const release = this.release
    this.release = undefined
    release?.then(
      (free) => Promise.resolve(this.executing).then(free, free),
      () => {}
    )
  }
}
