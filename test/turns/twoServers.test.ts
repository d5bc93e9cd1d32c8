import { assert, layer } from "@effect/vitest"
import { Context, Duration, Effect, Fiber, Layer } from "effect"
import type { SqlClient } from "effect/sql"
import { Reply, ScriptedModel, type ScriptedRequestBody } from "voice-agent-api/testing"
import { type AppServer, make } from "../support/AppServer.ts"
import { ask, eventually, historyOf, openSocket, openStream } from "../support/ChatClient.ts"
import * as TestDb from "../support/TestDb.ts"
import { faultOf } from "../support/validRequest.ts"

const lastUser = ({ messages }: ScriptedRequestBody): string =>
  String(messages.findLast(({ role }) => role === "user")?.content)

/** What holds a reply back, by the message it answers. */
const gates = new Map<string, PromiseWithResolvers<void>>()
const hold = (message: string) => {
  const gate = Promise.withResolvers<void>()
  gates.set(message, gate)
  return Effect.sync(() => gate.resolve())
}

const echo = async (body: ScriptedRequestBody) => {
  const message = lastUser(body)
  await gates.get(message)?.promise
  return Reply.text(["re: ", message], { delayMillis: 0 })
}

class TwoServers extends Context.Service<TwoServers, { readonly a: AppServer; readonly b: AppServer }>()(
  "voice-agent/test/TwoServers"
) {
  static readonly layer = Layer.effect(
    TwoServers,
    Effect.gen(function* () {
      const model = yield* ScriptedModel.serve(echo)
      const db = yield* Layer.build(TestDb.layer)
      const options = {
        // Not connected to: it says that the database may have other processes.
        settings: { DATABASE_URL: "postgres://elsewhere/unused" },
        pace: { heartbeatEvery: Duration.millis(50), claimEvery: Duration.millis(10) }
      }
      return { a: yield* make(db, model, options), b: yield* make(db, model, options) }
    })
  )
}

const say = (server: AppServer, session_id: string, message: string) =>
  ask(`${server.url}/api/v1/chat`, { message, session_id })

const accept = (server: AppServer, session_id: string, message: string) =>
  Effect.gen(function* () {
    const stream = yield* openStream(`${server.url}/api/v1/chat/stream`, { message, session_id })
    yield* stream.until("start")
    return stream
  })

interface TurnRow {
  readonly number: number
  readonly status: string
}

const turnsOf = (sql: SqlClient.SqlClient, session_id: string) =>
  Effect.orDie(
    sql<TurnRow>`SELECT number, status FROM turns WHERE session_id = ${session_id} ORDER BY number`
  )

/** A session as a process leaves it: a turn that runs, then turns that wait, none answered. */
const leaveBehind = Effect.fnUntraced(function* (
  sql: SqlClient.SqlClient,
  sessionId: string,
  owner: { readonly id: string; readonly seenSecondsAgo: number | undefined },
  messages: ReadonlyArray<string>
) {
  if (owner.seenSecondsAgo !== undefined) {
    yield* sql`
      INSERT INTO instances (id, seen_at)
      VALUES (${owner.id}, now() - make_interval(secs => ${owner.seenSecondsAgo}))
      ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at`
  }
  const ids = messages.map(() => crypto.randomUUID())
  yield* sql`
    INSERT INTO sessions (id, message_count, turn_count, running_turn)
    VALUES (${sessionId}, ${messages.length}, ${messages.length}, ${ids[0] ?? null}::uuid)`
  for (const [n, message] of messages.entries()) {
    yield* sql`
      INSERT INTO turns (id, session_id, number, status, owner)
      VALUES (${ids[n] ?? ""}::uuid, ${sessionId}, ${n + 1}, ${n === 0 ? "running" : "accepted"}, ${owner.id})`
    yield* sql`
      INSERT INTO messages (id, session_id, turn_id, turn_number, role, content)
      VALUES (${crypto.randomUUID()}::uuid, ${sessionId}, ${ids[n] ?? ""}::uuid, ${n + 1}, 'user', ${message})`
  }
}, Effect.orDie)

