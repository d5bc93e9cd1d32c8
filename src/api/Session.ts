/**
 * Owns what a session is: its id, its shape, its errors. No server code, so that clients can import it.
 */
import { Schema } from "effect"
import { storable } from "./text.ts"

/** 1 to 255 characters of the client's choice, or minted as `session_<12 hex>`. */
export const SessionId = Schema.String.check(
  Schema.isBetweenCodePoints(1, 255, { expected: "1 to 255 characters" }),
  storable
).pipe(Schema.brand("SessionId"))
export type SessionId = typeof SessionId.Type

export const mintSessionId = (): SessionId =>
  SessionId.make(`session_${crypto.randomUUID().replaceAll("-", "").slice(0, 12)}`)

export interface Session {
  readonly id: SessionId
  readonly userId: string | null
  readonly context: Readonly<Record<string, unknown>>
  readonly createdAt: Date
  readonly lastActivity: Date
  readonly messageCount: number
}

/** One entry of a session's history. */
export interface Message {
  readonly id: string
  readonly role: "user" | "assistant"
  readonly content: string
  readonly createdAt: Date
  /** On the assistant's: `status` when the turn did not complete, `tool_calls`, `model`. */
  readonly metadata: Readonly<Record<string, unknown>>
}

export class SessionNotFound extends Schema.TaggedError<SessionNotFound>()("SessionNotFound", {
  sessionId: Schema.String
}) {
  override get message() {
    return `There is no session ${JSON.stringify(this.sessionId.slice(0, 100))}.`
  }
}
