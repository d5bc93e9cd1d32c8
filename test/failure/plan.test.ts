import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { Reply, type ScriptedReply, type ScriptedRequestBody } from "voice-agent-api/testing"
import { eventsOf, historyOf } from "../support/ChatClient.ts"
import { FailureApp, type SeenTurns } from "./FailureApp.ts"
import { apology, askedOf, hold, kept, type Told, type Way, ways } from "./Told.ts"

const lastUser = ({ messages }: ScriptedRequestBody): string =>
  String(messages.findLast(({ role }) => role === "user")?.content)

const callOf = ({ spans }: SeenTurns) => spans.find(({ name }) => name === "agent.call_llm")

/** What the policy told of one model call, in order. */
const toldOf = (seen: SeenTurns) =>
  (callOf(seen)?.events ?? [])
    .filter(({ name }) => name.startsWith("llm."))
    .map(({ attributes: { delay_ms: _, ...attributes }, name }) => ({ name, ...attributes }))

const retry = (model: string, reason: string, attempt = 1) => ({ name: "llm.retry", model, attempt, reason })
const fallback = (from: string, to: string, reason: string) => ({ name: "llm.fallback", from, to, reason })
const shed = (model: string, reason: string) => ({ name: "llm.shed", model, reason })

describe("a plan of three models", () => {
  interface Case {
    readonly name: string
    /** By model; a model that is not named answers. */
    readonly replies: Readonly<Record<string, ScriptedReply>>
    readonly asked: ReadonlyArray<string>
    readonly told: ReadonlyArray<Record<string, unknown>>
    readonly model: string
    readonly said: string
    readonly error?: string
  }
  const hung = Reply.text(["One"], { fault: { after: 0, kind: "hang" } })
  const cutLate = Reply.text(["One", " two"], { delayMillis: 20, fault: { after: 1, kind: "cut" } })
  const cases: ReadonlyArray<Case> = [
    {
      name: "goes on to the next",
      replies: { main: Reply.status(503) },
      asked: ["main", "main", "second"],
      told: [retry("main", "server_error"), fallback("main", "second", "server_error")],
      model: "second",
      said: "I am second."
    },
    {
      name: "goes on to the last, each model by its own failure",
      replies: { main: Reply.status(429), second: Reply.status(404) },
      asked: ["main", "main", "second", "third"],
      told: [
        retry("main", "rate_limited"),
        fallback("main", "second", "rate_limited"),
        fallback("second", "third", "rejected")
      ],
      model: "third",
      said: "I am third."
    },
    {
      name: "does not wait for silence twice",
      replies: { main: Reply.hang, second: hung },
      asked: ["main", "second", "third"],
      told: [fallback("main", "second", "timeout"), fallback("second", "third", "timeout")],
      model: "third",
      said: "I am third."
    },
    {
      name: "ends with the failure of the last",
      replies: { main: Reply.status(500), second: Reply.status(500), third: Reply.status(408) },
      asked: ["main", "main", "second", "second", "third", "third"],
      told: [
        retry("main", "server_error"),
        fallback("main", "second", "server_error"),
        retry("second", "server_error"),
        fallback("second", "third", "server_error"),
        retry("third", "timeout")
      ],
      model: "main",
      said: "",
      error: "LLM_TIMEOUT"
    },
    {
      name: "is not gone through once text is out",
      replies: { main: cutLate },
      asked: ["main"],
      told: [],
      model: "main",
      said: "One",
      error: "LLM_UNAVAILABLE"
    }
  ]
  const settings = {
    LLM_MODEL: "main",
    LLM_FALLBACK_MODELS: "second, third",
    LLM_FIRST_TOKEN_TIMEOUT: "1500 millis",
    LLM_RETRIES: "1",
    LLM_RETRY_DELAY: "10 millis",
    // The cases have the models in common.
    LLM_BREAKER_FAILURES: "1000"
  }
  const script = (body: ScriptedRequestBody) =>
    cases.find(({ name }) => lastUser(body).startsWith(`${name}: `))?.replies[body.model] ??
    Reply.text(["I am ", `${body.model}.`])

  /** What must be the same whichever model answered. */
  const shapeOf = ({ events }: Told) =>
    events.filter(({ type }) => type === "start" || type === "delta" || type === "end" || type === "error")

  layer(FailureApp.layer(script, { settings }), { excludeTestServices: true })((it) => {
    for (const [n, { asked, error, model, name, replies: _, said, told: expected }] of cases.entries()) {
      it.effect(name, () =>
        Effect.gen(function* () {
          const app = yield* FailureApp
          const by = Effect.fnUntraced(function* (way: Way) {
            const session_id = `plan-${n}-${way}`
            const message = `${name}: ${way}`
            const told = yield* hold(app.url, way, { session_id, message })

            assert.deepStrictEqual(told.ends, [error === undefined ? "end" : "error"])
            assert.strictEqual(told.errorCode, error ?? null)
            if (way === "json") assert.strictEqual(told.text, error === undefined ? said : apology)
            else {
              assert.strictEqual(told.text, said)
              // A start, one or more deltas, an end: nothing tells of the models that failed but the last one's name.
              assert.strictEqual(eventsOf(told.events, "start").length, 1)
              assert.strictEqual(
                eventsOf(told.events, "end")[0]?.metadata.model,
                error === undefined ? model : undefined
              )
              assert.strictEqual(shapeOf(told).at(-1)?.type, error === undefined ? "end" : "error")
            }
            assert.deepStrictEqual(
              app.model.requests
                .map(({ body }) => body)
                .filter((body) => lastUser(body) === message)
                .map(({ model }) => model),
              [...asked]
            )
            const seen = yield* app.spansOf(session_id)
            assert.deepStrictEqual(toldOf(seen), [...expected])
            const call = callOf(seen)
            assert.strictEqual(call?.failed, error !== undefined)
            assert.strictEqual(call?.attributes["gen_ai.request.model"], "main")
            // Nobody answered when all failed before a word.
            assert.strictEqual(call?.attributes["gen_ai.response.model"], said === "" ? undefined : model)
            assert.strictEqual(seen.spans.filter(({ name }) => name === "agent.call_llm").length, 1)

            const [, reply] = yield* historyOf(app.url, session_id)
            assert.strictEqual(reply?.content, said === "" ? undefined : said)
            assert.strictEqual(reply?.metadata?.model, said === "" ? undefined : model)
          })
          yield* Effect.forEach(ways, by, { concurrency: "unbounded", discard: true })
        })
      )
    }
  })
})

