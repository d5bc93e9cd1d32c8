/**
 * Owns sessions: making, finding, removing them, and reading their history.
 *
 * Does not add to a history (turns do) and does not know HTTP.
 */
import { Context, Effect, Layer } from "effect"
import { type Message, mintSessionId, type Session, type SessionId, SessionNotFound } from "../api/Session.ts"
import type { DbUnavailable } from "../db/DbUnavailable.ts"
import { SessionsRepo } from "./SessionsRepo.ts"

export class Sessions extends Context.Service<
  Sessions,
  {
    readonly create: (options: {
      readonly userId: string | undefined
      readonly context: Readonly<Record<string, unknown>>
    }) => Effect.Effect<Session, DbUnavailable>
    readonly get: (id: SessionId) => Effect.Effect<Session, SessionNotFound | DbUnavailable>
    /** Removes the session with its messages and turns. */
    readonly remove: (id: SessionId) => Effect.Effect<void, SessionNotFound | DbUnavailable>
    /** Oldest first. A session that does not exist has no messages. */
    readonly history: (
      id: SessionId,
      page: { readonly limit: number; readonly offset: number }
    ) => Effect.Effect<{ readonly messages: ReadonlyArray<Message>; readonly total: number }, DbUnavailable>
  }
>()("voice-agent/sessions/Sessions") {
  static readonly layerNoDeps: Layer.Layer<Sessions, never, SessionsRepo> = Layer.effect(
    Sessions,
    Effect.gen(function* () {
      const repo = yield* SessionsRepo

      const create = (options: {
        readonly userId: string | undefined
        readonly context: Readonly<Record<string, unknown>>
      }): Effect.Effect<Session, DbUnavailable> =>
        Effect.flatMap(repo.insert({ id: mintSessionId(), ...options }), (session) =>
          // Twelve hex digits do collide once in a great while.
          session === undefined ? create(options) : Effect.succeed(session)
        )

      return Sessions.of({
        create,
        get: (id) =>
          Effect.flatMap(repo.find(id), (session) =>
            session === undefined ? new SessionNotFound({ sessionId: id }) : Effect.succeed(session)
          ),
        remove: (id) =>
          Effect.flatMap(repo.remove(id), (removed) =>
            removed ? Effect.void : new SessionNotFound({ sessionId: id })
          ),
        history: repo.messages
      })
    })
  )
}
