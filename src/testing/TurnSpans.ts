/**
 * Owns the spans of an app under test, as an exporter would get them, and how a turn's are told: as a tree.
 *
 * Does not know what a turn should look like.
 */
import type { ReadableSpan, SpanProcessor } from "@opentelemetry/sdk-trace-base"
import { SpanName } from "../observability/SpanName.ts"

export interface SpanEvent {
  readonly name: string
  readonly attributes: Readonly<Record<string, unknown>>
}

export interface SpanNode {
  readonly name: string
  /** `unset`: it was interrupted. */
  readonly status: "ok" | "error" | "unset"
  readonly attributes: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<SpanEvent>
  readonly durationMillis: number
  /** By start. */
  readonly children: ReadonlyArray<SpanNode>
}

/** All spans of one trace. */
export interface TurnTrace {
  readonly traceId: string
  /** The request's span, or the turn's own where it begins the trace. */
  readonly root: SpanNode
  /** Root first, each before its children. */
  readonly spans: ReadonlyArray<SpanNode>
  readonly named: (name: string) => ReadonlyArray<SpanNode>
  /** Names, two spaces deeper for each level. Statements are left out: how many there are is the repositories' affair. */
  readonly outline: ReadonlyArray<string>
}

const statuses = ["unset", "ok", "error"] as const

const millisOf = ([seconds, nanos]: readonly [number, number]) => seconds * 1e3 + nanos / 1e6

const compare = (a: ReadableSpan, b: ReadableSpan) =>
  a.startTime[0] - b.startTime[0] || a.startTime[1] - b.startTime[1]

const treeOf = (traceId: string, spans: ReadonlyArray<ReadableSpan>): TurnTrace => {
  const ids = new Set(spans.map((span) => span.spanContext().spanId))
  const parentOf = ({ parentSpanContext }: ReadableSpan) =>
    parentSpanContext !== undefined && ids.has(parentSpanContext.spanId) ? parentSpanContext.spanId : ""
  const children = Map.groupBy([...spans].sort(compare), parentOf)
  const all: Array<SpanNode> = []
  const outline: Array<string> = []
  const node = (span: ReadableSpan, depth: number): SpanNode => {
    const place = all.length
    if (span.name !== SpanName.databaseQuery) outline.push("  ".repeat(depth) + span.name)
    // Its place is taken before its children's.
    all.length++
    const made: SpanNode = {
      name: span.name,
      status: statuses[span.status.code] ?? "unset",
      attributes: span.attributes,
      events: span.events.map(({ attributes = {}, name }) => ({ name, attributes })),
      durationMillis: millisOf(span.duration),
      children: (children.get(span.spanContext().spanId) ?? []).map((child) => node(child, depth + 1))
    }
    all[place] = made
    return made
  }
  const roots = (children.get("") ?? []).map((span) => node(span, 0))
  const [root] = roots
  if (root === undefined) throw new Error(`There is no trace ${traceId}`)
  return { traceId, root, spans: all, outline, named: (name) => all.filter((span) => span.name === name) }
}

/** Give `processor` to an app by `SpanProcessors`; `TestApp` does so by itself. */
export class TurnSpans {
  readonly #ended = new Map<string, Array<ReadableSpan>>()
  readonly #open = new Map<string, number>()
  readonly #turns = new Map<string, string>()
  #wake = Promise.withResolvers<void>()

  /** To be given to the tracer. */
  readonly processor: SpanProcessor = {
    onStart: (span) => {
      const { traceId } = span.spanContext()
      this.#open.set(traceId, (this.#open.get(traceId) ?? 0) + 1)
    },
    onEnd: (span) => {
      const { traceId } = span.spanContext()
      const spans = this.#ended.get(traceId) ?? []
      spans.push(span)
      this.#ended.set(traceId, spans)
      this.#open.set(traceId, (this.#open.get(traceId) ?? 1) - 1)
      const turnId = span.attributes.turn_id
      if (span.name === SpanName.sendMessage && typeof turnId === "string") this.#turns.set(turnId, traceId)
      this.#wake.resolve()
      this.#wake = Promise.withResolvers<void>()
    },
    forceFlush: async () => {},
    shutdown: async () => {}
  }

  /** The trace of a turn, as soon as all its spans have ended. */
  trace(turnId: string): Promise<TurnTrace> {
    return this.#complete(() => this.#turns.get(turnId))
  }

  /** A trace by its own id, as a response's `traceparent` names it. */
  traceOf(traceId: string): Promise<TurnTrace> {
    return this.#complete(() => traceId)
  }

  async #complete(find: () => string | undefined): Promise<TurnTrace> {
    for (;;) {
      const traceId = find()
      if (traceId !== undefined && this.#open.get(traceId) === 0)
        return treeOf(traceId, this.#ended.get(traceId) ?? [])
      await this.#wake.promise
    }
  }
}
