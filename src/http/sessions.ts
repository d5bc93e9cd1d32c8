/**
 * Owns the handlers of sessions.
 */
import { Effect } from "effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import { Api } from "../api/Api.ts"
import { SessionNotFoundProblem } from "../api/Problems.ts"
import { type Session, SessionNotFound } from "../api/Session.ts"
import type { SessionReply } from "../api/SessionApi.ts"
import { Sessions } from "../sessions/Sessions.ts"
import { Turns } from "../turns/Turns.ts"
import { unavailable } from "./unavailable.ts"

const reply = (session: Session, message: string): SessionReply => ({
  success: true,
  session: {
    session_id: session.id,
    user_id: session.userId,
    created_at: session.createdAt.toISOString(),
    last_activity: session.lastActivity.toISOString(),
    message_count: session.messageCount,
    active: true
  },
  message,
  error: null
})

const notFound = <A, E>(effect: Effect.Effect<A, E | SessionNotFound>) =>
  Effect.mapError(effect, (error) =>
    error instanceof SessionNotFound
      ? new SessionNotFoundProblem({ detail: error.message })
      : (error as Exclude<E, SessionNotFound>)
  )

export const layerSessionHandlers = HttpApiBuilder.group(
  Api,
  "session",
  Effect.fnUntraced(function* (handlers) {
    const sessions = yield* Sessions
    const turns = yield* Turns
    return handlers
      .handle("create", ({ payload }) =>
        sessions
          .create({ userId: payload.user_id ?? undefined, context: payload.initial_context ?? {} })
          .pipe(
            Effect.map((session) => reply(session, "The session was created.")),
            unavailable
          )
      )
      .handle("get", ({ params }) =>
        sessions.get(params.id).pipe(
          Effect.map((session) => reply(session, "The session was found.")),
          notFound,
          unavailable
        )
      )
      .handle("remove", ({ params }) =>
        turns
          .cancelSession(params.id, "session_deleted")
          .pipe(
            Effect.andThen(sessions.remove(params.id)),
            Effect.as({ success: true, message: "The session was deleted.", session_id: params.id }),
            notFound,
            unavailable
          )
      )
      .handle("history", ({ params, query }) =>
        Effect.gen(function* () {
          const session = yield* sessions.get(params.id)
          const { messages, total } = yield* sessions.history(session.id, {
            limit: query.limit ?? 50,
            offset: 0
          })
          return {
            session_id: session.id,
            message_count: total,
            messages: messages.map((message) => ({
              role: message.role,
              content: message.content,
              timestamp: message.createdAt.toISOString()
            }))
          }
        }).pipe(notFound, unavailable)
      )
  })
)
