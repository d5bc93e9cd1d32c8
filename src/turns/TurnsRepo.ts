/**
 * Owns the SQL of turns: accepting one, taking its session, reading what came before it, keeping what came of it, and
 * ending the turns of processes that died.
 *
 * Two turns of one session never overlap, whichever process runs them: a session's `running_turn` is taken and
 * released with its row locked. A process that was taken for dead can't end a turn any more, since that is done for it.
 */
import { Context, Effect, Layer } from "effect"
import { SqlClient, type Statement } from "effect/sql"
import type { StepUsage } from "../agent/AgentEvent.ts"
import type { RecordedCall, TurnRecord } from "../agent/Prompt.ts"
import type { SessionId } from "../api/Session.ts"
import { type DbUnavailable, guard, retrying } from "../db/DbUnavailable.ts"
import { toJsonb, toText } from "../db/Storable.ts"

/** A process not seen for this long is dead. */
export const instanceExpirySeconds = 10

/** Messages looked at for a prompt, newest first; the token budget usually keeps fewer. */
const historyTurns = 200

export type EndStatus = "completed" | "failed" | "cancelled" | "interrupted"

export interface NewTurn {
  readonly turnId: string
  readonly sessionId: SessionId
  readonly userId: string | undefined
  readonly messageId: string
  readonly message: string
  readonly context: Readonly<Record<string, unknown>> | undefined
  readonly owner: string
  /** False when turns of this process wait before it. */
  readonly mayRun: boolean
}

export interface AcceptedTurn {
  /** Position in the session, from 1. */
  readonly number: number
  /** Whether the session is this turn's already. */
  readonly running: boolean
  /** The turns before it, where they are known for certain already: a running turn's mostly are. */
  readonly history: ReadonlyArray<TurnRecord> | undefined
}

/**
 * What came of trying to take a session. `busy`: another turn has it, or came first. `ended`: the turn was ended by
 * someone else. `gone`: the turn was deleted, with its session.
 */
export type Claim = "claimed" | "busy" | "ended" | "gone"

export interface EndedTurn {
  readonly turnId: string
  readonly owner: string
  readonly status: EndStatus
  readonly model: string
  readonly errorCode: string | null
  readonly traceId: string
  /** `undefined` when nothing was said. */
  readonly reply: { readonly messageId: string; readonly content: string } | undefined
  readonly metadata: Readonly<Record<string, unknown>>
  readonly calls: ReadonlyArray<RecordedCall>
  readonly usage: ReadonlyArray<StepUsage>
}

export class TurnsRepo extends Context.Service<
  TurnsRepo,
  {
    /** Commits the user's message and the turn. From here on it counts. Makes the session when there is none. */
    readonly accept: (turn: NewTurn) => Effect.Effect<AcceptedTurn, DbUnavailable>
    /** Takes the session for a turn that waited. */
    readonly claim: (
      turnId: string,
      sessionId: SessionId,
      number: number
    ) => Effect.Effect<Claim, DbUnavailable>
    /** The turns before `number`, oldest first. */
    readonly history: (
      sessionId: SessionId,
      number: number
    ) => Effect.Effect<ReadonlyArray<TurnRecord>, DbUnavailable>
    /** Keeps what came of the turn and releases the session. False: the turn was ended by someone else, or is gone. */
    readonly end: (turn: EndedTurn) => Effect.Effect<boolean, DbUnavailable>
    /**
     * Says that this process lives and, if it `judges`, ends the turns of those that don't. Answers how many it ended.
     */
    readonly heartbeat: (owner: string, judges: boolean) => Effect.Effect<number, DbUnavailable>
    /** Ends every open turn: for a database that has had no other process. */
    readonly interruptAll: Effect.Effect<number, DbUnavailable>
  }
>()("voice-agent/turns/TurnsRepo") {
  static readonly layer: Layer.Layer<TurnsRepo, never, SqlClient.SqlClient> = Layer.effect(
    TurnsRepo,
    Effect.suspend(() => make)
  )
}

interface HistoryRow {
  readonly turn_number: number
  readonly role: "user" | "assistant"
  readonly content: string
  readonly calls: ReadonlyArray<{
    readonly step: number
    readonly call_id: string
    readonly name: string
    readonly arguments: string
    readonly text_offset: number
    readonly result: string
    readonly success: boolean
    readonly duration_ms: number
  }> | null
}