describe("a breaker", () => {
  const settings = {
    LLM_MODEL: "main",
    LLM_RETRIES: "1",
    LLM_RETRY_DELAY: "10 millis",
    LLM_BREAKER_FAILURES: "2",
    LLM_BREAKER_OPEN: "1 second"
  }
  let isWell = false
  let gate: PromiseWithResolvers<void> | undefined
  const script = async ({ model }: ScriptedRequestBody) => {
    if (model === "second") return Reply.text("I am second.")
    await gate?.promise
    return isWell ? Reply.text("I am well.") : Reply.status(503)
  }

  layer(FailureApp.layer(script, { settings }), { excludeTestServices: true })((it) => {
    it.effect(
      "opens after failures in a row, sheds, lets one probe through, and closes when that is answered",
      () =>
        Effect.gen(function* () {
          const app = yield* FailureApp
          let turns = 0
          const turn = Effect.suspend(() =>
            hold(app.url, "sse", { session_id: `breaker-${++turns}`, message: "Are you well?" })
          )
          const asked = () => askedOf(app, "main").length

          // Two calls, each tried twice.
          for (const count of [2, 4]) {
            assert.strictEqual((yield* turn).errorCode, "LLM_UNAVAILABLE")
            assert.strictEqual(asked(), count)
          }
          // Open: nobody is asked, and the client is told the same at once.
          const told = yield* turn
          assert.deepStrictEqual([told.ends, told.errorCode, told.text], [["error"], "LLM_UNAVAILABLE", ""])
          assert.strictEqual(asked(), 4)
          const seen = yield* app.spansOf("breaker-3")
          assert.deepStrictEqual(toldOf(seen), [shed("main", "server_error")])
          assert.strictEqual(callOf(seen)?.failed, true)
          assert.isEmpty(seen.spans.filter(({ parent }) => parent === "agent.call_llm"))
          assert.deepStrictEqual(yield* kept(app, "breaker-3"), [["user", "Are you well?"]])

          // One probe at a time; it fails, and the breaker is open again.
          yield* Effect.sleep("1 second")
          gate = Promise.withResolvers()
          const probe = yield* Effect.forkChild(turn)
          yield* Effect.promise(() => app.model.received(4))
          yield* turn
          assert.strictEqual(asked(), 5)
          gate.resolve()
          assert.strictEqual((yield* Fiber.join(probe)).errorCode, "LLM_UNAVAILABLE")
          assert.strictEqual(asked(), 6)
          yield* turn
          assert.strictEqual(asked(), 6)

          // The next probe is answered, and all are let through.
          isWell = true
          yield* Effect.sleep("1 second")
          for (const count of [7, 8]) {
            assert.strictEqual((yield* turn).text, "I am well.")
            assert.strictEqual(asked(), count)
          }
        })
    )

    it.effect("is not opened by refusals", () =>
      Effect.gen(function* () {
        const app = yield* FailureApp
        isWell = true
        for (let n = 0; n < 3; n++) {
          app.model.push(Reply.status(400))
          yield* hold(app.url, "json", { session_id: "refused", message: "Well?" })
        }
        assert.strictEqual(
          (yield* hold(app.url, "json", { session_id: "refused", message: "Well?" })).text,
          "I am well."
        )
      })
    )
  })

  layer(FailureApp.layer(script, { settings: { ...settings, LLM_FALLBACK_MODELS: "second" } }), {
    excludeTestServices: true
  })((it) => {
    it.effect("that is open sends the turn to the next model at once", () =>
      Effect.gen(function* () {
        const app = yield* FailureApp
        isWell = false
        for (let n = 0; n < 3; n++) {
          const told = yield* hold(app.url, "websocket", { session_id: `open-${n}`, message: "Well?" })
          assert.deepStrictEqual([told.ends, told.text], [["end"], "I am second."])
        }
        assert.strictEqual(askedOf(app, "main").length, 4)
        assert.deepStrictEqual(toldOf(yield* app.spansOf("open-2")), [
          shed("main", "server_error"),
          fallback("main", "second", "server_error")
        ])
      })
    )
  })
})
