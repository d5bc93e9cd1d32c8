/**
 * Owns what every provider of language models promises to the policy over it (`Llm`): one request, its parts as they
 * come, typed failures, and nothing left running.
 *
 * Does not know a wire protocol: what is behind the adapter is told what to answer by `ScriptedModel`. Needs `TestClock`.
 */
import * as assert from "node:assert/strict"
import { Duration, Effect, Exit, Fiber, Schema, Stream } from "effect"
import { Prompt, Tool, Toolkit } from "effect/ai"
import { CircuitBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"
import { Llm, type LlmPart, LlmProvider, type LlmRequest, LlmUnavailable } from "../llm/Llm.ts"
import { type ContractTests, under } from "./Contract.ts"
import { ScriptedModel } from "./ScriptedModel.ts"
import { Reply } from "./ScriptedReply.ts"

type Parts = ReadonlyArray<LlmPart>

const textOf = (parts: Parts): string =>
  parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join("")

const callsOf = (parts: Parts) =>
  parts.flatMap((part) =>
    part.type === "tool-call" ? [{ id: part.id, name: part.name, params: part.params }] : []
  )

const usageOf = (parts: Parts) =>
  parts.flatMap((part) =>
    part.type === "finish" ? [[part.usage.inputTokens.total, part.usage.outputTokens.total]] : []
  )

const toolkit = Toolkit.make(
  Tool.make("get_weather", {
    description: "Tells the weather.",
    parameters: Schema.Struct({ city: Schema.String }),
    success: Schema.String
  })
)
const withHandlers = toolkit.pipe(
  Effect.provide(toolkit.toLayer({ get_weather: () => Effect.succeed("sunny") }))
)

interface Limits {
  readonly retries?: number
}

/** Asks through the policy, as the app does. `parts` fills while the call runs. */
const call = Effect.fnUntraced(function* (request: Partial<LlmRequest> = {}, { retries = 0 }: Limits = {}) {
  const llm = yield* Llm.make({
    fallbackModels: [],
    timeouts: {
      firstToken: Duration.seconds(30),
      betweenTokens: Duration.seconds(30),
      total: Duration.seconds(120)
    },
    retries: { times: retries, base: Duration.millis(500), maxRetryAfter: Duration.seconds(10) }
  }).pipe(Effect.provide(CircuitBreaker.layerStoreMemory()))
  const parts: Array<LlmPart> = []
  let wanted = ""
  const said = Promise.withResolvers<void>()
  const fiber = yield* llm
    .stream({
      prompt: Prompt.make("Hello"),
      toolkit: undefined,
      variant: "default",
      override: {},
      ...request
    })
    .pipe(
      Stream.runForEach((part) =>
        Effect.sync(() => {
          parts.push(part)
          if (wanted !== "" && textOf(parts) === wanted) said.resolve()
        })
      ),
      Effect.forkChild({ startImmediately: true })
    )
  return {
    parts,
    fiber,
    /** Waits until this has been said. */
    until: (text: string) => {
      wanted = text
      return textOf(parts) === text ? Effect.void : Effect.promise(() => said.promise)
    }
  }
})

const complete = Effect.fnUntraced(function* (request?: Partial<LlmRequest>) {
  const { fiber, parts } = yield* call(request)
  yield* Fiber.join(fiber)
  return parts
})

const turnOfEventLoop = Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))

/** Lets time pass until the call has ended. Answers its failure. */
const failureAfter = Effect.fnUntraced(function* (fiber: Fiber.Fiber<void, LlmUnavailable>) {
  for (let seconds = 0; fiber.pollUnsafe() === undefined && seconds < 200; seconds++) {
    yield* turnOfEventLoop
    yield* TestClock.adjust("1 second")
  }
  const exit = yield* Fiber.await(fiber)
  assert.ok(Exit.isFailure(exit), "The call succeeded")
  const error = yield* Effect.flip(exit)
  assert.ok(error instanceof LlmUnavailable)
  return { reason: error.reason, midStream: error.midStream }
})

/**
 * For a provider that cannot be told what to say, such as one of rules. Register it with
 * `layer(myProvider)("my provider", llmContractUnscripted)` of `@effect/vitest`.
 */