/** Waits until both servers have said that they live, several times over. */
const severalHeartbeats = (sql: SqlClient.SqlClient) =>
  Effect.gen(function* () {
    const [{ now } = { now: new Date() }] = yield* sql<{ now: Date }>`SELECT now() AS now`
    yield* eventually(
      sql<{ alive: number }>`
        SELECT count(*)::integer AS alive FROM instances WHERE seen_at > ${now} + interval '300 milliseconds'`,
      ([row]) => (row?.alive ?? 0) >= 2
    )
  }).pipe(Effect.orDie)

layer(TwoServers.layer, { excludeTestServices: true })("two servers on one database", (it) => {
  it.effect("a turn waits for those accepted before it, whichever server has them", () =>
    Effect.gen(function* () {
      const { a, b } = yield* TwoServers
      const asked = a.model.requests.length
      const release = hold("one")
      const first = yield* accept(a, "order", "one")
      yield* Effect.promise(() => a.model.received(asked))
      const second = yield* accept(b, "order", "two")
      const third = yield* accept(a, "order", "three")
      const fourth = yield* accept(b, "order", "four")
      assert.deepStrictEqual(
        (yield* turnsOf(a.sql, "order")).map(({ status }) => status),
        ["running", "accepted", "accepted", "accepted"]
      )
      yield* release
      for (const stream of [first, second, third, fourth]) yield* stream.until("end")
      assert.deepStrictEqual(
        (yield* historyOf(b.url, "order")).map(({ content }) => content),
        ["one", "two", "three", "four"].flatMap((message) => [message, `re: ${message}`])
      )
      assert.deepStrictEqual(
        a.model.requests.slice(asked).map(({ body }) => lastUser(body)),
        ["one", "two", "three", "four"]
      )
    })
  )

  it.effect("a turn cancelled while the other server's turn runs does not hold up the next", () =>
    Effect.gen(function* () {
      const { a, b } = yield* TwoServers
      const asked = a.model.requests.length
      const release = hold("long")
      const first = yield* accept(a, "cancelled", "long")
      yield* Effect.promise(() => a.model.received(asked))
      const second = yield* accept(b, "cancelled", "never mind")
      const third = yield* accept(a, "cancelled", "go on")
      yield* second.leave
      yield* eventually(turnsOf(a.sql, "cancelled"), (turns) => turns[1]?.status === "cancelled")
      yield* release
      yield* first.until("end")
      assert.strictEqual((yield* third.until("end")).content, "re: never mind\n\ngo on")
    })
  )

  it.effect("the turns of a process that died are ended as interrupted, and the session goes on", () =>
    Effect.gen(function* () {
      const { a } = yield* TwoServers
      for (const [session, owner] of [
        ["died", { id: "died-a-minute-ago", seenSecondsAgo: 60 }],
        ["unknown", { id: "never-seen", seenSecondsAgo: undefined }]
      ] as const) {
        yield* leaveBehind(a.sql, session, owner, ["lost one", "lost two"])
        const { body } = yield* say(a, session, "anyone there?")
        assert.strictEqual(body.response, "re: lost one\n\nlost two\n\nanyone there?")
        assert.deepStrictEqual(yield* turnsOf(a.sql, session), [
          { number: 1, status: "interrupted" },
          { number: 2, status: "interrupted" },
          { number: 3, status: "completed" }
        ])
        assert.isUndefined(faultOf(a.model.requests.at(-1)?.body ?? { messages: [] }))
        assert.deepStrictEqual(
          (yield* historyOf(a.url, session)).map(({ role }) => role),
          ["user", "user", "user", "assistant"]
        )
      }
    })
  )

  it.effect("the turns of a process that lives are left alone, and waited for", () =>
    Effect.gen(function* () {
      const { a } = yield* TwoServers
      const asked = a.model.requests.length
      yield* leaveBehind(a.sql, "alive", { id: "busy", seenSecondsAgo: 1 }, ["still at it"])
      const next = yield* accept(a, "alive", "my turn?")
      yield* severalHeartbeats(a.sql)
      assert.strictEqual(a.model.requests.length, asked)
      assert.deepStrictEqual(
        (yield* turnsOf(a.sql, "alive")).map(({ status }) => status),
        ["running", "accepted"]
      )
      yield* a.sql`UPDATE turns SET status = 'completed' WHERE session_id = 'alive' AND number = 1`
      yield* a.sql`UPDATE sessions SET running_turn = NULL WHERE id = 'alive'`
      assert.strictEqual((yield* next.until("end")).content, "re: still at it\n\nmy turn?")
    })
  )

  it.effect(
    "a turn that was ended for its process while it ran is not acknowledged, and the session goes on",
    () =>
      Effect.gen(function* () {
        const { a, b } = yield* TwoServers
        const asked = a.model.requests.length
        const release = hold("slow")
        const reply = yield* Effect.forkChild(say(a, "taken", "slow"))
        yield* Effect.promise(() => a.model.received(asked))
        yield* a.sql`UPDATE turns SET status = 'interrupted' WHERE session_id = 'taken'`
        yield* a.sql`UPDATE sessions SET running_turn = NULL WHERE id = 'taken'`
        assert.strictEqual((yield* say(b, "taken", "hello")).body.response, "re: slow\n\nhello")
        yield* release
        const { body } = yield* Fiber.join(reply)
        assert.deepInclude(body, { success: false, message_id: null, error_code: "SERVICE_UNAVAILABLE" })
        assert.deepStrictEqual(
          (yield* historyOf(a.url, "taken")).map(({ content }) => content),
          ["slow", "hello", "re: slow\n\nhello"]
        )
        assert.strictEqual((yield* say(a, "taken", "again")).body.response, "re: again")
      })
  )

  it.effect("a turn that was ended for its process while it waited does not take the session", () =>
    Effect.gen(function* () {
      const { a } = yield* TwoServers
      yield* leaveBehind(a.sql, "ended", { id: "busy", seenSecondsAgo: 1 }, ["still at it"])
      const waiting = yield* accept(a, "ended", "my turn?")
      yield* a.sql`UPDATE turns SET status = 'interrupted' WHERE session_id = 'ended'`
      yield* a.sql`UPDATE sessions SET running_turn = NULL WHERE id = 'ended'`
      const events = yield* waiting.all
      assert.include(["error", "cancelled"], events.at(-1)?.type)
      const [session] = yield* a.sql`SELECT running_turn FROM sessions WHERE id = 'ended'`
      assert.deepStrictEqual(session, { running_turn: null })
      assert.isTrue((yield* say(a, "ended", "hello")).body.success)
    })
  )

  it.effect("a turn whose session another server deletes while it waits is cancelled", () =>
    Effect.gen(function* () {
      const { a, b } = yield* TwoServers
      const asked = a.model.requests.length
      hold("for ever")
      const first = yield* accept(a, "deleted", "for ever")
      yield* Effect.promise(() => a.model.received(asked))
      const second = yield* accept(b, "deleted", "and then")
      const { status } = yield* ask(`${a.url}/api/v1/session/deleted`, undefined, { method: "DELETE" })
      assert.strictEqual(status, 200)
      for (const stream of [first, second]) {
        assert.strictEqual((yield* stream.until("cancelled")).reason, "session_deleted")
      }
      assert.strictEqual((yield* say(b, "deleted", "anew")).body.response, "re: anew")
      assert.strictEqual((yield* historyOf(a.url, "deleted")).length, 2)
    })
  )

  it.effect("a message over WebSocket waits for the other server's turn", () =>
    Effect.gen(function* () {
      const { a, b } = yield* TwoServers
      const asked = a.model.requests.length
      const release = hold("on a")
      const first = yield* accept(a, "socket", "on a")
      yield* Effect.promise(() => a.model.received(asked))
      const socket = yield* openSocket(b.url)
      yield* socket.send({ message: "on b", session_id: "socket" })
      yield* socket.until("start")
      yield* release
      yield* first.until("end")
      assert.strictEqual((yield* socket.until("end")).content, "re: on b")
    })
  )
})
