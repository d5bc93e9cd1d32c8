/**
 * Owns what is kept of traces and response times in the database: written in batches, off the hot path, for a while.
 *
 * What comes faster than it can be written is dropped and counted. Nothing ever waits for it but a reader.
 */
import { Context, Duration, Effect, Layer, Metric, Schedule, Semaphore } from "effect"
import { SqlClient } from "effect/sql"
import { AppConfig } from "../Config.ts"
import { type DbUnavailable, guard } from "../db/DbUnavailable.ts"
import { toJsonb } from "../db/Storable.ts"
import { traceSpansDropped } from "./Metrics.ts"
import type { EndedSpan } from "./RecordedSpan.ts"

const maxWaiting = 20_000
const batchSize = 2_000
const writeEvery = Duration.seconds(1)
const cleanEvery = Duration.minutes(10)

/** One turn's response time. */
export interface TurnSample {
  readonly sessionId: string
  /** Such as `POST /api/v1/chat`. */
  readonly endpoint: string
  readonly responseMillis: number
  readonly status: string
  /** Milliseconds since the epoch. */
  readonly at: number
}

/** A span as it is kept. */
export interface StoredSpan {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string | null
  readonly name: string
  readonly service: string
  readonly status: "ok" | "error" | "cancelled"
  readonly startedAt: Date
  /** Milliseconds since the epoch, to the microsecond. */
  readonly startMillis: number
  readonly durationMillis: number
  readonly attributes: Readonly<Record<string, unknown>>
}

export interface TracedTurn {
  readonly turnId: string
  readonly sessionId: string
  readonly traceId: string | null
  readonly status: string
  /** By start. */
  readonly spans: ReadonlyArray<StoredSpan>
}

export class TraceStore extends Context.Service<
  TraceStore,
  {
    readonly add: (span: EndedSpan) => void
    readonly addSample: (sample: TurnSample) => void
    /** Writes what waits. */
    readonly flush: Effect.Effect<void, DbUnavailable>
    /** The turn with its spans; `undefined`: there is no such turn. */
    readonly turn: (turnId: string) => Effect.Effect<TracedTurn | undefined, DbUnavailable>
  }
>()("voice-agent/observability/TraceStore") {
  static readonly layer: Layer.Layer<TraceStore, never, SqlClient.SqlClient | AppConfig> = Layer.effect(
    TraceStore,
    Effect.suspend(() => make)
  )
}

const plain = (attributes: ReadonlyMap<string, unknown>): Record<string, unknown> => {
  const record: Record<string, unknown> = {}
  for (const [key, value] of attributes) {
    record[key] = typeof value === "bigint" ? Number(value) : value
  }
  return record
}

