/**
 * Owns what the processes of the benchmark tell each other, and the clock they share.
 */

/**
 * How the model's tokens come. `burst`: 50 writes in one turn of its event loop, which mostly travel together.
 * `apart`: one turn of its event loop each. `slow`: 20 a second without an end, each with the time it was sent. Any
 * other pace ends the slow streams, one after another within `slowEndMillis`.
 */
export type Pace = "burst" | "apart" | "slow"

export const tokensPerTurn = 50

export const slowTokenMillis = 50

/** Streams that ended all at once would measure a stampede on the database. */
export const slowEndMillis = 4_000

export type LoadJob =
  | {
      readonly kind: "turns"
      readonly port: number
      readonly connections: number
      /** The round ends after this many, or this long. */
      readonly turns: number
      readonly millis: number
    }
  | {
      readonly kind: "streams"
      readonly port: number
      readonly streams: number
      /** How many may wait for their first token at once while they are opened. */
      readonly opening: number
      /** How long opening may take. */
      readonly openMillis: number
    }

/** Told once by a `streams` job: all are open that will be. */
export const allOpen = "all open"

/** Milliseconds. */
export interface Quantiles {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface TurnsResult {
  readonly kind: "turns"
  readonly turns: number
  readonly millis: number
  readonly firstDelta: Quantiles
  /** Of the load generator itself. */
  readonly cpuMillis: number
  /** What went wrong; the first few. Empty: every turn ended well. */
  readonly problems: ReadonlyArray<string>
}

export interface StreamsResult {
  readonly kind: "streams"
  /** Most streams that were open at one moment, past their first token. */
  readonly openAtOnce: number
  readonly tokens: number
  /** Until all were open. */
  readonly openingMillis: number
  readonly millis: number
  /** From the model's write to our read, over every token. */
  readonly lateness: Quantiles
  /** The same, of the tokens that came while all streams were open. */
  readonly latenessAllOpen: Quantiles
  readonly cpuMillis: number
  readonly problems: ReadonlyArray<string>
}

export type LoadResult = TurnsResult | StreamsResult

/** Microseconds of the machine's monotonic clock, the same in every process. */
export const micros = (): number => {
  const [seconds, nanos] = process.hrtime()
  return seconds * 1_000_000 + Math.floor(nanos / 1000)
}

/** A token of a slow stream, and how to find it in what arrives. */
export const stampDigits = 15
export const stamp = (at: number): string => `@${String(at).padStart(stampDigits, "0")};`

/** Tells the parent process. Without one there is nobody to work for. */
export const tell = (message: unknown): void => {
  process.send?.(message)
}

/** Children end with whoever started them. */
export const endWithParent = (): void => {
  process.once("disconnect", () => process.exit(0))
}
