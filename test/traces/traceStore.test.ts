import { assert, describe, it, layer } from "@effect/vitest"
import { ConfigProvider, Context, Deferred, Effect, Fiber, Layer, Logger, Metric, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import type { TurnTrace } from "../../src/api/TurnApi.ts"
import { AppConfig } from "../../src/Config.ts"
import type { EndedSpan } from "../../src/observability/RecordedSpan.ts"
import { TraceStore } from "../../src/traces/TraceStore.ts"
import * as AppServer from "../support/AppServer.ts"
import { ask, eventually, openSocket, openStream } from "../support/ChatClient.ts"
import * as TestDb from "../support/TestDb.ts"

const { TestApp } = AppServer

type Node = TurnTrace["spans"][number]

const twoTools = [
  Reply.toolCalls([
    { name: "calculator", arguments: { expression: "1+1" } },
    { name: "get_time", arguments: {} }
  ]),
  Reply.text("Two, and late.", { headDelayMillis: 100 })
]

const start = (url: string, session_id: string) =>
  Effect.gen(function* () {
    const stream = yield* openStream(`${url}/api/v1/chat/stream`, { message: "hi", session_id })
    const { turn_id } = yield* stream.until("start")
    const end = yield* stream.until("end")
    yield* stream.all
    return { turnId: turn_id, traceId: end.metadata.trace_id, headers: stream.headers }
  })

/** The request's own span ends a moment after its last byte. */
const traceOf = (url: string, turnId: string): Effect.Effect<TurnTrace> =>
  eventually(
    Effect.map(ask(`${url}/api/v1/turns/${turnId}/trace`), ({ body }): TurnTrace => body),
    ({ spans }) => spans.length === 1 && spans[0]?.name !== "api.send_message"
  )

const flat = (nodes: ReadonlyArray<Node>): ReadonlyArray<Node> =>
  nodes.flatMap((node) => [node, ...flat(node.children)])

layer(TestApp.layer(), { excludeTestServices: true })("the trace of a turn", (it) => {
  it.effect("is kept: what each span was, of which session and turn", () =>
    Effect.gen(function* () {
      const { model, sql, url } = yield* TestApp
      model.push(...twoTools)
      const { headers, traceId, turnId } = yield* start(url, "kept")
      yield* traceOf(url, turnId)
      const rows = yield* sql<{
        readonly name: string
        readonly trace_id: string
        readonly span_id: string
        readonly parent_span_id: string | null
        readonly service: string
        readonly status: string
        readonly started_at: Date
        readonly duration_ms: number
        readonly attributes: Readonly<Record<string, unknown>>
        readonly session_id: string | null
        readonly turn_id: string | null
      }>`SELECT * FROM trace_spans WHERE trace_id = ${traceId} ORDER BY started_at`
      const [request, message] = rows
      assert.strictEqual(request?.name, "POST /api/v1/chat/stream")
      assert.strictEqual(request?.span_id, headers.get("traceparent")?.split("-")[2])
      assert.isNull(request?.parent_span_id)
      assert.strictEqual(message?.name, "api.send_message")
      assert.strictEqual(message?.parent_span_id, request?.span_id)
      for (const row of rows) {
        assert.strictEqual(row.session_id, "kept", row.name)
        assert.strictEqual(row.turn_id, turnId, row.name)
        assert.strictEqual(row.service, "voice-agent-api")
        assert.strictEqual(row.status, "ok")
        assert.strictEqual(row.attributes.duration_ms, row.duration_ms)
        assert.isBelow(Math.abs(Date.now() - row.started_at.getTime()), 60_000)
      }
      const call = rows.find((row) => row.name === "agent.call_llm")
      assert.strictEqual(call?.attributes["gen_ai.usage.input_tokens"], 10)
      assert.deepStrictEqual(call?.attributes["gen_ai.response.finish_reasons"], ["tool_calls"])
    })
  )

  it.effect("is told as a tree, with shares, and what the turn waited on", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(...twoTools)
      const { traceId, turnId } = yield* start(url, "told")
      const trace = yield* traceOf(url, turnId)
      assert.strictEqual(trace.turn_id, turnId)
      assert.strictEqual(trace.session_id, "told")
      assert.strictEqual(trace.trace_id, traceId)
      assert.strictEqual(trace.status, "completed")
      const [request] = trace.spans
      assert.strictEqual(request?.share, 1)
      assert.strictEqual(request?.start_ms, 0)
      assert.strictEqual(trace.duration_ms, request?.duration_ms)
      assert.strictEqual(trace.started_at?.slice(0, 10), new Date().toISOString().slice(0, 10))

      const names = (nodes: ReadonlyArray<Node>) =>
        nodes.map(({ name }) => name).filter((name) => name !== "database.query")
      assert.deepStrictEqual(names(request?.children ?? []), ["api.send_message"])
      const process = request?.children[0]?.children.find(({ name }) => name === "agent.process_message")
      assert.deepStrictEqual(names(process?.children ?? []), [
        "agent.build_messages",
        "agent.call_llm",
        "agent.handle_tools",
        "agent.build_messages",
        "agent.call_llm",
        "agent.format_response"
      ])

      const all = flat(trace.spans)
      assert.lengthOf(all, trace.span_count)
      for (const node of all) {
        assert.isAtLeast(node.duration_ms, node.self_ms, node.name)
        assert.approximately(node.share, node.duration_ms / trace.duration_ms, 0.001, node.name)
        for (const child of node.children) {
          assert.strictEqual(child.parent_span_id, node.span_id)
          assert.isAtLeast(child.start_ms, node.start_ms)
        }
      }
      const waits = new Map(trace.waited_on.map((wait) => [wait.what, wait]))
      assert.strictEqual(trace.waited_on[0]?.what, "model")
      assert.isAtLeast(waits.get("model")?.duration_ms ?? 0, 100)
      assert.strictEqual(waits.get("tools")?.count, 4)
      assert.strictEqual(
        waits.get("database")?.count,
        all.filter(({ name }) => name === "database.query").length
      )
      // Only tools ran at once here, so that all the rest adds up to the whole.
      const sum = trace.waited_on.reduce((total, wait) => total + wait.duration_ms, 0)
      assert.approximately(sum, trace.duration_ms, 1 + (waits.get("tools")?.duration_ms ?? 0))
    })
  )

  it.effect("counts the wait for the turn before it", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.text("First.", { headDelayMillis: 150 }), Reply.text("Second."))
      const first = yield* Effect.forkChild(start(url, "queue"))
      yield* Effect.promise(() => model.received(model.requests.length))
      const { turnId } = yield* start(url, "queue")
      yield* Fiber.join(first)
      const { waited_on } = yield* traceOf(url, turnId)
      assert.strictEqual(waited_on[0]?.what, "queue")
      assert.isAtLeast(waited_on[0]?.duration_ms ?? 0, 50)
    })
  )

  it.effect("tells what happened on the way, such as a retry", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.status(503), Reply.text("At last."))
      const { turnId } = yield* start(url, "retried")
      const call = flat((yield* traceOf(url, turnId)).spans).find(({ name }) => name === "agent.call_llm")
      assert.lengthOf(call?.events ?? [], 1)
      const [retry] = call?.events ?? []
      assert.strictEqual(retry?.name, "llm.retry")
      assert.deepInclude(retry?.attributes, { attempt: 1, model: "scripted", reason: "server_error" })
      assert.isAtLeast(retry?.at_ms ?? 0, call?.start_ms ?? Number.POSITIVE_INFINITY)
      assert.isAtMost(retry?.at_ms ?? 0, (call?.start_ms ?? 0) + (call?.duration_ms ?? 0))
    })
  )

  it.effect("is there for turns that failed, with what failed", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.status(400))
      const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi&session_id=failed`)
      const { turn_id } = yield* stream.until("start")
      yield* stream.all
      const trace = yield* traceOf(url, turn_id)
      assert.strictEqual(trace.status, "failed")
      const failed = flat(trace.spans).filter(({ status }) => status === "error")
      assert.includeMembers(
        failed.map(({ name }) => name),
        ["api.send_message", "agent.process_message", "agent.call_llm", "POST"]
      )
    })
  )

  it.effect("is not there for what is no turn", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const unknown = yield* ask(`${url}/api/v1/turns/${crypto.randomUUID()}/trace`)
      assert.strictEqual(unknown.status, 404)
      assert.strictEqual(unknown.body.error_code, "TURN_NOT_FOUND")
      for (const id of ["7", "not-a-uuid", "0190d5a1-0000-4000-8000-0123456789a", "%27--"]) {
        const malformed = yield* ask(`${url}/api/v1/turns/${id}/trace`)
        assert.strictEqual(malformed.status, 400, id)
        assert.strictEqual(malformed.body.errors[0].field, "turn_id")
      }
    })
  )

  it.effect("is found whatever the case of the id", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      model.push(Reply.text("Yes."))
      const { turnId } = yield* start(url, "case")
      const trace = yield* traceOf(url, turnId.toUpperCase())
      assert.strictEqual(trace.turn_id, turnId)
    })
  )

  it.effect("goes with its session, and so does what comes after", () =>
    Effect.gen(function* () {
      const { model, sql, url } = yield* TestApp
      const left = Effect.map(
        sql<{ readonly name: string }>`SELECT name FROM trace_spans WHERE session_id = 'gone'`,
        (rows) => rows.length
      )
      model.push(Reply.text("Yes."))
      const { turnId } = yield* start(url, "gone")
      yield* traceOf(url, turnId)
      assert.isAbove(yield* left, 5)

      model.push(Reply.text(["One", " two"], { fault: { after: 1, kind: "hang" } }))
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "hi", session_id: "gone" })
      const { turn_id } = yield* socket.until("start")
      yield* socket.until("delta")
      const removed = yield* ask(`${url}/api/v1/session/gone`, undefined, { method: "DELETE" })
      assert.strictEqual(removed.status, 200)
      yield* socket.until("cancelled")
      // Asking writes what waits.
      assert.strictEqual((yield* ask(`${url}/api/v1/turns/${turn_id}/trace`)).status, 404)
      assert.strictEqual(yield* left, 0)
    })
  )

  it.effect("leaves a sample of the response time, by endpoint", () =>
    Effect.gen(function* () {
      const { model, sql, url } = yield* TestApp
      model.push(Reply.text("Yes."), Reply.text("Yes."), Reply.status(400), Reply.text("Yes."))
      const before = Date.now()
      yield* ask(`${url}/api/v1/chat`, { message: "hi", session_id: "sample-1" })
      yield* ask(`${url}/api/v1/conversation/message`, { text: "hi", session_id: "sample-2" })
      const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi&session_id=sample-3`)
      yield* stream.all
      const socket = yield* openSocket(url)
      yield* socket.send({ message: "hi", session_id: "sample-4" })
      yield* socket.until("end")
      yield* ask(`${url}/api/v1/turns/${crypto.randomUUID()}/trace`)
      const rows = yield* sql<{
        readonly endpoint: string
        readonly status: string
        readonly response_time_ms: number
        readonly recorded_at: Date
      }>`SELECT * FROM performance_metrics WHERE session_id LIKE 'sample-%' ORDER BY session_id`
      assert.deepStrictEqual(
        rows.map(({ endpoint, status }) => [endpoint, status]),
        [
          ["POST /api/v1/chat", "completed"],
          ["POST /api/v1/conversation/message", "completed"],
          ["GET /api/v1/chat/stream", "failed"],
          ["WS /api/v1/chat/ws", "completed"]
        ]
      )
      for (const row of rows) {
        assert.isAtLeast(row.response_time_ms, 0)
        assert.isAtLeast(row.recorded_at.getTime(), before - 1)
      }
    })
  )
})

