/**
 * Owns the tracer: spans by OpenTelemetry's SDK, out by OTLP gRPC in batches where an endpoint is set, and to whoever
 * keeps them in the database. Nothing waits for either: what can't be sent is dropped, and said once a minute.
 */
import { hostname } from "node:os"
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import * as OtelTracer from "@effect/opentelemetry/OtelTracer"
import * as Resource from "@effect/opentelemetry/Resource"
import { DiagLogLevel, diag } from "@opentelemetry/api"
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  NoopSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  type SpanExporter,
  type SpanProcessor,
  TraceIdRatioBasedSampler
} from "@opentelemetry/sdk-trace-base"
import { Clock, Context, Duration, Effect, Fiber, Layer, Metric, Option, Tracer } from "effect"
import * as HttpMiddleware from "effect/http/HttpMiddleware"
import { Statement } from "effect/sql"
import { AppConfig, type TracingSettings } from "../Config.ts"
import { version } from "../version.ts"
import { PropagateTo } from "./ClientSpan.ts"
import { dbConnectionWait, traceExports } from "./Metrics.ts"
import { type EndedSpan, isSameWork, MergedSpan, RecordedSpan } from "./RecordedSpan.ts"
import { Redaction } from "./Redaction.ts"
import { SpanName } from "./SpanName.ts"

/** Get every span that is sampled, besides the exporter: as OpenTelemetry has it, without secrets. */
export const SpanProcessors = Context.Reference<ReadonlyArray<SpanProcessor>>(
  "voice-agent/observability/Tracer/SpanProcessors",
  { defaultValue: () => [] }
)

/** Gets every span that has ended, sampled or not, at once: it must not wait for anything. */
export const SpanSink = Context.Reference<(span: EndedSpan) => void>(
  "voice-agent/observability/Tracer/SpanSink",
  { defaultValue: () => () => {} }
)

/** Spans waiting to be sent, at most. More are dropped: memory stays bounded while the collector is away. */
const maxQueue = 4096

/** Spans sent at once. */
const batchSize = 512

const warnEvery = 60_000

const nothing = Context.empty()

const samplerOf = ({ sampler, samplerRatio }: TracingSettings): Sampler => {
  const ratio = new TraceIdRatioBasedSampler(samplerRatio)
  switch (sampler) {
    case "always_on":
      return new AlwaysOnSampler()
    case "always_off":
      return new AlwaysOffSampler()
    case "traceidratio":
      return ratio
    case "parentbased_always_on":
      return new ParentBasedSampler({ root: new AlwaysOnSampler() })
    case "parentbased_always_off":
      return new ParentBasedSampler({ root: new AlwaysOffSampler() })
    case "parentbased_traceidratio":
      return new ParentBasedSampler({ root: ratio })
  }
}

/** Sends by OTLP gRPC. The package is loaded only when it is needed: it is a third of the time to start. */
const exporterTo = (
  endpoint: string,
  onResult: (failure: string | undefined) => void
): Effect.Effect<SpanExporter> =>
  Effect.map(
    Effect.promise(() => import("@opentelemetry/exporter-trace-otlp-grpc")),
    ({ OTLPTraceExporter }) => {
      const exporter = new OTLPTraceExporter({ url: endpoint, timeoutMillis: 5_000 })
      return {
        export: (spans, done) =>
          exporter.export(spans, (result) => {
            onResult(result.code === 0 ? undefined : (result.error?.message ?? "unknown"))
            done(result)
          }),
        forceFlush: () => exporter.forceFlush(),
        shutdown: () => exporter.shutdown()
      }
    }
  )

/** Asked every few seconds for as long as the server lives: they would crowd out the turns. */
const isProbe = (url: string) => /^\/(?:metrics|api\/v1\/health(?:\/live|\/ready)?)\/?(?:\?|$)/i.test(url)

const slowThresholds = ({ slow }: TracingSettings) => {
  const model = Duration.toMillis(slow.model)
  const tool = Duration.toMillis(slow.tool)
  const sql = Duration.toMillis(slow.sql)
  return (name: string): number =>
    name === SpanName.callLlm
      ? model
      : name === SpanName.executeTool
        ? tool
        : name === SpanName.databaseQuery
          ? sql
          : Number.POSITIVE_INFINITY
}

