import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, type Scope } from "effect"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import * as AppServer from "../support/AppServer.ts"
import { type Answer, ask, eventsOf, eventually, openSocket, openStream } from "../support/ChatClient.ts"
import { serverUrl } from "../support/TestDb.ts"
import * as FlakyPostgres from "./FlakyPostgres.ts"
import { hold, kept, toldBy, ways } from "./Told.ts"

interface Rig extends AppServer.AppServer, FlakyPostgres.FlakyPostgres {
  /** Lets replies of the model go on to their end. */
  readonly open: () => void
}

const withRig = <A, E>(body: (rig: Rig) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const gate = Promise.withResolvers<void>()
      const model = yield* ScriptedModel.serve(async ({ model }) => {
        if (model === "held") await gate.promise
        return Reply.text("All is kept.")
      })
      const database = yield* FlakyPostgres.make(serverUrl ?? "")
      const app = yield* AppServer.make(database.db, model)
      return yield* body({ ...app, ...database, open: () => gate.resolve() })
    })
  )

const assertUnavailable = ({ body, headers, status }: Pick<Answer, "body" | "headers" | "status">) => {
  assert.strictEqual(status, 503)
  assert.strictEqual(headers.get("content-type"), "application/problem+json")
  assert.match(headers.get("retry-after") ?? "", /^[1-9]\d*$/)
  assert.strictEqual(body.error_code, "SERVICE_UNAVAILABLE")
  assert.notMatch(JSON.stringify(body), /ECONN|postgres|127\.0\.0\.1|sql/i)
}

const sent = (session_id: string, model?: string) => ({
  session_id,
  message: "Keep this.",
  ...(model === undefined ? {} : { model })
})

const isReady = (url: string) => Effect.map(ask(`${url}/api/v1/health/ready`), ({ status }) => status === 200)

/** A turn by each transport, on a server that is well. */
const assertServing = (app: AppServer.AppServer) =>
  Effect.forEach(
    ways,
    (way) =>
      Effect.gen(function* () {
        const session_id = `after-${way}-${crypto.randomUUID()}`
        assert.deepStrictEqual((yield* hold(app.url, way, sent(session_id))).ends, ["end"])
        assert.strictEqual((yield* kept(app, session_id)).length, 2)
      }),
    { discard: true }
  )

describe.skipIf(serverUrl === undefined)("a database server that is away (TEST_DATABASE_URL)", () => {
  it.live("is told of by 503 until it is back, and the app recovers by itself", () =>
    withRig((rig) =>
      Effect.gen(function* () {
        yield* assertServing(rig)
        yield* rig.leave
        const { url } = rig
        assertUnavailable(yield* ask(`${url}/api/v1/chat`, sent("away-json")))
        assertUnavailable(yield* ask(`${url}/api/v1/chat/stream`, sent("away-sse")))
        assertUnavailable(yield* ask(`${url}/api/v1/chat/history/away-json`))
        assert.strictEqual((yield* ask(`${url}/api/v1/health/ready`)).status, 503)
        assert.strictEqual((yield* ask(`${url}/api/v1/health/live`)).status, 200)
        const socket = yield* openSocket(url)
        yield* socket.send(sent("away-websocket"))
        const told = toldBy(yield* socket.turn)
        assert.deepStrictEqual([told.ends, told.errorCode], [["error"], "SERVICE_UNAVAILABLE"])
        const asked = rig.model.requests.length

        yield* rig.comeBack
        yield* eventually(isReady(url), (ready) => ready)
        yield* assertServing(rig)
        // The connection that was told to try again can.
        yield* socket.send(sent("away-websocket"))
        assert.deepStrictEqual(toldBy(yield* socket.turn).ends, ["end"])
        assert.strictEqual(rig.model.requests.length, asked + ways.length + 1)
        assert.deepStrictEqual(yield* kept(rig, "away-websocket"), [
          ["user", "Keep this."],
          ["assistant", "All is kept.", "completed"]
        ])
        assert.isEmpty(yield* kept(rig, "away-json"))
        yield* eventually(rig.turns.status, ({ open }) => open === 0)
      })
    )
  )

  it.live("when a turn ends is waited for, and the reply is kept", () =>
    withRig((rig) =>
      Effect.gen(function* () {
        const json = yield* Effect.forkChild(
          ask(`${rig.url}/api/v1/chat`, { ...sent("held-json"), model_config: { model: "held" } })
        )
        const stream = yield* openStream(`${rig.url}/api/v1/chat/stream`, {
          ...sent("held-sse"),
          model_config: { model: "held" }
        })
        yield* Effect.promise(() => rig.model.received(1))
        yield* rig.leave
        rig.open()
        // All was said, but nothing is acknowledged that is not kept.
        yield* stream.until("delta")
        yield* Effect.sleep("1200 millis")
        assert.isFalse(stream.frames.some(({ event }) => event.type === "end" || event.type === "error"))

        yield* rig.comeBack
        const events = yield* stream.all
        assert.strictEqual(eventsOf(events, "end")[0]?.content, "All is kept.")
        assert.strictEqual((yield* Fiber.join(json)).body.success, true)
        for (const session of ["held-json", "held-sse"]) {
          assert.deepStrictEqual(yield* kept(rig, session), [
            ["user", "Keep this."],
            ["assistant", "All is kept.", "completed"]
          ])
        }
        yield* assertServing(rig)
      })
    )
  )

  it.live(
    "without a word is given up after 5 seconds, and nothing is stuck when it is back",
    () =>
      withRig((rig) =>
        Effect.gen(function* () {
          yield* assertServing(rig)
          yield* rig.freeze
          // More than there are connections.
          const frozenAt = performance.now()
          const answers = yield* Effect.forEach(
            Array.from({ length: 8 }, (_, n) => n),
            (n) => ask(`${rig.url}/api/v1/chat`, sent(`frozen-${n}`)),
            { concurrency: "unbounded" }
          )
          for (const answer of answers) assertUnavailable(answer)
          // 5 s, or twice that where a connection was being opened already, which is tried once more. Not the 20 s that
          // four attempts would take, nor the 15 s in which the driver gives up a connection.
          assert.isBelow(performance.now() - frozenAt, 13_000)
          yield* rig.comeBack
          yield* eventually(isReady(rig.url), (ready) => ready)
          yield* assertServing(rig)
          // What had reached the server after all must not hold its session.
          for (let n = 0; n < answers.length; n++) {
            assert.deepStrictEqual((yield* hold(rig.url, "json", sent(`frozen-${n}`))).ends, ["end"])
          }
          yield* eventually(rig.turns.status, ({ open }) => open === 0)
        })
      ),
    40_000
  )

  it.live("for a moment only costs connections, not turns", () =>
    withRig((rig) =>
      Effect.gen(function* () {
        yield* assertServing(rig)
        const stream = yield* openStream(`${rig.url}/api/v1/chat/stream`, {
          ...sent("ended"),
          model_config: { model: "held" }
        })
        yield* eventually(
          Effect.sync(() => rig.model.requests.filter(({ body }) => body.model === "held")),
          ({ length }) => length === 1
        )
        // As a failover does: every connection of the app breaks at once.
        yield* Effect.andThen(rig.leave, rig.comeBack)
        rig.open()
        const events = yield* stream.all
        assert.deepStrictEqual(toldBy(events).ends, ["end"])
        assert.deepStrictEqual(yield* kept(rig, "ended"), [
          ["user", "Keep this."],
          ["assistant", "All is kept.", "completed"]
        ])
        yield* assertServing(rig)
      })
    )
  )
})