describe("TRACE_STORE", () => {
  const spansOf = (settings: Readonly<Record<string, string>>) =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel.serve([Reply.text("Yes.")])
      const app = yield* AppServer.make(yield* Layer.build(TestDb.layer), model, { settings })
      const { turnId } = yield* start(app.url, "store")
      const { body, status } = yield* ask(`${app.url}/api/v1/turns/${turnId}/trace`)
      assert.strictEqual(status, 200)
      assert.strictEqual(body.turn_id, turnId)
      const [row] = yield* app.sql<{ readonly count: number }>`
        SELECT ((SELECT count(*) FROM trace_spans) + (SELECT count(*) FROM performance_metrics))::integer AS count`
      return { told: body.span_count, kept: row?.count }
    })
  const DATABASE_URL = "postgres://elsewhere/app"

  it.live("off keeps nothing, and a turn's trace is empty", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* spansOf({ TRACE_STORE: "off" }), { told: 0, kept: 0 })
    })
  )

  it.live("is on for the embedded database, and elsewhere when asked for", () =>
    Effect.gen(function* () {
      assert.isAbove((yield* spansOf({})).told, 5)
      assert.strictEqual((yield* spansOf({ DATABASE_URL })).told, 0)
      assert.isAbove((yield* spansOf({ DATABASE_URL, TRACE_STORE: "postgres" })).told, 5)
    })
  )
})

