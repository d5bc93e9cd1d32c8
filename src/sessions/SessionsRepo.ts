/**
 * Owns the SQL of sessions and of reading their history. Messages are written by turns, not here.
 */
import { Context, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import type { Message, Session, SessionId } from "../api/Session.ts"
import { type DbUnavailable, retrying } from "../db/DbUnavailable.ts"
import { toJsonb } from "../db/Storable.ts"

export class SessionsRepo extends Context.Service<
  SessionsRepo,
  {
    readonly insert: (session: {
      readonly id: SessionId
      readonly userId: string | undefined
      readonly context: Readonly<Record<string, unknown>>
    }) => Effect.Effect<Session | undefined, DbUnavailable>
    readonly find: (id: SessionId) => Effect.Effect<Session | undefined, DbUnavailable>
    /** Removes the session and all that hangs on it. Answers whether there was one. */
    readonly remove: (id: SessionId) => Effect.Effect<boolean, DbUnavailable>
    /** Oldest first; `offset` counts from the oldest. */
    readonly messages: (
      id: SessionId,
      page: { readonly limit: number; readonly offset: number }
    ) => Effect.Effect<{ readonly messages: ReadonlyArray<Message>; readonly total: number }, DbUnavailable>
  }
>()("voice-agent/sessions/SessionsRepo") {
  static readonly layer: Layer.Layer<SessionsRepo, never, SqlClient.SqlClient> = Layer.effect(
    SessionsRepo,
    Effect.suspend(() => make)
  )
}

const read = <A, E>(effect: Effect.Effect<A, E>) => retrying(effect, { idempotent: true })

interface MessageRow extends Message {
  readonly total: number
}

const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient

  const columns = sql.literal(`
    id, user_id AS "userId", context, created_at AS "createdAt", last_activity AS "lastActivity",
    message_count AS "messageCount"`)

  return SessionsRepo.of({
    insert: ({ id, userId, context }) =>
      sql<Session>`
        INSERT INTO sessions (id, user_id, context)
        VALUES (${id}, ${userId ?? null}::text, ${toJsonb(context)}::text::jsonb)
        ON CONFLICT DO NOTHING
        RETURNING ${columns}`.pipe(
        Effect.map(([row]) => row),
        retrying
      ),

    find: (id) =>
      sql<Session>`SELECT ${columns} FROM sessions WHERE id = ${id}`.pipe(
        Effect.map(([row]) => row),
        read
      ),

    remove: (id) =>
      sql`
        WITH spans AS (DELETE FROM trace_spans WHERE session_id = ${id}),
          samples AS (UPDATE performance_metrics SET session_id = NULL WHERE session_id = ${id})
        DELETE FROM sessions WHERE id = ${id} RETURNING 1 AS removed`.pipe(
        Effect.map((rows) => rows.length > 0),
        retrying
      ),

    messages: (id, { limit, offset }) =>
      sql<MessageRow>`
        SELECT id, role, content, metadata, created_at AS "createdAt", total FROM (
          SELECT *, count(*) OVER ()::integer AS total FROM messages WHERE session_id = ${id}
        ) m
        ORDER BY turn_number, role = 'assistant' LIMIT ${limit} OFFSET ${offset}`.pipe(
        Effect.flatMap((rows) =>
          rows[0] !== undefined
            ? Effect.succeed({ messages: rows, total: rows[0].total })
            : sql<{ readonly total: number }>`
                SELECT count(*)::integer AS total FROM messages WHERE session_id = ${id}`.pipe(
                Effect.map(([row]) => ({ messages: [], total: row?.total ?? 0 }))
              )
        ),
        read
      )
  })
})
