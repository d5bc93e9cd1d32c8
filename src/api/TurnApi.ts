/**
 * Owns the wire shape of a turn's trace.
 */
import { Schema } from "effect"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import { Timestamp } from "./Fields.ts"
import { TurnNotFoundProblem } from "./Problems.ts"
import { Authorization } from "./Security.ts"

const milliseconds = Schema.Finite

export interface TraceNode {
  readonly span_id: string
  readonly parent_span_id: string | null
  readonly name: string
  readonly service: string
  readonly status: "ok" | "error" | "cancelled"
  readonly start_ms: number
  readonly duration_ms: number
  readonly self_ms: number
  readonly share: number
  readonly attributes: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<{
    readonly name: string
    readonly at_ms: number
    readonly attributes: Readonly<Record<string, unknown>>
  }>
  readonly children: ReadonlyArray<TraceNode>
}

const TraceNode: Schema.Codec<TraceNode> = Schema.Struct({
  span_id: Schema.String,
  parent_span_id: Schema.NullOr(Schema.String),
  name: Schema.String,
  service: Schema.String,
  status: Schema.Literals(["ok", "error", "cancelled"]),
  start_ms: milliseconds.annotate({ description: "Since the first span of the turn began." }),
  duration_ms: milliseconds,
  self_ms: milliseconds.annotate({ description: "What no child accounts for." }),
  share: Schema.Finite.annotate({ description: "Of the whole, 0 to 1." }),
  attributes: Schema.Record(Schema.String, Schema.Unknown),
  events: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      at_ms: milliseconds.annotate({ description: "Since the first span of the turn began." }),
      attributes: Schema.Record(Schema.String, Schema.Unknown)
    })
  ).annotate({ description: "What happened during the span, such as retries." }),
  children: Schema.Array(Schema.suspend((): Schema.Codec<TraceNode> => TraceNode))
}).annotate({ identifier: "TraceNode" })

export const TurnTrace = Schema.Struct({
  turn_id: Schema.String,
  session_id: Schema.String,
  trace_id: Schema.NullOr(Schema.String),
  status: Schema.String,
  started_at: Schema.NullOr(Timestamp),
  duration_ms: milliseconds,
  span_count: Schema.Int,
  spans: Schema.Array(TraceNode),
  waited_on: Schema.Array(
    Schema.Struct({
      what: Schema.Literals(["model", "tools", "database", "queue", "other"]),
      duration_ms: milliseconds,
      share: Schema.Finite,
      count: Schema.Int
    })
  ).annotate({ description: "Where the time went, most first. Work done at once is counted once for each." })
}).annotate({ identifier: "TurnTrace" })
export type TurnTrace = typeof TurnTrace.Type

export class TurnApi extends HttpApiGroup.make("turns")
  .add(
    HttpApiEndpoint.get("trace", "/turns/:turn_id/trace", {
      params: {
        turn_id: Schema.String.check(
          Schema.isPattern(/^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i, { expected: "a UUID" })
        )
      },
      success: TurnTrace,
      error: TurnNotFoundProblem
    })
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}
