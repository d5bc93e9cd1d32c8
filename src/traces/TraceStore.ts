/**
 * Owns what is kept of traces and response times in the database: written in batches, off the hot path, for a while.
 *
 * What comes faster than it can be written is dropped and counted. Nothing ever waits for it but a reader.
 */
import { Cause, Clock, Context, Duration, Effect, Layer, Metric, Schedule, Semaphore } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { AppConfig } from "../Config.ts"
import { type DbUnavailable, guard } from "../db/DbUnavailable.ts"
import { toJsonb } from "../db/Storable.ts"
import { traceSpansDropped } from "../observability/Metrics.ts"
import type { EndedSpan, SpanEvent } from "../observability/RecordedSpan.ts"
import { SpanSink } from "../observability/Tracer.ts"

const maxWaiting = 20_000
/** A row takes the embedded database some 70 µs, and the statements of turns get their turn between two batches. */
const batchSize = 250
/** Rows removed at once. */
const sliceSize = 2_000
const writeEvery = Duration.seconds(1)
const cleanEveryMillis = 600_000
const warnEveryMillis = 60_000

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
  /** In the order they came. */
  readonly events: ReadonlyArray<SpanEvent>
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
>()("voice-agent/traces/TraceStore") {
  static readonly layer: Layer.Layer<TraceStore, never, SqlClient.SqlClient | AppConfig> =
    Layer.effectContext(
      Effect.map(
        Effect.suspend(() => make),
        (store) => Context.add(Context.make(TraceStore, store), SpanSink, store.add)
      )
    )
}

