/**
 * Owns a whole server whose spans arrive at a collector of the test's own, and how those are told: as a tree, by name.
 */
import { Context, Effect, Layer, type Scope } from "effect"
import { type Script, ScriptedModel } from "voice-agent-api/testing"
import { type AppServer, type AppServerOptions, make as makeApp } from "../support/AppServer.ts"
import { make as makeReceiver, type OtlpReceiver, type ReceivedSpan } from "../support/OtlpReceiver.ts"
import * as TestDb from "../support/TestDb.ts"

export interface Traced extends AppServer {
  readonly otlp: OtlpReceiver
}

export const make = (
  script: Script,
  { settings = {}, ...options }: AppServerOptions = {}
): Effect.Effect<Traced, never, Scope.Scope> =>
  Effect.gen(function* () {
    const otlp = yield* makeReceiver
    const model = yield* ScriptedModel.serve(script)
    const app = yield* makeApp(yield* Layer.build(TestDb.layer), model, {
      ...options,
      settings: { OTEL_EXPORTER_OTLP_ENDPOINT: otlp.url, OTEL_BSP_SCHEDULE_DELAY: "20", ...settings }
    })
    return { ...app, otlp }
  })

export class TracedApp extends Context.Service<TracedApp, Traced>()("voice-agent/test/TracedApp") {
  static readonly layer = (script: Script, options: AppServerOptions = {}): Layer.Layer<TracedApp> =>
    Layer.effect(TracedApp, make(script, options))
}

/** Spans in order of beginning. */
export const byStart = (spans: ReadonlyArray<ReceivedSpan>): ReadonlyArray<ReceivedSpan> =>
  [...spans].sort((a, b) => (a.startNanos < b.startNanos ? -1 : a.startNanos > b.startNanos ? 1 : 0))

/** All spans of a trace, once the last of them is there: the one named `last`, which ends after all others. */
export const traceOf = (otlp: OtlpReceiver, traceId: string, last: string) =>
  Effect.map(
    otlp.until((spans) => spans.some((span) => span.traceId === traceId && span.name === last)),
    (spans) => byStart(spans.filter((span) => span.traceId === traceId))
  )

/** One line a span, indented by depth, without statements: how many there are is the repositories' business. */
export const treeOf = (spans: ReadonlyArray<ReceivedSpan>): ReadonlyArray<string> => {
  const ids = new Set(spans.map((span) => span.spanId))
  const lines: Array<string> = []
  const walk = (children: ReadonlyArray<ReceivedSpan>, depth: number) => {
    for (const span of children) {
      if (span.name === "database.query") continue
      lines.push(`${"  ".repeat(depth)}${span.name}`)
      walk(
        spans.filter((other) => other.parentSpanId === span.spanId),
        depth + 1
      )
    }
  }
  walk(
    spans.filter((span) => span.parentSpanId === undefined || !ids.has(span.parentSpanId)),
    0
  )
  return lines
}

export const named = (spans: ReadonlyArray<ReceivedSpan>, name: string) =>
  spans.filter((span) => span.name === name)

/** Everything a collector could show of these spans, to look for what should not be there. */
export const textOf = (spans: ReadonlyArray<ReceivedSpan>): string =>
  JSON.stringify(spans, (_, value) => (typeof value === "bigint" ? String(value) : value))