const make = Effect.gen(function* () {
  const { tracing } = yield* AppConfig
  const { redact } = yield* Redaction
  const sink = yield* SpanSink
  const more = yield* SpanProcessors
  const clock = yield* Clock.Clock
  const context = yield* Effect.context<never>()
  const log = Effect.runForkWith(context)

  let warnedAt = Number.NEGATIVE_INFINITY
  const onExport = (failure: string | undefined) => {
    Effect.runSync(
      Metric.update(
        Metric.withAttributes(traceExports, { outcome: failure === undefined ? "sent" : "failed" }),
        1
      )
    )
    const now = clock.currentTimeMillisUnsafe()
    if (failure === undefined || now - warnedAt < warnEvery) return
    warnedAt = now
    log(Effect.logWarning("Spans could not be sent to the collector and are dropped", redact(failure)))
  }
  // What the SDK says by itself: all that matters of it comes by `onExport`.
  diag.setLogger({ verbose() {}, debug() {}, info() {}, warn() {}, error() {} }, DiagLogLevel.NONE)

  const processor =
    tracing.endpoint === undefined
      ? new NoopSpanProcessor()
      : new BatchSpanProcessor(yield* exporterTo(tracing.endpoint, onExport), {
          maxQueueSize: maxQueue,
          maxExportBatchSize: batchSize,
          scheduledDelayMillis: Duration.toMillis(tracing.exportEvery),
          exportTimeoutMillis: 5_000
        })

  /** With what is known of the request, which runs in the fiber that ends the span. */
  const warnSlow = (span: EndedSpan) =>
    Effect.runForkWith(Fiber.getCurrent()?.context ?? context)(
      Effect.logWarning(`${span.name} was slow`).pipe(
        Effect.annotateLogs({
          duration_ms: span.durationMillis,
          trace_id: span.traceId,
          span_id: span.spanId,
          ...(span.sessionId === undefined ? {} : { session_id: span.sessionId })
        })
      )
    )

  const rules = {
    redact,
    content: tracing.content,
    slowAfter: slowThresholds(tracing),
    onEnd: (span: EndedSpan) => {
      sink(span)
      if (span.slow) warnSlow(span)
    },
    onConnectionWait: (millis: number) => dbConnectionWait.updateUnsafe(millis / 1000, nothing)
  }

  const layerTracer = Layer.effect(
    Tracer.Tracer,
    Effect.map(OtelTracer.make, (otel) =>
      // Without the `context` hook: it would run every step of every fiber in an AsyncLocalStorage scope, for
      // instrumentations that this process has none of.
      Tracer.make({
        span: (options) => {
          const parent = Option.getOrUndefined(options.parent)
          return parent instanceof RecordedSpan && isSameWork(options.name)
            ? new MergedSpan(parent, options.name, options.startTime)
            : new RecordedSpan(otel.span(options), rules)
        }
      })
    )
  )
  return Layer.mergeAll(
    layerTracer,
    Layer.succeed(HttpMiddleware.TracerDisabledWhen, ({ url }) => isProbe(url)),
    Layer.succeed(PropagateTo, tracing.propagateTo),
    // So that the driver says how long a statement waited for its connection.
    Layer.succeed(Statement.SpanPropagationEnabled, true)
  ).pipe(
    Layer.provide(OtelTracer.layerTracer),
    Layer.provide(
      NodeSdk.layerTracerProvider([processor, ...more], {
        sampler: samplerOf(tracing),
        shutdownTimeout: Duration.seconds(3)
      })
    ),
    Layer.provide(
      Resource.layer({
        serviceName: tracing.serviceName,
        serviceVersion: version,
        attributes: {
          "deployment.environment.name": tracing.environment,
          "service.instance.id": `${hostname()}-${process.pid}`
        }
      })
    )
  )
})

/** No tracer where `OTEL_SDK_DISABLED` is set. */
export const layerTracer: Layer.Layer<never, never, AppConfig | Redaction> = Layer.unwrap(
  Effect.flatMap(AppConfig, ({ tracing }) => (tracing.disabled ? Effect.succeed(Layer.empty) : make))
)