/** Nearly all there is can be stored as it is, and looking at each text is what costs. */
const json = (value: unknown): string => {
  const text = JSON.stringify(value)
  return /\\u(?:0000|d[89a-f])/i.test(text) ? toJsonb(value) : text
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
  const spans: Array<EndedSpan> = []
  const samples: Array<TurnSample> = []

  const insertSpans = (batch: ReadonlyArray<EndedSpan>) =>
    sql`
      INSERT INTO trace_spans (
        trace_id, span_id, parent_span_id, name, service, status, started_at, duration_ms, attributes, events,
        session_id, turn_id
      )
      SELECT
        t, s, p, n, ${tracing.serviceName}, o, to_timestamp(b / 1000), d, coalesce(a, '{}'::jsonb),
        coalesce(v, '[]'::jsonb), e, u
      FROM jsonb_to_recordset(${json(
        batch.map((span) => ({
          t: span.traceId,
          s: span.spanId,
          p: span.parentSpanId,
          n: span.name,
          o: span.status,
          b: span.startMillis,
          d: span.durationMillis,
          a: plain(span.attributes),
          ...(span.events.length === 0 ? {} : { v: span.events }),
          e: span.sessionId,
          u: span.turnId
        }))
      )}::text::jsonb) AS x (
        t text, s text, p text, n text, o text, b double precision, d double precision, a jsonb, v jsonb, e text,
        u text
      )
      -- What was deleted while its spans waited stays deleted.
      WHERE e IS NULL OR EXISTS (SELECT FROM sessions WHERE id = e)
      ON CONFLICT DO NOTHING`

  const insertSamples = (batch: ReadonlyArray<TurnSample>) =>
    sql`
      INSERT INTO performance_metrics (session_id, endpoint, response_time_ms, status, recorded_at)
      SELECT sessions.id, e, r, o, to_timestamp(t / 1000)
      FROM jsonb_to_recordset(${json(
        batch.map((sample) => ({
          s: sample.sessionId,
          e: sample.endpoint,
          r: sample.responseMillis,
          o: sample.status,
          t: sample.at
        }))
      )}::text::jsonb) AS x (s text, e text, r double precision, o text, t double precision)
      LEFT JOIN sessions ON sessions.id = s`

  const drop = (count: number) => Metric.update(traceSpansDropped, count)

  let warnedAt = Number.NEGATIVE_INFINITY
  const warn = (what: string, problem: unknown) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (now - warnedAt < warnEveryMillis) return Effect.void
      warnedAt = now
      return Effect.logWarning(what, problem)
    })

  /** Writes the oldest of what waits. It goes on waiting when the database is away; what can't be written is dropped. */
  const write = <A>(
    waiting: Array<A>,
    insert: (batch: ReadonlyArray<A>) => Effect.Effect<unknown, SqlError.SqlError>,
    onDrop: (count: number) => Effect.Effect<void>
  ) =>
    Effect.suspend(() => {
      const batch = waiting.slice(0, batchSize)
      if (batch.length === 0) return Effect.void
      return guard(insert(batch)).pipe(
        Effect.catchDefect((defect) =>
          Effect.andThen(
            onDrop(batch.length),
            warn("Spans could not be kept and are dropped", Cause.die(defect))
          )
        ),
        Effect.andThen(Effect.sync(() => void waiting.splice(0, batch.length)))
      )
    })

  let written = 0
  const writeBatch = Effect.andThen(
    Effect.suspend(() => {
      written += Math.min(spans.length, batchSize)
      return write(spans, insertSpans, drop)
    }),
    write(samples, insertSamples, () => Effect.void)
  )

  /** What waits now, and not what comes meanwhile: whoever reads has to get to it. */
  const flush = Effect.suspend(() => {
    let batches = Math.ceil(Math.max(spans.length, samples.length) / batchSize)
    return Effect.whileLoop({ while: () => batches-- > 0, body: () => writeBatch, step: () => {} })
  }).pipe(writing.withPermit, Effect.withTracerEnabled(false))

  /** Slice by slice: one statement for all could take longer than a statement may. */
  const removeBefore = (table: "trace_spans" | "performance_metrics", time: string, cutoff: Date) =>
    Effect.repeat(
      guard(sql`
        DELETE FROM ${sql(table)} WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM ${sql(table)} WHERE ${sql(time)} < ${cutoff} LIMIT ${sliceSize} FOR UPDATE SKIP LOCKED
        ))
        RETURNING 1`),
      { until: (rows) => rows.length < sliceSize }
    )

  const clean = (now: number) =>
    Effect.gen(function* () {
      const cutoff = new Date(now - Duration.toMillis(tracing.retention))
      for (const [table, time] of [
        ["trace_spans", "started_at"],
        ["performance_metrics", "recorded_at"]
      ] as const) {
        yield* removeBefore(table, time, cutoff)
        // On a server of its own there is room; the embedded database shares this process's disk, and the oldest go.
        if (databaseUrl !== undefined) continue
        const [newest] = yield* guard(sql<{ readonly at: Date }>`
          SELECT ${sql(time)} AS at FROM ${sql(table)} ORDER BY ${sql(time)} DESC OFFSET ${tracing.maxRows} LIMIT 1`)
        if (newest !== undefined) yield* removeBefore(table, time, new Date(newest.at.getTime() + 1))
      }
    }).pipe(Effect.withTracerEnabled(false))

  if (tracing.store) {
    let cleanedAt = yield* Clock.currentTimeMillis
    const keep = Effect.gen(function* () {
      yield* flush
      const now = yield* Clock.currentTimeMillis
      if (now - cleanedAt < cleanEveryMillis && written < tracing.maxRows / 10) return
      cleanedAt = now
      written = 0
      yield* clean(now)
    })
    const quietly = Effect.catch((error: DbUnavailable) =>
      warn("Spans can't be kept at the moment", error.message)
    )
    yield* Effect.addFinalizer(() => Effect.andThen(quietly(flush), drop(spans.length)))
    yield* quietly(keep).pipe(
      Effect.catchDefect((defect) => warn("Spans can't be kept", Cause.die(defect))),
      Effect.repeat(Schedule.spaced(writeEvery)),
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
            duration_ms AS "durationMillis", attributes, events
          FROM trace_spans WHERE turn_id = ${turnId.toLowerCase()} ORDER BY started_at`
        return { ...turn, spans: stored }
      }).pipe(guard, Effect.withTracerEnabled(false))
  })
})