const make = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient

  /** What was said before a turn. `session` and `number` are SQL. */
  const messagesBefore = (session: Statement.Fragment, number: Statement.Fragment) => sql`
    SELECT m.turn_number, m.role, m.content, CASE WHEN m.role = 'assistant' THEN (
      SELECT json_agg(c ORDER BY c.step, c.position) FROM tool_calls c WHERE c.turn_id = m.turn_id
    ) END AS calls
    FROM messages m
    WHERE m.session_id = ${session} AND m.turn_number < ${number} AND m.turn_number >= ${number} - ${historyTurns}::integer
    ORDER BY m.turn_number, m.role = 'assistant'`

  // The history comes along where the statement's view of it is the newest: no turn ran when it began, and none was
  // accepted before the session's row was locked.
  const accept = (turn: NewTurn) =>
    sql<{
      readonly number: number
      readonly running: boolean
      readonly known: boolean
      readonly history: ReadonlyArray<HistoryRow> | null
    }>`
      WITH s AS (
        INSERT INTO sessions (id, user_id, context, message_count, turn_count, running_turn)
        VALUES (
          ${turn.sessionId}, ${turn.userId ?? null}::text, ${toJsonb(turn.context ?? {})}::text::jsonb, 1, 1,
          CASE WHEN ${turn.mayRun}::boolean THEN ${turn.turnId}::uuid END
        )
        ON CONFLICT (id) DO UPDATE SET
          message_count = sessions.message_count + 1,
          turn_count = sessions.turn_count + 1,
          last_activity = now(),
          user_id = coalesce(sessions.user_id, excluded.user_id),
          context = sessions.context || excluded.context,
          running_turn = coalesce(
            sessions.running_turn,
            -- Subqueries see what was there when the statement began. If the row has changed since, a turn they do
            -- not see may have come first.
            CASE WHEN sessions.turn_count = (
              SELECT seen.turn_count FROM sessions AS seen WHERE seen.id = sessions.id
            ) AND NOT EXISTS (
              SELECT FROM turns WHERE turns.session_id = sessions.id AND turns.status = 'accepted'
            ) THEN excluded.running_turn END
          )
        RETURNING id, turn_count, running_turn IS NOT DISTINCT FROM ${turn.turnId}::uuid AS running
      ), t AS (
        INSERT INTO turns (id, session_id, number, status, owner)
        SELECT ${turn.turnId}::uuid, id, turn_count, CASE WHEN running THEN 'running' ELSE 'accepted' END, ${turn.owner}
        FROM s
      ), m AS (
        INSERT INTO messages (id, session_id, turn_id, turn_number, role, content)
        SELECT ${turn.messageId}::uuid, id, ${turn.turnId}::uuid, turn_count, 'user', ${turn.message}
        FROM s
      )
      SELECT turn_count AS number, running, known, CASE WHEN known THEN (
        SELECT json_agg(h) FROM (${messagesBefore(sql`s.id`, sql`s.turn_count`)}) AS h
      ) END AS history
      FROM s, LATERAL (
        SELECT s.running AND s.turn_count = 1 + coalesce((
          SELECT CASE WHEN seen.running_turn IS NULL THEN seen.turn_count END FROM sessions AS seen WHERE seen.id = s.id
        ), 0) AS known
      ) AS k`.pipe(
      Effect.map(
        ([row]): AcceptedTurn => ({
          number: row?.number ?? 0,
          running: row?.running ?? false,
          history: row?.known === true ? toTurns(row.history ?? []) : undefined
        })
      ),
      retrying
    )

  // The turn's row is locked before its session's, as everywhere, so that no two statements wait for each other.
  const claim = (turnId: string, sessionId: SessionId, number: number) =>
    sql<{ readonly claimed: boolean; readonly status: string | null }>`
      WITH t AS (
        SELECT id FROM turns WHERE id = ${turnId}::uuid AND status = 'accepted' FOR UPDATE
      ), s AS (
        UPDATE sessions SET running_turn = t.id FROM t
        WHERE sessions.id = ${sessionId} AND sessions.running_turn IS NULL AND NOT EXISTS (
          SELECT FROM turns
          WHERE turns.session_id = ${sessionId} AND turns.status = 'accepted' AND turns.number < ${number}
        )
        RETURNING t.id
      ), c AS (
        UPDATE turns SET status = 'running' FROM s WHERE turns.id = s.id RETURNING 1
      )
      SELECT EXISTS (SELECT FROM c) AS claimed, (SELECT status FROM turns WHERE id = ${turnId}::uuid) AS status`.pipe(
      Effect.map(([row]): Claim => {
        if (row?.claimed === true) return "claimed"
        if (row?.status === "accepted") return "busy"
        return row?.status == null ? "gone" : "ended"
      }),
      retrying
    )

  const history = (sessionId: SessionId, number: number) =>
    sql<HistoryRow>`${messagesBefore(sql`${sessionId}`, sql`${number}::integer`)}`.pipe(
      Effect.map(toTurns),
      (rows) => retrying(rows, { idempotent: true })
    )

  const end = (turn: EndedTurn) =>
    sql`
      WITH t AS (
        UPDATE turns SET
          status = ${turn.status}, model = ${toText(turn.model)}, error_code = ${turn.errorCode}, trace_id = ${turn.traceId},
          ended_at = now()
        WHERE id = ${turn.turnId}::uuid AND owner = ${turn.owner} AND status IN ('accepted', 'running')
        RETURNING id, session_id, number
      ), m AS (
        INSERT INTO messages (id, session_id, turn_id, turn_number, role, content, metadata)
        SELECT
          ${turn.reply?.messageId ?? null}::uuid, session_id, id, number, 'assistant',
          ${toText(turn.reply?.content ?? "")}, ${toJsonb(turn.metadata)}::text::jsonb
        FROM t WHERE ${turn.reply !== undefined}::boolean
        RETURNING 1
      ), c AS (
        INSERT INTO tool_calls (
          turn_id, step, position, call_id, name, arguments, text_offset, result, success, duration_ms
        )
        SELECT t.id, x.step, x.position, x.id, x.name, x.arguments, x."textOffset", x.result, x.success, x."durationMillis"
        FROM t, jsonb_to_recordset(${toJsonb(turn.calls.map((call, position) => ({ ...call, position })))}::text::jsonb) AS x (
          step smallint, position smallint, id text, name text, arguments text, "textOffset" integer, result text,
          success boolean, "durationMillis" double precision
        )
      ), u AS (
        INSERT INTO usage (turn_id, step, model, prompt_tokens, completion_tokens)
        SELECT t.id, x.step, x.model, x."promptTokens", x."completionTokens"
        FROM t, jsonb_to_recordset(${toJsonb(turn.usage)}::text::jsonb) AS x (
          step smallint, model text, "promptTokens" integer, "completionTokens" integer
        )
      )
      UPDATE sessions SET
        running_turn = nullif(running_turn, t.id),
        message_count = message_count + (SELECT count(*) FROM m),
        last_activity = now()
      FROM t WHERE sessions.id = t.session_id
      RETURNING 1 AS ended`.pipe(
      Effect.flatMap((rows) => (rows.length > 0 ? Effect.succeed(true) : wasEnded(turn))),
      (ended) => retrying(ended, { idempotent: true })
    )

  /** Whether an earlier try, whose answer was lost, had stored this very end. */
  const wasEnded = (turn: EndedTurn) =>
    sql`
      SELECT 1 AS ended FROM turns
      WHERE id = ${turn.turnId}::uuid AND owner = ${turn.owner} AND status = ${turn.status}
        AND (${turn.reply === undefined}::boolean OR EXISTS (
          SELECT FROM messages WHERE messages.id = ${turn.reply?.messageId ?? null}::uuid
        ))`.pipe(Effect.map((rows) => rows.length > 0))

  const heartbeat = (owner: string, judges: boolean) =>
    sql<{ readonly ended: number }>`
      WITH me AS (
        INSERT INTO instances (id) VALUES (${owner})
        ON CONFLICT (id) DO UPDATE SET seen_at = now()
      ), gone AS (
        DELETE FROM instances WHERE id <> ${owner} AND seen_at < now() - interval '1 day'
      ), dead AS (
        UPDATE turns SET status = 'interrupted', ended_at = now()
        WHERE id IN (
          SELECT id FROM turns AS open
          WHERE ${judges}::boolean AND status IN ('accepted', 'running') AND owner <> ${owner} AND NOT EXISTS (
            SELECT FROM instances
            WHERE instances.id = open.owner
              AND instances.seen_at > now() - make_interval(secs => ${instanceExpirySeconds})
          )
          -- What someone else is at can wait for the next heartbeat.
          FOR UPDATE SKIP LOCKED
        )
        RETURNING id, session_id
      ), freed AS (
        -- Found by session, not by running_turn: that may have been set since the statement began, and only columns
        -- of a row that was found are read anew.
        UPDATE sessions SET running_turn = CASE WHEN running_turn = ANY (d.ids) THEN NULL ELSE running_turn END
        FROM (SELECT session_id, array_agg(id) AS ids FROM dead GROUP BY session_id) AS d
        WHERE sessions.id = d.session_id
      )
      SELECT count(*)::integer AS ended FROM dead`.pipe(
      Effect.map(([row]) => row?.ended ?? 0),
      guard
    )

  const interruptAll = sql`
    WITH dead AS (
      UPDATE turns SET status = 'interrupted', ended_at = now() WHERE status IN ('accepted', 'running') RETURNING id
    ), freed AS (
      UPDATE sessions SET running_turn = NULL WHERE running_turn IN (SELECT id FROM dead)
    )
    SELECT id FROM dead`.pipe(
    Effect.map((rows) => rows.length),
    guard
  )

  return TurnsRepo.of({ accept, claim, history, end, heartbeat, interruptAll })
})

const toTurns = (rows: ReadonlyArray<HistoryRow>): ReadonlyArray<TurnRecord> => {
  const turns = new Map<number, { user: string; reply: string; calls: ReadonlyArray<RecordedCall> }>()
  for (const row of rows) {
    const turn = turns.get(row.turn_number) ?? { user: "", reply: "", calls: [] }
    turns.set(row.turn_number, turn)
    if (row.role === "user") {
      turn.user = row.content
    } else {
      turn.reply = row.content
      turn.calls = (row.calls ?? []).map((call) => ({
        step: call.step,
        id: call.call_id,
        name: call.name,
        arguments: call.arguments,
        textOffset: call.text_offset,
        result: call.result,
        success: call.success,
        durationMillis: call.duration_ms
      }))
    }
  }
  return Array.from(turns.values())
}
