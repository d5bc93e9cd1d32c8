/**
 * Owns how a turn's spans are shown: as a tree, with each one's share of the whole, and what the turn waited on.
 */
import type { TraceNode, TurnTrace } from "../api/TurnApi.ts"
import { SpanName } from "../observability/SpanName.ts"
import type { StoredSpan, TracedTurn } from "./TraceStore.ts"

const round = (value: number) => Math.round(value * 1000) / 1000

type Waited = TurnTrace["waited_on"][number]["what"]

const whatOf = (span: StoredSpan, parent: StoredSpan | undefined): Waited => {
  if (span.name === SpanName.databaseQuery) return "database"
  if (span.name === SpanName.callLlm || parent?.name === SpanName.callLlm) return "model"
  if (span.name.startsWith("tool.") || parent?.name.startsWith("tool.") === true) return "tools"
  return "other"
}

/** Milliseconds that some child accounts for, where they overlap once. */
const coveredBy = (children: ReadonlyArray<StoredSpan>, from: number, to: number): number => {
  let covered = 0
  let end = from
  for (const child of children) {
    const start = Math.max(child.startMillis, end)
    const stop = Math.min(child.startMillis + child.durationMillis, to)
    if (stop > start) {
      covered += stop - start
      end = stop
    }
  }
  return covered
}

/** Until the agent begins, what is not the database is the wait for the session's earlier turns. */
const queuedIn = (message: StoredSpan, children: ReadonlyArray<StoredSpan>): number => {
  const work = children.find((child) => child.name === SpanName.processMessage)
  const until = work?.startMillis ?? message.startMillis + message.durationMillis
  return until - message.startMillis - coveredBy(children, message.startMillis, until)
}

export const traceView = ({ sessionId, spans, status, traceId, turnId }: TracedTurn): TurnTrace => {
  const byId = new Map(spans.map((span) => [span.spanId, span]))
  const childrenOf = Map.groupBy(spans, (span) =>
    span.parentSpanId !== null && byId.has(span.parentSpanId) ? span.parentSpanId : ""
  )
  const begin = spans[0]?.startMillis ?? 0
  const whole =
    spans.reduce((end, span) => Math.max(end, span.startMillis + span.durationMillis), begin) - begin
  const share = (millis: number) => (whole === 0 ? 0 : round(millis / whole))
  const waited = new Map<Waited, { millis: number; count: number }>()

  const add = (what: Waited, millis: number) => {
    const total = waited.get(what) ?? { millis: 0, count: 0 }
    waited.set(what, { millis: total.millis + millis, count: total.count + 1 })
  }

  const node = (span: StoredSpan): TraceNode => {
    const children = childrenOf.get(span.spanId) ?? []
    const end = span.startMillis + span.durationMillis
    const self = Math.max(0, span.durationMillis - coveredBy(children, span.startMillis, end))
    const queued = span.name === SpanName.sendMessage ? Math.min(self, queuedIn(span, children)) : 0
    if (queued > 0) add("queue", queued)
    add(whatOf(span, span.parentSpanId === null ? undefined : byId.get(span.parentSpanId)), self - queued)
    return {
      span_id: span.spanId,
      parent_span_id: span.parentSpanId,
      name: span.name,
      service: span.service,
      status: span.status,
      start_ms: round(span.startMillis - begin),
      duration_ms: round(span.durationMillis),
      self_ms: round(self),
      share: share(span.durationMillis),
      attributes: span.attributes,
      events: span.events.map(({ atMillis, attributes, name }) => ({
        name,
        at_ms: round(atMillis - begin),
        attributes
      })),
      children: children.map(node)
    }
  }

  return {
    turn_id: turnId,
    session_id: sessionId,
    trace_id: traceId ?? spans[0]?.traceId ?? null,
    status,
    started_at: spans[0]?.startedAt.toISOString() ?? null,
    duration_ms: round(whole),
    span_count: spans.length,
    spans: (childrenOf.get("") ?? []).map(node),
    waited_on: Array.from(waited, ([what, { count, millis }]) => ({
      what,
      duration_ms: round(millis),
      share: share(millis),
      count
    })).sort((a, b) => b.duration_ms - a.duration_ms)
  }
}