export const llmContractUnscripted = (it: ContractTests<LlmProvider>): void => {
  it.effect("says something, and ends with one finish", () =>
    Effect.gen(function* () {
      const parts = yield* complete()
      assert.notEqual(textOf(parts), "")
      assert.equal(parts.filter(({ type }) => type === "finish").length, 1)
      assert.equal(parts.at(-1)?.type, "finish")
    })
  )

  it.effect("names its models, and says which one answers", () =>
    Effect.gen(function* () {
      const provider = yield* LlmProvider
      for (const name of [provider.name, ...Object.values(provider.models)]) assert.notEqual(name, "")
      const [first] = yield* complete()
      assert.equal(first?.type, "response-metadata")
    })
  )

  it.effect("counts tokens, or says that it doesn't", () =>
    Effect.gen(function* () {
      for (const count of usageOf(yield* complete()).flat()) {
        assert.ok(count === undefined || (Number.isInteger(count) && count >= 0))
      }
    })
  )

  it.effect("answers several at once", () =>
    Effect.gen(function* () {
      const answers = yield* Effect.forEach(Array(5).fill({}), complete, { concurrency: "unbounded" })
      for (const parts of answers) assert.equal(parts.at(-1)?.type, "finish")
    })
  )
}

const failed = (reason: LlmUnavailable["reason"], midStream = false) => ({ reason, midStream })

const brokenOff = (kind: "cut" | "end" | "malformed" | "error") =>
  Reply.text(["One ", "two", " three"], { delayMillis: 0, fault: { after: 2, kind } })

/**
 * For a provider whose upstream is told what to say by `ScriptedModel`: the scripted server over HTTP, or a handle of
 * one's own on an upstream with another protocol.
 */