const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  const { databaseUrl, tracing } = yield* AppConfig
  const writing = Semaphore.makeUnsafe(1)
  let spans: Array<EndedSpan> = []
  let samples: Array<TurnSample> = []

  const insertSpans = (batch: ReadonlyArray<EndedSpan>) =>
    sql`
      INSERT INTO trace_spans (
        trace_id, span_id, parent_span_id, name, service, status, started_at, duration_ms, attributes, session_id,
        turn_id
      )
      SELECT
        t, s, p, n, ${tracing.serviceName}, o, to_timestamp(b / 1000), d, coalesce(a, '{}'::jsonb), e, u
      FROM jsonb_to_recordset(${toJsonb(
        batch.map((span) => ({
          t: span.traceId,
          s: span.spanId,
          p: span.parentSpanId,
          n: span.name,
          o: span.status,
          b: span.startMillis,
          d: span.durationMillis,
          a: plain(span.attributes),
          e: span.sessionId,
          u: span.turnId
        }))
      )}::text::jsonb) AS x (
        t text, s text, p text, n text, o text, b double precision, d double precision, a jsonb, e text, u text
      )
      ON CONFLICT DO NOTHING`

  const insertSamples = (batch: ReadonlyArray<TurnSample>) =>
    sql`
      INSERT INTO performance_metrics (session_id, endpoint, response_time_ms, status, recorded_at)
      SELECT s, e, r, o, to_timestamp(t / 1000)
      FROM jsonb_to_recordset(${toJsonb(
        batch.map((sample) => ({
          s: sample.sessionId,
          e: sample.endpoint,
          r: sample.responseMillis,
          o: sample.status,
          t: sample.at
        }))
      )}::text::jsonb) AS x (s text, e text, r double precision, o text, t double precision)`

  const writeBatch = Effect.suspend(() => {
    const spanBatch = spans.slice(0, batchSize)
    const sampleBatch = samples.slice(0, batchSize)
    spans = spans.slice(batchSize)
    samples = samples.slice(batchSize)
    return Effect.gen(function* () {
      if (spanBatch.length > 0) yield* insertSpans(spanBatch)
      if (sampleBatch.length > 0) yield* insertSamples(sampleBatch)
    }).pipe(
      guard,
      Effect.tapError(() => Metric.update(traceSpansDropped, spanBatch.length))
    )
  })

  const flush = Effect.whileLoop({
    while: () => spans.length + samples.length > 0,
    body: () => writeBatch,
    step: () => {}
  }).pipe(writing.withPermit, Effect.withTracerEnabled(false))

  const clean = Effect.gen(function* () {
    const seconds = Duration.toSeconds(tracing.retention)
    yield* sql`DELETE FROM trace_spans WHERE started_at < now() - make_interval(secs => ${seconds})`
    yield* sql`DELETE FROM performance_metrics WHERE recorded_at < now() - make_interval(secs => ${seconds})`
    // On a server of its own there is room; the embedded database shares this process's disk, and the oldest go.
    if (databaseUrl === undefined) {
      yield* sql`
        DELETE FROM trace_spans WHERE started_at < (
          SELECT started_at FROM trace_spans ORDER BY started_at DESC OFFSET ${tracing.maxRows} LIMIT 1
        )`
    }
  }).pipe(guard, Effect.withTracerEnabled(false))

  if (tracing.store) {
    const quietly = (effect: Effect.Effect<unknown, DbUnavailable>, what: string) =>
      Effect.catch(effect, (error) => Effect.logWarning(`${what}: ${error.message}`))
    yield* Effect.addFinalizer(() => quietly(flush, "The last spans could not be kept"))
    yield* quietly(flush, "Spans could not be kept").pipe(
      Effect.repeat(Schedule.spaced(writeEvery)),
      Effect.forkScoped
    )
    yield* quietly(clean, "Old spans could not be removed").pipe(
      Effect.delay(Duration.seconds(30)),
      Effect.repeat(Schedule.spaced(cleanEvery)),
      Effect.forkScoped
    )
  }

  return TraceStore.of({
    add: (span) => {
      if (!tracing.store) return
      if (spans.length < maxWaiting) spans.push(span)
      else traceSpansDropped.updateUnsafe(1, Context.empty())
    },
    addSample: (sample) => {
      if (tracing.store && samples.length < maxWaiting) samples.push(sample)
    },
    flush,
    turn: (turnId) =>
      Effect.gen(function* () {
        yield* flush
        const [turn] = yield* sql<Omit<TracedTurn, "spans">>`
          SELECT id AS "turnId", session_id AS "sessionId", trace_id AS "traceId", status
          FROM turns WHERE id = ${turnId}::uuid`
        if (turn === undefined) return undefined
        const stored = yield* sql<StoredSpan>`
          SELECT
            trace_id AS "traceId", span_id AS "spanId", parent_span_id AS "parentSpanId", name, service, status,
            started_at AS "startedAt", (extract(epoch FROM started_at) * 1000)::double precision AS "startMillis",
            duration_ms AS "durationMillis", attributes
          FROM trace_spans WHERE turn_id = ${turnId} ORDER BY started_at`
        return { ...turn, spans: stored }
      }).pipe(guard, Effect.withTracerEnabled(false))
  })
})