describe.skipIf(TestDb.serverUrl === undefined)("a busy trace_spans (TEST_DATABASE_URL)", () => {
  it.live("keeps no turn waiting, and gets its rows when it is free", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel.serve(() => Reply.text("Yes."))
      const app = yield* AppServer.make(yield* Layer.build(TestDb.layer), model)
      const taken = yield* Deferred.make<void>()
      const given = yield* Deferred.make<void>()
      const holder = yield* app.sql`LOCK TABLE trace_spans IN ACCESS EXCLUSIVE MODE`.pipe(
        Effect.andThen(Deferred.succeed(taken, undefined)),
        Effect.andThen(Deferred.await(given)),
        app.sql.withTransaction,
        Effect.forkChild
      )
      yield* Deferred.await(taken)
      const startedAt = performance.now()
      const turns: Array<string> = []
      // Long enough for the store to run into the lock, and into the longest that a statement may take.
      while (performance.now() - startedAt < 6_500) {
        const askedAt = performance.now()
        turns.push((yield* start(app.url, "busy")).turnId)
        assert.isBelow(performance.now() - askedAt, 2_000)
      }
      yield* Deferred.succeed(given, undefined)
      yield* Fiber.join(holder)
      yield* traceOf(app.url, turns[0] ?? "")
      yield* traceOf(app.url, turns.at(-1) ?? "")
    })
  )
})

