import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Schema } from "effect"
import { Reply, type ScriptedReply, type ScriptedRequestBody } from "voice-agent-api/testing"
import { defineTool, ToolFailed, Tools } from "../../src/tools/Tools.ts"
import { makeAgentTools } from "../support/AgentTools.ts"
import { ask, eventsOf, eventually, openSocket, openStream } from "../support/ChatClient.ts"
import { FailureApp } from "./FailureApp.ts"
import { askedOf, hold, kept, toldBy, type Way, ways } from "./Told.ts"

const steps = ({ messages }: ScriptedRequestBody) =>
  messages.length - 1 - messages.findLastIndex(({ role }) => role === "user")

describe("a tool that", () => {
  const runs: Array<string> = []
  let stopped = 0
  const bare = { parameters: Schema.Struct({}), success: Schema.Struct({ ok: Schema.Boolean }) }
  const hang = defineTool({
    ...bare,
    name: "hang",
    description: "Never answers.",
    timeout: "200 millis",
    isIdempotent: true,
    handler: () => Effect.onInterrupt(Effect.never, () => Effect.sync(() => void stopped++))
  })
  const flaky = (name: string, isIdempotent: boolean, failures: number) =>
    defineTool({
      ...bare,
      name,
      description: "Fails at first.",
      isIdempotent,
      handler: () =>
        Effect.suspend(() => {
          runs.push(name)
          return runs.filter((run) => run === name).length % (failures + 1) === 0
            ? Effect.succeed({ ok: true })
            : Effect.fail(
                new ToolFailed({
                  message: "The other server is busy.",
                  reason: "upstream",
                  detail: "HTTP 503 from api.example.com",
                  isTransient: true
                })
              )
        })
    })
  const tools = Tools.layerOf([
    hang,
    flaky("again", true, 2),
    flaky("never_again", false, 2),
    flaky("hopeless", true, 99)
  ])

  interface Case {
    readonly name: string
    readonly tool: string
    readonly success: boolean
    readonly runs: number
    readonly retries: number
    readonly outcome: string | undefined
    readonly result: RegExp
  }
  const cases: ReadonlyArray<Case> = [
    {
      name: "hangs is stopped, and the model is told",
      tool: "hang",
      success: false,
      runs: 0,
      retries: 0,
      outcome: "timeout",
      result: /took longer than 0.2 seconds/
    },
    {
      name: "fails in passing is run again, twice at most, if it is idempotent",
      tool: "again",
      success: true,
      runs: 3,
      retries: 2,
      outcome: undefined,
      result: /"ok":true/
    },
    {
      name: "goes on failing is a result that says so",
      tool: "hopeless",
      success: false,
      runs: 3,
      retries: 2,
      outcome: "upstream",
      result: /The other server is busy/
    },
    {
      name: "is not idempotent is run once",
      tool: "never_again",
      success: false,
      runs: 1,
      retries: 0,
      outcome: "upstream",
      result: /The other server is busy/
    }
  ]
  const script = (body: ScriptedRequestBody): ScriptedReply =>
    steps(body) === 0 ? Reply.toolCalls([{ name: body.model, arguments: {} }]) : Reply.text("So be it.")

  layer(FailureApp.layer(script, { tools }), { excludeTestServices: true })((it) => {
    for (const { name, outcome, result, retries, runs: count, success, tool } of cases) {
      it.effect(name, () =>
        Effect.gen(function* () {
          const app = yield* FailureApp
          const told = yield* hold(app.url, "sse", { session_id: tool, message: "Do it.", model: tool })
          assert.deepStrictEqual([told.ends, told.text], [["end"], "So be it."])
          const [event] = eventsOf(told.events, "tool_result")
          assert.strictEqual(event?.data.success, success)
          assert.match(event?.data.summary ?? "", result)
          assert.strictEqual(runs.filter((run) => run === tool).length, count)
          if (tool === "hang") assert.strictEqual(stopped, 1)

          const [, second] = askedOf(app, tool)
          assert.match(String(second?.body.messages.at(-1)?.content), result)
          assert.deepStrictEqual(yield* kept(app, tool), [
            ["user", "Do it."],
            ["assistant", "So be it.", "completed"]
          ])
          const { spans } = yield* app.spansOf(tool)
          const [run] = spans.filter((span) => span.name === `tool.${tool}`)
          assert.strictEqual(run?.parent, "tool.execute")
          assert.strictEqual(run?.failed, !success)
          assert.strictEqual(run?.attributes["error.type"], outcome)
          assert.deepStrictEqual(
            (run?.events ?? [])
              .filter((event) => event.name === "retry")
              .map(({ attributes }) => attributes.attempt),
            Array.from({ length: retries }, (_, n) => n + 1)
          )
          // The turn itself is well.
          assert.deepStrictEqual(
            spans.filter((span) => span.name === "agent.process_message").map(({ failed }) => failed),
            [false]
          )
        })
      )
    }
  })
})

