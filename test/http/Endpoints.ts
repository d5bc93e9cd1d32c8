/**
 * Owns the contract's responses as shapes, and a request that brings about each.
 */
import type { Shape } from "./Shape.ts"

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
export const mintedSession = /^session_[0-9a-f]{12}$/

const chat: Shape = {
  success: "true",
  response: "text",
  session_id: mintedSession,
  message_id: uuid,
  timestamp: "timestamp",
  intent: "text",
  confidence: "number",
  tool_calls: "integer",
  processing_time_ms: "number",
  error: "null",
  error_code: "null"
}

export const history = (metadata: Shape): Shape => ({
  success: "true",
  session_id: "text",
  messages: [{ id: uuid, role: /^(user|assistant)$/, content: "text", timestamp: "timestamp", metadata }],
  total_count: "integer",
  has_more: "boolean",
  error: "null"
})

const session: Shape = {
  success: "true",
  session: {
    session_id: "text",
    user_id: "string|null",
    created_at: "timestamp",
    last_activity: "timestamp",
    message_count: "integer",
    active: "true"
  },
  message: "text",
  error: "null"
}

const tool: Shape = {
  name: "text",
  description: "text",
  parameters: [
    {
      name: "text",
      type: "text",
      description: "text",
      required: "boolean",
      default: "any",
      enum: "list|null"
    }
  ]
}

const toolList: Shape = { success: "true", tools: [tool], total: "integer" }

const schemaList: Shape = {
  success: "true",
  schemas: [
    {
      type: /^function$/,
      function: {
        name: "text",
        description: "text",
        parameters: { type: /^object$/, properties: "object", required: "list" }
      }
    }
  ],
  total: "integer"
}

const toolResult: Shape = { success: "true", data: "object", error: "null", metadata: "object" }

export interface Endpoint {
  /** With the method. */
  readonly name: string
  readonly path: string
  readonly body?: object
  /** Every optional field, as `null`. */
  readonly nulls?: object
  readonly shape: Shape
}

/** The session these requests are about, where they are about one. */
export const seededSession = "seeded / ✓"
const seeded = encodeURIComponent(seededSession)

const settings = { model_variant: null, model_params: null, model_config: null, model_config_override: null }
const sum = { expression: "6*7" }

export const endpoints: ReadonlyArray<Endpoint> = [
  {
    name: "POST /chat",
    path: "/chat",
    body: { message: "Hello" },
    nulls: { session_id: null, user_id: null, context: null, stream: null, ...settings },
    shape: chat
  },
  { name: "GET /chat/history/{session_id}", path: `/chat/history/${seeded}`, shape: history("null") },
  {
    name: "POST /session",
    path: "/session",
    body: {},
    nulls: { user_id: null, initial_context: null },
    shape: session
  },
  { name: "GET /session/{id}", path: `/session/${seeded}`, shape: session },
  {
    name: "GET /session/{id}/history",
    path: `/session/${seeded}/history`,
    shape: {
      session_id: "text",
      message_count: "integer",
      messages: [{ role: /^(user|assistant)$/, content: "text", timestamp: "timestamp" }]
    }
  },
  {
    name: "POST /conversation/message",
    path: "/conversation/message",
    body: { text: "Hello", output_mode: "text" },
    nulls: { voice: null, speed: null, volume: null, pitch: null, session_id: null, user_id: null },
    shape: {
      success: "true",
      session_id: mintedSession,
      user_input: "text",
      agent_response: "text",
      output_mode: /^text$/,
      input_metadata: "object",
      agent_metadata: "object",
      audio_size: "integer",
      voice: "string|null",
      error: "null",
      timestamp: "timestamp"
    }
  },
  { name: "GET /tools", path: "/tools", shape: toolList },
  { name: "GET /tools/schemas", path: "/tools/schemas", shape: schemaList },
  {
    name: "POST /tools/execute/{name}",
    path: "/tools/execute/calculator",
    body: sum,
    shape: { success: "true", tool: /^calculator$/, result: toolResult }
  },
  { name: "GET /mcp/tools", path: "/mcp/tools", shape: toolList },
  { name: "GET /mcp/tools/{name}", path: "/mcp/tools/calculator", shape: tool },
  { name: "GET /mcp/schemas", path: "/mcp/schemas", shape: schemaList },
  {
    name: "GET /mcp/status",
    path: "/mcp/status",
    shape: { success: "true", status: "text", total_tools: "integer", tools: ["text"] }
  },
  {
    name: "POST /mcp/execute",
    path: "/mcp/execute",
    body: { tool_name: "calculator", arguments: sum },
    shape: toolResult
  },
  {
    name: "POST /mcp/execute/batch",
    path: "/mcp/execute/batch",
    body: [
      { tool_name: "calculator", arguments: sum },
      { tool_name: "get_time", arguments: null }
    ],
    shape: { results: [toolResult], total: "integer", successful: "integer", failed: "integer" }
  },
  {
    name: "GET /health",
    path: "/health",
    shape: {
      status: /^healthy$/,
      timestamp: "timestamp",
      version: /^\d+\.\d+\.\d+/,
      uptime_seconds: "number",
      components: [
        {
          name: "text",
          status: /^healthy$/,
          message: "text",
          response_time_ms: "number",
          last_check: "timestamp"
        }
      ],
      metrics: "object"
    }
  },
  { name: "GET /health/live", path: "/health/live", shape: { status: /^alive$/ } },
  { name: "GET /health/ready", path: "/health/ready", shape: { status: /^ready$/ } },
  {
    name: "GET /info",
    path: "/info",
    shape: {
      name: "text",
      version: /^\d+\.\d+\.\d+/,
      models: { provider: "text", default: "text", fast: "text", creative: "text", fallbacks: "list" },
      tools: ["text"],
      features: "object"
    }
  }
]
