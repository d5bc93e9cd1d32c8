/**
 * Owns the wire shapes of chat: one message in, a reply or a stream of events out.
 */
import { Schema } from "effect"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import * as HttpApiSchema from "effect/http-api/HttpApiSchema"
import * as OpenApi from "effect/http-api/OpenApi"
import { ChatEvent } from "./ChatEvent.ts"
import { absent, ClientName, flag, JsonObject, limited, MessageText, Success, Timestamp } from "./Fields.ts"
import { ForbiddenProblem, UpgradeRequiredProblem } from "./Problems.ts"
import { Authorization } from "./Security.ts"
import { SessionId } from "./Session.ts"

export const ModelVariant = Schema.Literals(["default", "fast", "creative"])

export const ModelParams = Schema.Struct({
  model: absent(Schema.String.check(Schema.isBetweenCodePoints(1, 200, { expected: "1 to 200 characters" }))),
  temperature: absent(
    Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 2 }, { expected: "a number from 0 to 2" }))
  ),
  max_tokens: absent(
    Schema.Int.check(
      Schema.isBetween({ minimum: 1, maximum: 32_000 }, { expected: "a whole number from 1 to 32000" })
    )
  )
})

const conversation = {
  message: MessageText,
  session_id: absent(SessionId),
  user_id: absent(ClientName),
  model_variant: absent(ModelVariant)
}

export const ChatRequest = Schema.Struct({
  ...conversation,
  context: absent(JsonObject),
  stream: absent(Schema.Boolean),
  model_params: absent(ModelParams),
  model_config: absent(ModelParams),
  model_config_override: absent(ModelParams)
}).annotate({ identifier: "ChatRequest" })
export type ChatRequest = typeof ChatRequest.Type

export const ChatReply = Schema.Struct({
  success: Success,
  response: Schema.String,
  session_id: Schema.String,
  message_id: Schema.NullOr(Schema.String),
  timestamp: Timestamp,
  intent: Schema.String,
  confidence: Schema.Finite,
  tool_calls: Schema.Int,
  processing_time_ms: Schema.Finite,
  error: Schema.NullOr(Schema.String),
  error_code: Schema.NullOr(Schema.String)
}).annotate({ identifier: "ChatReply" })

export const ChatHistory = Schema.Struct({
  success: Success,
  session_id: Schema.String,
  messages: Schema.Array(
    Schema.Struct({
      id: Schema.String,
      role: Schema.Literals(["user", "assistant"]),
      content: Schema.String,
      timestamp: Timestamp,
      metadata: Schema.NullOr(Schema.Record(Schema.String, Schema.Unknown))
    })
  ),
  total_count: Schema.Int,
  has_more: Schema.Boolean,
  error: Schema.NullOr(Schema.String)
})

/** A frame a client sends over WebSocket to start a turn. */
export const ChatFrame = Schema.Struct({
  ...conversation,
  context: absent(JsonObject),
  model_params: absent(ModelParams),
  model_config: absent(ModelParams),
  model_config_override: absent(ModelParams)
}).annotate({ identifier: "ChatFrame" })

/** Frames a client sends over WebSocket that are not messages. */
export const ControlFrame = Schema.Union([
  Schema.Struct({ type: Schema.Literal("cancel"), session_id: absent(SessionId) }),
  Schema.Struct({ type: Schema.Literal("close") })
]).annotate({ identifier: "ControlFrame" })

const socket = {
  success: HttpApiSchema.Empty(101),
  error: [UpgradeRequiredProblem, ForbiddenProblem] as const
}

const socketDescription =
  "WebSocket, text frames of JSON: `ChatFrame` and `ControlFrame` from the client, `ChatEvent` from the server."

const events = HttpApiSchema.StreamSse({ data: ChatEvent })

export class ChatApi extends HttpApiGroup.make("chat")
  .add(
    HttpApiEndpoint.post("send", "/chat", { payload: ChatRequest, success: [ChatReply, events] }),
    HttpApiEndpoint.post("stream", "/chat/stream", { payload: ChatRequest, success: events }),
    HttpApiEndpoint.get("streamByQuery", "/chat/stream", {
      query: conversation,
      success: [events, HttpApiSchema.NoContent]
    }),
    HttpApiEndpoint.get("history", "/chat/history/:session_id", {
      params: { session_id: SessionId },
      query: {
        limit: Schema.optionalKey(limited(1, 200)),
        offset: Schema.optionalKey(limited(0, 1_000_000_000)),
        include_metadata: Schema.optionalKey(flag)
      },
      success: ChatHistory
    }),
    HttpApiEndpoint.get("socket", "/chat/ws", socket).annotate(OpenApi.Description, socketDescription)
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}

/** The WebSocket's other address, at the root. */
export class RootSocketApi extends HttpApiGroup.make("rootSocket")
  .add(HttpApiEndpoint.get("socket", "/ws", socket).annotate(OpenApi.Description, socketDescription))
  .middleware(Authorization) {}