describe("a caller that goes away", () => {
  const tools = makeAgentTools()
  /** What the turn does when its caller goes, and what there is to be kept of it then. */
  const moments = {
    "waiting for the first token": { reply: Reply.hang, said: "" },
    "waiting for the next token": {
      reply: Reply.text(["One", " two", " three"], { fault: { after: 2, kind: "hang" } }),
      said: "One two"
    },
    "waiting to ask again": { reply: Reply.status(503, { retryAfter: 5 }), said: "" },
    "waiting for a tool": { reply: undefined, said: "Wait." }
  } as const
  type Moment = keyof typeof moments
  const script = (body: ScriptedRequestBody): ScriptedReply => {
    const [moment = ""] = body.model.split(" by ")
    return (
      moments[moment as Moment].reply ??
      Reply.toolCalls([{ name: "hold", arguments: { name: body.model } }], { text: "Wait." })
    )
  }

  /** Asks, and answers how to go away. */
  const enter = Effect.fnUntraced(function* (url: string, way: Way, session_id: string, model: string) {
    const body = { session_id, message: "Hello?", model_config: { model } }
    switch (way) {
      case "json": {
        const fiber = yield* Effect.forkChild(ask(`${url}/api/v1/chat`, body))
        return { leave: Fiber.interrupt(fiber), untilSaid: () => Effect.void }
      }
      case "sse": {
        const stream = yield* openStream(`${url}/api/v1/chat/stream`, body)
        return { leave: stream.leave, untilSaid: untilSaid(stream) }
      }
      case "websocket": {
        const socket = yield* openSocket(url)
        yield* socket.send(body)
        return { leave: socket.leave, untilSaid: untilSaid(socket) }
      }
    }
  })
  const untilSaid =
    (source: { readonly until: (type: "delta") => Effect.Effect<{ readonly content: string }> }) =>
    (text: string): Effect.Effect<void> =>
      Effect.gen(function* () {
        let soFar = ""
        while (soFar !== text) soFar += (yield* source.until("delta")).content
      })

  layer(FailureApp.layer(script, { tools: tools.layer }), { excludeTestServices: true })((it) => {
    for (const [moment, { said }] of Object.entries(moments)) {
      it.effect(`stops a turn that is ${moment}`, () =>
        Effect.forEach(
          ways,
          Effect.fnUntraced(function* (way) {
            const app = yield* FailureApp
            const model = `${moment} by ${way}`
            const session_id = model.replaceAll(" ", "-")
            const caller = yield* enter(app.url, way, session_id, model)
            const asked = yield* eventually(
              Effect.sync(() => askedOf(app, model)),
              ({ length }) => length === 1
            )
            yield* caller.untilSaid(said)
            if (moment === "waiting for a tool") yield* tools.entered(model)
            // JSON says nothing before the end: what has left the model is all that can be waited for.
            yield* eventually(
              Effect.sync(() => asked[0]?.tokensSent ?? 0),
              (sent) => sent >= (moment === "waiting for the next token" ? 2 : 0)
            )
            if (way === "json") yield* Effect.sleep("200 millis")
            yield* caller.leave

            // The exchange is over, by its end or by ours.
            const ending = yield* Effect.promise(() => asked[0]?.ended ?? Promise.resolve("none"))
            assert.strictEqual(ending, moment.endsWith("token") ? "aborted" : "completed")
            const { spans } = yield* app.spansOf(session_id)
            if (moment === "waiting for a tool") assert.include(tools.interrupted, model)
            // Cancelled is no failure.
            for (const { attributes, name } of spans) {
              if (name.startsWith("agent.") || name.startsWith("api."))
                assert.notProperty(attributes, "error.type", name)
            }
            assert.strictEqual(askedOf(app, model).length, 1)
            assert.deepStrictEqual(yield* kept(app, session_id), [
              ["user", "Hello?"],
              ...(said === "" ? [] : [["assistant", said, "cancelled"]])
            ])
          }),
          { concurrency: "unbounded", discard: true }
        )
      )
    }

    it.effect("leaves nothing open behind it", () =>
      Effect.gen(function* () {
        const { turns } = yield* FailureApp
        yield* eventually(turns.status, ({ open }) => open === 0)
      })
    )
  })
})

