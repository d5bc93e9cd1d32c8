import { assert, layer } from "@effect/vitest"
import { ConfigProvider, Context, Deferred, Duration, Effect, Fiber, Layer, References } from "effect"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import { Agent } from "../../src/agent/Agent.ts"
import { SessionId } from "../../src/api/Session.ts"
import { AppConfig } from "../../src/Config.ts"
import { DbUnavailable } from "../../src/db/DbUnavailable.ts"
import { v1Events } from "../../src/http/V1Events.ts"
import { Metrics } from "../../src/observability/Metrics.ts"
import * as Server from "../../src/Server.ts"
import { TraceStore } from "../../src/traces/TraceStore.ts"
import type { TurnEvent } from "../../src/turns/TurnEvent.ts"
import { type Turn, TurnPace, type TurnRequest, Turns, TurnsUnavailable } from "../../src/turns/Turns.ts"
import { TurnsRepo } from "../../src/turns/TurnsRepo.ts"
import { eventually } from "../support/ChatClient.ts"
import * as TestDb from "../support/TestDb.ts"

type Repo = TurnsRepo["Service"]

const away = Effect.fail(new DbUnavailable({ reason: "connection", cause: new Error("away") }))

/** Turns over the real repository, with what `faults` puts in the place of its methods. */
const makeTurns = (faults: (repo: Repo) => Partial<Repo> = () => ({})) =>
  Effect.gen(function* () {
    const model = yield* ScriptedModel.serve()
    const db = yield* Effect.context<SqlClient.SqlClient>()
    const repo = Layer.effect(
      TurnsRepo,
      Effect.map(TurnsRepo, (real) => ({ ...real, ...faults(real) }))
    ).pipe(Layer.provide(TurnsRepo.layer))
    const layer = Turns.layerNoDeps.pipe(
      Layer.provide(Agent.layerNoDeps),
      Layer.provide([repo, Metrics.layer, TraceStore.layer]),
      Layer.provide(Server.layerPorts),
      Layer.provide(AppConfig.layer),
      Layer.provide(
        ConfigProvider.layer(
          ConfigProvider.fromUnknown({
            DATABASE_URL: "postgres://elsewhere/unused",
            LLM_BASE_URL: model.baseUrl,
            LLM_MODEL: "scripted",
            TURN_TIMEOUT: "10 seconds"
          })
        )
      ),
      Layer.provide(Layer.succeedContext(db)),
      Layer.provide(
        Layer.succeed(TurnPace, { heartbeatEvery: Duration.millis(20), claimEvery: Duration.millis(10) })
      ),
      Layer.provide(Layer.succeed(References.MinimumLogLevel, "None"))
    )
    return {
      turns: Context.get(yield* Layer.build(Layer.fresh(layer)), Turns),
      model,
      sql: yield* SqlClient.SqlClient
    }
  })

const request = (
  sessionId: string,
  message: string,
  whenBusy: TurnRequest["whenBusy"] = "wait"
): TurnRequest => ({
  message,
  sessionId: SessionId.make(sessionId),
  userId: undefined,
  context: undefined,
  variant: "default",
  override: {},
  origin: { name: "test", trace: "continued" },
  whenBusy
})

const hanging = Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "hang" } })

const untilSaid = (turn: Turn, text: string) =>
  eventually(
    Effect.sync(() => {
      let text = ""
      const onEvent = (event: TurnEvent) => {
        if (event.type === "text") text += event.text
      }
      turn.feed.subscribe({ onEvent, onEnd: () => {} })()
      return text
    }),
    (said) => said === text
  )

const finalOf = (turn: Turn) => {
  const events: Array<{ readonly type: string; readonly reason?: string; readonly error_code?: string }> = []
  v1Events(turn.feed).subscribe({
    onEvent: (_, json) => void events.push(JSON.parse(json)),
    onEnd: () => {}
  })
  return events.at(-1)
}