describe("the trace store", () => {
  /** The store alone, over a database of its own, with what it logs. */
  const make = (
    settings: Readonly<Record<string, string>> = {}
  ): Effect.Effect<
    { store: TraceStore["Service"]; sql: SqlClient.SqlClient; lines: ReadonlyArray<string> },
    never,
    Scope.Scope
  > =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const db = yield* Layer.build(TestDb.layer)
      const config = AppConfig.layer.pipe(
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(settings))),
        Layer.orDie
      )
      const context = yield* Layer.build(
        TraceStore.layer.pipe(
          Layer.provide([config, Layer.succeedContext(db)]),
          Layer.provide(
            Logger.layer([
              Logger.make(({ message }) => void lines.push([message].flat().map(String).join(": ")))
            ])
          ),
          Layer.fresh
        )
      )
      return { store: Context.get(context, TraceStore), sql: Context.get(db, SqlClient.SqlClient), lines }
    })

  const span = (name: string, options: Partial<EndedSpan> = {}): EndedSpan => ({
    traceId: crypto.randomUUID().replaceAll("-", ""),
    spanId: crypto.randomUUID().replaceAll("-", "").slice(0, 16),
    parentSpanId: undefined,
    name,
    kind: "internal",
    status: "ok",
    startMillis: Date.now(),
    durationMillis: 1,
    attributes: new Map(),
    events: [],
    sessionId: undefined,
    turnId: undefined,
    slow: false,
    ...options
  })

  const countOf = (sql: SqlClient.SqlClient, name: string) =>
    Effect.map(
      sql<{
        readonly count: number
      }>`SELECT count(*)::integer AS count FROM trace_spans WHERE name = ${name}`,
      ([row]) => row?.count ?? 0
    )

  const dropped = Effect.map(
    Metric.snapshot,
    (all) =>
      all
        .filter((one) => one.id === "trace_spans_dropped_total")
        .map((one) => (one.type === "Counter" ? Number(one.state.count) : 0))[0] ?? 0
  )

  it.live("keeps the newest TRACE_MAX_ROWS, and nothing older than TRACE_RETENTION", () =>
    Effect.gen(function* () {
      const { sql, store } = yield* make({ TRACE_MAX_ROWS: "1000", TRACE_RETENTION: "1 hour" })
      const now = Date.now()
      for (let n = 0; n < 50; n++) store.add(span("old", { startMillis: now - 3_600_000 - n }))
      for (let n = 0; n < 2500; n++) store.add(span("counted", { startMillis: now - n }))
      yield* eventually(
        Effect.all([countOf(sql, "counted"), countOf(sql, "old")]),
        ([counted, old]) => counted === 1000 && old === 0
      )
      yield* eventually(
        sql<{ readonly at: Date }>`SELECT min(started_at) AS at FROM trace_spans`,
        ([oldest]) => oldest?.at.getTime() === now - 999
      )
    })
  )

  it.live("with a server of its own, keeps all of the retention", () =>
    Effect.gen(function* () {
      const { sql, store } = yield* make({
        DATABASE_URL: "postgres://elsewhere/app",
        TRACE_STORE: "postgres",
        TRACE_MAX_ROWS: "1000",
        TRACE_RETENTION: "1 hour"
      })
      const now = Date.now()
      for (let n = 0; n < 1500; n++) store.add(span("counted", { startMillis: now - n }))
      store.add(span("old", { startMillis: now - 3_700_000 }))
      yield* eventually(
        Effect.all([countOf(sql, "counted"), countOf(sql, "old")]),
        ([counted, old]) => counted === 1500 && old === 0
      )
    })
  )

  it.live("waits for a database that is busy, while nothing waits for it", () =>
    Effect.gen(function* () {
      const { sql, store } = yield* make()
      const taken = yield* Deferred.make<void>()
      const given = yield* Deferred.make<void>()
      // The one connection there is.
      const holder = yield* Effect.forkChild(
        sql.withTransaction(Effect.andThen(Deferred.succeed(taken, undefined), Deferred.await(given)))
      )
      yield* Deferred.await(taken)
      const before = yield* dropped
      for (let n = 0; n < 100; n++) store.add(span("early"))
      const flushing = yield* Effect.forkChild(store.flush)
      const startedAt = performance.now()
      for (let n = 0; n < 25_000; n++) store.add(span("later"))
      assert.isBelow(performance.now() - startedAt, 2_000)
      assert.isUndefined(flushing.pollUnsafe())
      // 20,000 wait; what came beyond is counted.
      assert.strictEqual((yield* dropped) - before, 5_100)
      yield* Deferred.succeed(given, undefined)
      yield* Fiber.join(holder)
      yield* Fiber.join(flushing)
      yield* store.flush
      assert.strictEqual(yield* countOf(sql, "early"), 100)
      assert.strictEqual(yield* countOf(sql, "later"), 19_900)
    })
  )

  it.live("drops and counts what the database refuses, says so once, and goes on", () =>
    Effect.gen(function* () {
      const { lines, sql, store } = yield* make()
      const before = yield* dropped
      yield* sql`ALTER TABLE trace_spans RENAME TO trace_spans_gone`
      for (let n = 1; n <= 2; n++) {
        store.add(span("refused"))
        yield* eventually(dropped, (count) => count - before === n)
      }
      assert.lengthOf(lines, 1)
      assert.match(lines[0] ?? "", /^Spans could not be kept and are dropped/)
      yield* sql`ALTER TABLE trace_spans_gone RENAME TO trace_spans`
      store.add(span("taken"))
      // By itself.
      yield* eventually(countOf(sql, "taken"), (count) => count === 1)
      assert.strictEqual(yield* countOf(sql, "refused"), 0)
    })
  )

  it.live("writes what waits when it ends", () =>
    Effect.gen(function* () {
      const db = yield* Layer.build(TestDb.layer)
      const config = AppConfig.layer.pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))
      yield* Effect.provide(
        TraceStore.use((store) => Effect.sync(() => store.add(span("last")))),
        TraceStore.layer.pipe(Layer.provide([config, Layer.succeedContext(db)]))
      )
      assert.strictEqual(yield* countOf(Context.get(db, SqlClient.SqlClient), "last"), 1)
    })
  )

  it.live("keeps text that no column takes as near to it as can be", () =>
    Effect.gen(function* () {
      const { sql, store } = yield* make()
      store.add(
        span("odd\u0000name", {
          attributes: new Map<string, unknown>([
            ["half", "a\ud800b"],
            ["zero", "a\u0000b"],
            ["backslash", "\\u0000"]
          ])
        })
      )
      yield* store.flush
      const [row] = yield* sql`SELECT attributes FROM trace_spans WHERE name = 'oddname'`
      assert.deepStrictEqual(row?.attributes, { half: "a\ufffdb", zero: "ab", backslash: "\\u0000" })
    })
  )
})