export const llmContract = (it: ContractTests<LlmProvider | ScriptedModel>): void => {
  under(it, "text", (it) => {
    it.effect("comes whole, in any script", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const tokens = ["Grüße ", "小明", "\n\t", "\u{1F600}", ' "x" \\', "."]
        model.push(Reply.text(tokens, { delayMillis: 0 }))
        assert.equal(textOf(yield* complete()), tokens.join(""))
      })
    )

    it.effect("comes as it is said, and interrupting ends the request", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        model.push(Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "hang" } }))
        const { fiber, until } = yield* call()
        yield* until("One two")
        const request = yield* Effect.promise(() => model.received(asked))
        assert.equal(request.outcome, undefined)
        yield* Fiber.interrupt(fiber)
        assert.equal(yield* Effect.promise(() => request.ended), "aborted")
      })
    )

    it.effect("is asked for with the settings of the call", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        model.push(Reply.text("Yes."))
        yield* complete({ override: { model: "another", temperature: 0.25, maxTokens: 99 } })
        const { body, message } = yield* Effect.promise(() => model.received(asked))
        assert.equal(message, "Hello")
        assert.equal(body.model, "another")
        assert.equal(body.temperature, 0.25)
        assert.equal(body.max_tokens ?? body.max_completion_tokens, 99)
      })
    )
  })

  under(it, "tools", (it) => {
    it.effect("are announced, and calls of them passed on, wrong arguments too", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        model.push(
          Reply.toolCalls(
            [
              { id: "a", name: "get_weather", arguments: { city: "Kraków" } },
              { id: "b", name: "get_weather", arguments: { town: 1 } }
            ],
            { text: "Wait." }
          )
        )
        const parts = yield* complete({ toolkit: yield* withHandlers })
        assert.equal(textOf(parts), "Wait.")
        assert.deepEqual(callsOf(parts), [
          { id: "a", name: "get_weather", params: { city: "Kraków" } },
          { id: "b", name: "get_weather", params: { town: 1 } }
        ])
        const { body } = yield* Effect.promise(() => model.received(asked))
        assert.deepEqual(
          body.tools?.map((tool) => tool.function.name),
          ["get_weather"]
        )
      })
    )

    it.effect("give their results to the model", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        model.push(Reply.text("Sunny."))
        yield* complete({
          prompt: Prompt.make([
            { role: "user", content: "How is it in Kraków?" },
            {
              role: "assistant",
              content: [
                {
                  type: "tool-call",
                  id: "a",
                  name: "get_weather",
                  params: { city: "Kraków" },
                  providerExecuted: false
                }
              ]
            },
            {
              role: "tool",
              content: [
                { type: "tool-result", id: "a", name: "get_weather", isFailure: false, result: "sunny" }
              ]
            }
          ])
        })
        const { toolResults } = yield* Effect.promise(() => model.received(asked))
        assert.deepEqual(toolResults, [{ id: "a", name: "get_weather", content: "sunny" }])
      })
    )
  })

  under(it, "usage", (it) => {
    it.effect("is passed on", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        model.push(Reply.text("Yes.", { usage: { prompt_tokens: 20, completion_tokens: 3 } }))
        assert.deepEqual(usageOf(yield* complete()), [[20, 3]])
      })
    )

    it.effect("is not made up where there is none", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        model.push(Reply.text("Yes.", { usage: null }))
        assert.deepEqual(usageOf(yield* complete()), [[undefined, undefined]])
      })
    )
  })

  under(it, "a failure is told for what it is:", (it) => {
    for (const [name, reply, failure, text = ""] of [
      ["a refusal of the key", Reply.status(401), failed("rejected")],
      ["an unknown model", Reply.status(404), failed("rejected")],
      ["too many requests", Reply.status(429), failed("rate_limited")],
      ["an outage", Reply.status(503), failed("server_error")],
      ["nonsense", Reply.raw(["data: {not json\n\n"]), failed("bad_response")],
      ["a connection lost in the middle", brokenOff("cut"), failed("connection", true), "One two"],
      ["an end in the middle", brokenOff("end"), failed("connection", true), "One two"],
      ["nonsense in the middle", brokenOff("malformed"), failed("bad_response", true), "One two"],
      ["an error in the middle", brokenOff("error"), failed("server_error", true), "One two"]
    ] as const) {
      it.effect(name, () =>
        Effect.gen(function* () {
          const model = yield* ScriptedModel
          model.push(reply)
          const { fiber, parts } = yield* call()
          const exit = yield* Fiber.await(fiber)
          assert.ok(Exit.isFailure(exit))
          const { midStream, reason } = yield* Effect.flip(exit)
          assert.deepEqual({ reason, midStream }, failure)
          assert.equal(textOf(parts), text)
        })
      )
    }

    it.effect("a lost connection", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        // An adapter may ask once more by itself, where a connection that was kept open turns out to be closed.
        model.push(Reply.cut, Reply.cut)
        while (model.requests.length < asked + 2) {
          const { fiber } = yield* call()
          assert.deepEqual(yield* failureAfter(fiber), failed("connection"))
        }
      })
    )

    it.effect("silence, before the first word", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        model.push(Reply.hang)
        const { fiber } = yield* call()
        const request = yield* Effect.promise(() => model.received(asked))
        assert.deepEqual(yield* failureAfter(fiber), failed("timeout"))
        assert.equal(yield* Effect.promise(() => request.ended), "aborted")
      })
    )

    it.effect("silence, after it", () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel
        const asked = model.requests.length
        model.push(Reply.text(["One ", "two"], { fault: { after: 1, kind: "hang" } }))
        const { fiber, until } = yield* call()
        yield* until("One ")
        const request = yield* Effect.promise(() => model.received(asked))
        assert.deepEqual(yield* failureAfter(fiber), failed("timeout", true))
        assert.equal(yield* Effect.promise(() => request.ended), "aborted")
      })
    )
  })

  it.effect("asks again when it is told to, and not before", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel
      const asked = model.requests.length
      model.push(Reply.status(429, { retryAfter: 7 }), Reply.text("Now."))
      const { fiber, parts } = yield* call({}, { retries: 1 })
      yield* Effect.promise(() => model.received(asked).then(({ ended }) => ended))
      for (let seconds = 0; seconds < 6; seconds++) {
        yield* turnOfEventLoop
        yield* TestClock.adjust("1 second")
      }
      assert.equal(model.requests.length, asked + 1)
      while (model.requests.length === asked + 1) {
        yield* turnOfEventLoop
        yield* TestClock.adjust("1 second")
      }
      yield* Fiber.join(fiber)
      assert.equal(textOf(parts), "Now.")
    })
  )
}