layer(TestDb.layer, { excludeTestServices: true })("Turns", (it) => {
  it.effect("a turn whose acceptance is not answered is refused, and does not hold up its session", () =>
    Effect.gen(function* () {
      let faulty = true
      const { model, sql, turns } = yield* makeTurns((repo) => ({
        accept: (turn) =>
          Effect.andThen(repo.accept(turn), (accepted) => (faulty ? away : Effect.succeed(accepted)))
      }))
      assert.instanceOf(yield* Effect.flip(turns.start(request("unanswered", "first"))), DbUnavailable)
      assert.deepInclude(yield* turns.status, { open: 0 })
      faulty = false
      model.push(Reply.text("Hello."))
      const turn = yield* turns.start(request("unanswered", "second"))
      assert.deepInclude(yield* turn.result, { status: "completed", reply: "Hello." })
      const rows = yield* sql`SELECT status FROM turns WHERE session_id = 'unanswered' ORDER BY number`
      assert.deepStrictEqual(
        rows.map(({ status }) => status),
        ["failed", "completed"]
      )
    })
  )

  it.effect("a database that is away when a turn is accepted leaves nothing behind", () =>
    Effect.gen(function* () {
      const { turns } = yield* makeTurns(() => ({ accept: () => away }))
      for (const whenBusy of ["wait", "interrupt"] as const) {
        assert.instanceOf(yield* Effect.flip(turns.start(request("away", "hello", whenBusy))), DbUnavailable)
      }
      assert.deepStrictEqual(yield* turns.status, { open: 0, draining: false })
      yield* turns.drain(Duration.infinity)
    })
  )

  it.effect("a turn waits out a database that is away when its session becomes free", () =>
    Effect.gen(function* () {
      let claims = 0
      const { model, turns } = yield* makeTurns((repo) => ({
        claim: (...claim) => Effect.suspend(() => (++claims <= 3 ? away : repo.claim(...claim)))
      }))
      model.push(hanging, Reply.text("Second."))
      const first = yield* turns.start(request("claims", "first"))
      yield* untilSaid(first, "One two")
      const second = yield* turns.start(request("claims", "second"))
      first.cancel("client_request")
      assert.deepInclude(yield* second.result, { status: "completed", reply: "Second." })
      assert.isAbove(claims, 3)
    })
  )

  it.effect("a turn fails when its history can't be read, and the session goes on", () =>
    Effect.gen(function* () {
      let faulty = true
      const { model, turns } = yield* makeTurns((repo) => ({
        // As when a turn of another process ended meanwhile.
        accept: (turn) => Effect.map(repo.accept(turn), (accepted) => ({ ...accepted, history: undefined })),
        history: (...history) => (faulty ? away : repo.history(...history))
      }))
      const first = yield* turns.start(request("history", "first"))
      assert.deepInclude(yield* first.result, { status: "failed", errorCode: "SERVICE_UNAVAILABLE" })
      faulty = false
      model.push(Reply.text("Second."))
      const second = yield* turns.start(request("history", "second"))
      assert.deepInclude(yield* second.result, { status: "completed", reply: "Second." })
    })
  )

  it.effect("a bug in storing an end neither loses the reply nor holds up the session", () =>
    Effect.gen(function* () {
      let ends = 0
      const { model, turns } = yield* makeTurns((repo) => ({
        end: (turn) => (++ends === 1 ? Effect.die(new Error("a bug")) : repo.end(turn))
      }))
      model.push(Reply.text("First."), Reply.text("Second."))
      const first = yield* turns.start(request("bug", "first"))
      assert.deepInclude(yield* first.result, { status: "completed", reply: "First." })
      const second = yield* turns.start(request("bug", "second"))
      assert.deepInclude(yield* second.result, { status: "completed", reply: "Second." })
      assert.include(JSON.stringify(model.requests.at(-1)?.body), "First.")
    }).pipe(Effect.provideService(References.MinimumLogLevel, "None"))
  )

  it.effect("an end whose answer is lost is stored once", () =>
    Effect.gen(function* () {
      let ends = 0
      const { model, sql, turns } = yield* makeTurns((repo) => ({
        end: (turn) =>
          Effect.andThen(repo.end(turn), (ended) => (++ends === 1 ? away : Effect.succeed(ended)))
      }))
      model.push(Reply.text("Hello."))
      const turn = yield* turns.start(request("lost answer", "hello"))
      assert.deepInclude(yield* turn.result, { status: "completed", reply: "Hello." })
      assert.strictEqual(ends, 2)
      const [session] = yield* sql`SELECT message_count FROM sessions WHERE id = 'lost answer'`
      assert.deepStrictEqual(session, { message_count: 2 })
      const messages = yield* sql`SELECT role FROM messages WHERE session_id = 'lost answer'`
      assert.strictEqual(messages.length, 2)
    })
  )

  it.effect("a process that could not say that it lives is no judge of others until it has for a while", () =>
    Effect.gen(function* () {
      let state: "well" | "away" | "bug" = "well"
      const judged: Array<boolean> = []
      yield* makeTurns(() => ({
        heartbeat: (_, judges) =>
          Effect.suspend(() => {
            judged.push(judges)
            return state === "well"
              ? Effect.succeed(0)
              : state === "away"
                ? away
                : Effect.die(new Error("a bug"))
          })
      }))
      const judgedFor = (duration: Duration.Input) =>
        Effect.gen(function* () {
          judged.length = 0
          yield* TestClock.adjust(duration)
          assert.isAbove(judged.length, 10)
          return new Set(judged)
        })
      assert.deepStrictEqual(yield* judgedFor("30 seconds"), new Set([true]))
      for (const fault of ["away", "bug"] as const) {
        state = fault
        yield* TestClock.adjust("1 minute")
        state = "well"
        assert.deepStrictEqual(yield* judgedFor("9 seconds"), new Set([false]))
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(yield* judgedFor("9 seconds"), new Set([true]))
      }
    }).pipe(Effect.provide(TestClock.layer()), Effect.provideService(References.MinimumLogLevel, "None"))
  )

  it.effect("cancelling twice, or a turn that has ended, changes nothing", () =>
    Effect.gen(function* () {
      const { model, turns } = yield* makeTurns()
      model.push(hanging)
      const turn = yield* turns.start(request("twice", "count"))
      yield* untilSaid(turn, "One two")
      turn.cancel("client_request")
      turn.cancel("shutdown")
      assert.deepInclude(yield* turn.result, { status: "cancelled", cancelReason: "client_request" })
      turn.cancel("session_deleted")
      assert.deepInclude(yield* turn.result, { status: "cancelled", cancelReason: "client_request" })
      assert.isFalse(yield* turns.cancelSession("twice", "client_request"))
      assert.deepInclude(finalOf(turn), { type: "cancelled", reason: "client_request" })
    })
  )

  it.effect("a turn cancelled as soon as it was accepted ends without a word", () =>
    Effect.gen(function* () {
      const { model, turns } = yield* makeTurns()
      const asked = model.requests.length
      const turn = yield* turns.start(request("at once", "hello"))
      turn.cancel("client_request")
      assert.deepInclude(yield* turn.result, { status: "cancelled", messageId: null, reply: "" })
      assert.strictEqual(model.requests.length, asked)
    })
  )

  it.effect("a new message that interrupts stops the turns that wait, too", () =>
    Effect.gen(function* () {
      const { model, turns } = yield* makeTurns()
      model.push(hanging, Reply.text("Last."))
      const first = yield* turns.start(request("all", "first"))
      yield* untilSaid(first, "One two")
      const waiting = yield* Effect.forEach(["second", "third"], (message) =>
        turns.start(request("all", message))
      )
      const last = yield* turns.start(request("all", "last", "interrupt"))
      for (const turn of [first, ...waiting]) {
        assert.deepInclude(yield* turn.result, { status: "cancelled", cancelReason: "new_message" })
        assert.isTrue(turn.feed.ended)
      }
      assert.deepInclude(yield* last.result, { status: "completed", reply: "Last." })
      assert.include(JSON.stringify(model.requests.at(-1)?.body), "second\\n\\nthird\\n\\nlast")
    })
  )

  it.effect("draining lets turns finish, those that wait included, and takes no more", () =>
    Effect.gen(function* () {
      const { model, turns } = yield* makeTurns()
      const asked = model.requests.length
      model.push(Reply.text(["First", "."], { headDelayMillis: 50 }), Reply.text("Second."))
      const first = yield* turns.start(request("drained", "first"))
      const second = yield* turns.start(request("drained", "second"))
      yield* Effect.promise(() => model.received(asked))
      const drained = yield* Effect.forkChild(turns.drain(Duration.seconds(30)), { startImmediately: true })
      for (const whenBusy of ["wait", "interrupt"] as const) {
        const refused = yield* Effect.flip(turns.start(request("drained", "third", whenBusy)))
        assert.isTrue(refused instanceof TurnsUnavailable && refused.reason === "draining")
      }
      yield* Fiber.join(drained)
      assert.deepInclude(yield* first.result, { status: "completed", reply: "First." })
      assert.deepInclude(yield* second.result, { status: "completed", reply: "Second." })
      assert.deepStrictEqual(yield* turns.status, { open: 0, draining: true })
    })
  )

  it.effect("past its grace a drain stops turns, and keeps what they said as interrupted", () =>
    Effect.gen(function* () {
      const { model, sql, turns } = yield* makeTurns()
      model.push(hanging)
      const first = yield* turns.start(request("stopped", "first"))
      yield* untilSaid(first, "One two")
      const second = yield* turns.start(request("stopped", "second"))
      yield* turns.drain(Duration.millis(10))
      for (const turn of [first, second]) {
        assert.deepInclude(yield* turn.result, { status: "interrupted", cancelReason: "shutdown" })
        assert.deepInclude(finalOf(turn), { type: "cancelled", reason: "shutdown" })
      }
      const messages = yield* sql`
        SELECT content, metadata->>'status' AS status FROM messages WHERE session_id = 'stopped' AND role = 'assistant'`
      assert.deepStrictEqual(messages, [{ content: "One two", status: "interrupted" }])
      const [session] = yield* sql`SELECT running_turn FROM sessions WHERE id = 'stopped'`
      assert.deepStrictEqual(session, { running_turn: null })
    })
  )

  it.effect("a drain waits for a turn that is being accepted", () =>
    Effect.gen(function* () {
      const accepting = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const { model, turns } = yield* makeTurns((repo) => ({
        accept: (turn) =>
          Deferred.succeed(accepting, undefined).pipe(
            Effect.andThen(Deferred.await(go)),
            Effect.andThen(repo.accept(turn))
          )
      }))
      model.push(hanging)
      const starting = yield* Effect.forkChild(turns.start(request("late", "hello")))
      yield* Deferred.await(accepting)
      const drained = yield* Effect.forkChild(turns.drain(Duration.millis(1)), { startImmediately: true })
      yield* eventually(turns.status, ({ draining }) => draining)
      yield* Deferred.succeed(go, undefined)
      const turn = yield* Fiber.join(starting)
      assert.deepInclude(yield* turn.result, { cancelReason: "shutdown", status: "interrupted" })
      yield* Fiber.join(drained)
    })
  )
})
