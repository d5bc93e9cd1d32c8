/**
 * Owns the wire shapes of a conversation, text in and text out.
 */
import { Schema } from "effect"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import { absent, ClientName, MessageText, Success, Timestamp } from "./Fields.ts"
import { Authorization } from "./Security.ts"
import { SessionId } from "./Session.ts"

const percent = absent(
  Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 100 }, { expected: "a number from 0 to 100" }))
)

/** A body of audio alone has an endpoint of its own. */
const OutputMode = Schema.Literals(["text", "both", "audio"]).check(
  Schema.makeFilter(
    (mode) =>
      mode !== "audio" || "must be text or both; for audio use POST /api/v1/conversation/message-stream"
  )
)

const Metadata = Schema.Record(Schema.String, Schema.Unknown)

export class ConversationApi extends HttpApiGroup.make("conversation")
  .add(
    HttpApiEndpoint.post("message", "/conversation/message", {
      payload: Schema.Struct({
        text: MessageText,
        output_mode: absent(OutputMode),
        voice: absent(ClientName),
        speed: percent,
        volume: percent,
        pitch: percent,
        session_id: absent(SessionId),
        user_id: absent(ClientName)
      }),
      success: Schema.Struct({
        success: Success,
        session_id: Schema.String,
        user_input: Schema.String,
        agent_response: Schema.String,
        output_mode: Schema.String,
        input_metadata: Metadata,
        agent_metadata: Metadata,
        audio_size: Schema.Int.annotate({ description: "Bytes of speech; 0 when none was made." }),
        voice: Schema.NullOr(Schema.String),
        error: Schema.NullOr(Schema.String),
        timestamp: Timestamp
      })
    })
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}