describe("more turns than MAX_CONCURRENT_TURNS", () => {
  const gates: Array<() => void> = []
  const script = async () => {
    await new Promise<void>((resolve) => gates.push(resolve))
    return Reply.text("At last.")
  }
  const sent = (session_id: string) => ({ session_id, message: "Me?" })

  layer(FailureApp.layer(script, { settings: { MAX_CONCURRENT_TURNS: "2" } }), { excludeTestServices: true })(
    (it) => {
      it.effect("are refused at once with 503 and Retry-After, and leave no trace in history", () =>
        Effect.gen(function* () {
          const app = yield* FailureApp
          // One runs, one waits for it: both count.
          const running = yield* Effect.forkChild(hold(app.url, "sse", sent("full")))
          yield* eventually(app.turns.status, ({ open }) => open === 1)
          const waiting = yield* Effect.forkChild(hold(app.url, "json", sent("full")))
          yield* eventually(app.turns.status, ({ open }) => open === 2)

          for (const way of ["json", "sse"] as const) {
            const told = yield* hold(app.url, way, sent(`shed-${way}`))
            assert.strictEqual(told.status, 503)
            assert.match(told.headers?.get("retry-after") ?? "", /^[1-9]\d*$/)
            assert.strictEqual(told.headers?.get("content-type"), "application/problem+json")
            if (way === "json") assert.strictEqual(told.errorCode, "SERVICE_UNAVAILABLE")
            assert.isEmpty(yield* kept(app, `shed-${way}`))
          }
          const socket = yield* openSocket(app.url)
          yield* socket.send(sent("shed-websocket"))
          const told = toldBy(yield* socket.turn)
          assert.deepStrictEqual([told.ends, told.errorCode], [["error"], "SERVICE_UNAVAILABLE"])
          assert.strictEqual(app.model.requests.length, 1)

          // Places come free again, for the same connection too.
          yield* Effect.sync(() => gates[0]?.())
          assert.strictEqual((yield* Fiber.join(running)).text, "At last.")
          yield* eventually(
            Effect.sync(() => gates.length),
            (length) => length === 2
          )
          yield* socket.send(sent("shed-websocket"))
          yield* eventually(
            Effect.sync(() => gates.length),
            (length) => length === 3
          )
          for (const open of gates) open()
          assert.deepStrictEqual(toldBy(yield* socket.turn).ends, ["end"])
          assert.strictEqual((yield* Fiber.join(waiting)).text, "At last.")
        })
      )
    }
  )
})
