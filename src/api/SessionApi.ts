/**
 * Owns the wire shapes of sessions.
 */
import { Schema } from "effect"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import { absent, ClientName, JsonObject, limited, Success, Timestamp } from "./Fields.ts"
import { SessionNotFoundProblem } from "./Problems.ts"
import { Authorization } from "./Security.ts"
import { SessionId } from "./Session.ts"

const SessionReply = Schema.Struct({
  success: Success,
  session: Schema.Struct({
    session_id: Schema.String,
    user_id: Schema.NullOr(Schema.String),
    created_at: Timestamp,
    last_activity: Timestamp,
    message_count: Schema.Int,
    active: Schema.Boolean
  }),
  message: Schema.String,
  error: Schema.NullOr(Schema.String)
}).annotate({ identifier: "SessionReply" })
export type SessionReply = typeof SessionReply.Type

const byId = { id: SessionId }

export class SessionApi extends HttpApiGroup.make("session")
  .add(
    HttpApiEndpoint.post("create", "/session", {
      payload: Schema.Struct({ user_id: absent(ClientName), initial_context: absent(JsonObject) }),
      success: SessionReply
    }),
    HttpApiEndpoint.get("get", "/session/:id", {
      params: byId,
      success: SessionReply,
      error: SessionNotFoundProblem
    }),
    HttpApiEndpoint.delete("remove", "/session/:id", {
      params: byId,
      success: Schema.Struct({ success: Success, message: Schema.String, session_id: Schema.String }),
      error: SessionNotFoundProblem
    }),
    HttpApiEndpoint.get("history", "/session/:id/history", {
      params: byId,
      query: { limit: Schema.optionalKey(limited(1, 200)) },
      success: Schema.Struct({
        session_id: Schema.String,
        message_count: Schema.Int,
        messages: Schema.Array(
          Schema.Struct({ role: Schema.String, content: Schema.String, timestamp: Timestamp })
        )
      }),
      error: SessionNotFoundProblem
    })
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}
