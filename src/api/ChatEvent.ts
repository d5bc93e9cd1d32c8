/**
 * Owns what a client sees of a turn while it runs: the events of the wire contract and their schemas.
 *
 * Does not make, number or send them (`http/V1Events.ts` does). No server code, so that clients can import it.
 */
import { Schema } from "effect"

const Usage = Schema.Struct({
  prompt_tokens: Schema.Int,
  completion_tokens: Schema.Int,
  total_tokens: Schema.Int
})
export type Usage = typeof Usage.Type

const ToolCall = Schema.Struct({
  id: Schema.String,
  type: Schema.Literal("function"),
  function: Schema.Struct({
    name: Schema.String,
    arguments: Schema.String.annotate({ description: "A JSON document, as a string." })
  })
})

const EndMetadata = Schema.Struct({
  message_id: Schema.NullOr(Schema.String),
  tool_calls: Schema.Int,
  model: Schema.String,
  usage: Schema.NullOr(Usage),
  processing_time_ms: Schema.Finite,
  trace_id: Schema.String
})

const envelope = {
  version: Schema.Literal("1.0"),
  id: Schema.String.annotate({ description: "evt_<16 hex>" }),
  timestamp: Schema.String.annotate({ description: "ISO 8601, UTC" }),
  session_id: Schema.String
}

export const StreamEvent = Schema.Union([
  Schema.Struct({
    ...envelope,
    type: Schema.Literal("start"),
    model: Schema.String,
    turn_id: Schema.String
  }),
  Schema.Struct({
    ...envelope,
    type: Schema.Literal("delta"),
    content: Schema.String,
    metadata: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown))
  }),
  Schema.Struct({
    ...envelope,
    type: Schema.Literal("tool_calls"),
    tool_calls: Schema.Array(ToolCall)
  }),
  Schema.Struct({
    ...envelope,
    type: Schema.Literal("end"),
    content: Schema.String,
    metadata: EndMetadata
  }),
  Schema.Struct({
    ...envelope,
    type: Schema.Literal("error"),
    error: Schema.String,
    error_code: Schema.String
  }),
  Schema.Struct({
    ...envelope,
    type: Schema.Literal("cancelled"),
    reason: Schema.String
  })
]).annotate({ identifier: "StreamEvent" })
export type StreamEvent = typeof StreamEvent.Type

export const Node = Schema.Literals(["process_input", "call_llm", "handle_tools", "format_response"])
export type Node = typeof Node.Type

const workflow = <const Level extends string, const Type extends string, Data extends Schema.Struct.Fields>(
  level: Level,
  type: Type,
  data: Data
) =>
  Schema.Struct({
    level: Schema.Literal(level),
    type: Schema.Literal(type),
    timestamp: Schema.Finite.annotate({ description: "Milliseconds since the turn began." }),
    session_id: Schema.String,
    data: Schema.Struct(data)
  })

export const WorkflowEvent = Schema.Union([
  workflow("graph", "workflow_started", { user_input: Schema.String }),
  workflow("graph", "node_started", { node: Node, display_name: Schema.String }),
  workflow("graph", "node_finished", {
    node: Node,
    display_name: Schema.String,
    duration_ms: Schema.Finite
  }),
  workflow("graph", "route_decision", { from: Node, to: Node, reason: Schema.String }),
  workflow("graph", "workflow_complete", { total_duration_ms: Schema.Finite }),
  workflow("node", "thinking_phase", { phase: Schema.String, node: Node, details: Schema.String }),
  workflow("node", "tool_call_pending", { tool: Schema.String, args: Schema.Unknown }),
  workflow("node", "tool_executing", { tool: Schema.String }),
  workflow("node", "tool_result", {
    tool: Schema.String,
    success: Schema.Boolean,
    summary: Schema.String,
    duration_ms: Schema.Finite
  }),
  workflow("node", "llm_streaming", { phase: Schema.String, details: Schema.String }),
  workflow("node", "token_usage", Usage.fields)
]).annotate({ identifier: "WorkflowEvent" })
export type WorkflowEvent = typeof WorkflowEvent.Type

/** Everything a stream may carry. */
export const ChatEvent = Schema.Union([StreamEvent, WorkflowEvent]).annotate({ identifier: "ChatEvent" })
