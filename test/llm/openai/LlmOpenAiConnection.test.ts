import { once } from "node:events"
import { IncomingMessage } from "node:http"
import { type AddressInfo, createServer, Socket } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Fiber, Stream } from "effect"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import * as LlmOpenAi from "../../../src/llm/openai/LlmOpenAi.ts"
import { CompletionParts } from "../../../src/llm/openai/LlmOpenAiParts.ts"
import { PartsReader } from "../../../src/llm/openai/LlmOpenAiStream.ts"

import { collect, settings, start, stream, textOf } from "../OpenAiProvider.ts"

describe("LlmOpenAi, what goes wrong", () => {
  it.effect("turns statuses into reasons", () =>
    Effect.gen(function* () {
      const statuses = [400, 401, 402, 403, 404, 408, 409, 429, 500, 503] as const
      const { model } = yield* start([
        ...statuses.map((status) => Reply.status(status)),
        Reply.status(429, { body: { error: { message: "pay", code: "insufficient_quota" } } }),
        Reply.status(502, { body: "<html>Bad gateway</html>" })
      ])
      const languageModel = yield* model()
      const tags: Array<string> = []
      for (let n = 0; n < statuses.length + 2; n++)
        tags.push((yield* Effect.flip(collect(languageModel))).reason._tag)
      assert.deepStrictEqual(tags, [
        "InvalidRequestError",
        "AuthenticationError",
        "QuotaExhaustedError",
        "AuthenticationError",
        "InvalidRequestError",
        "UnknownError",
        "UnknownError",
        "RateLimitError",
        "InternalProviderError",
        "InternalProviderError",
        "QuotaExhaustedError",
        "InternalProviderError"
      ])
    })
  )

  it.effect("reads Retry-After in seconds, milliseconds and as a date", () =>
    Effect.gen(function* () {
      const { model } = yield* start([
        Reply.status(429, { retryAfter: 7 }),
        Reply.status(429, { retryAfter: 7, headers: { "retry-after-ms": "1500" } }),
        // The test's clock begins in 1970.
        Reply.status(429, { retryAfter: "Thu, 01 Jan 1970 00:00:20 GMT" }),
        Reply.status(429, { retryAfter: "soon" }),
        Reply.status(503, { retryAfter: 3 })
      ])
      const languageModel = yield* model()
      const waits: Array<number | undefined> = []
      for (let n = 0; n < 4; n++) {
        const { reason } = yield* Effect.flip(collect(languageModel))
        const wait = reason._tag === "RateLimitError" ? reason.retryAfter : undefined
        waits.push(wait === undefined ? undefined : Duration.toMillis(wait))
      }
      assert.deepStrictEqual(waits, [7000, 1500, 20_000, undefined])
      const { reason } = yield* Effect.flip(collect(languageModel))
      assert.deepNestedInclude(reason, { "http.response.headers.retry-after-ms": "3000" })
    })
  )

  it.effect("fails for what breaks off, with what had come before", () =>
    Effect.gen(function* () {
      const fault = (kind: "cut" | "end" | "malformed" | "error") =>
        Reply.text(["a", "b", "c", "d"], { delayMillis: 0, fault: { after: 2, kind } })
      const { model } = yield* start([
        // First, on a connection of its own: one that is cut on a used connection is taken for a stale one.
        Reply.cut,
        fault("cut"),
        fault("end"),
        fault("malformed"),
        fault("error")
      ])
      const languageModel = yield* model()
      const results: Array<[string, string]> = []
      for (let n = 0; n < 5; n++) {
        let text = ""
        const error = yield* stream(languageModel).pipe(
          Stream.runForEach((part) =>
            Effect.sync(() => {
              if (part.type === "text-delta") text += part.delta
            })
          ),
          Effect.flip
        )
        results.push([text, error.reason._tag])
      }
      assert.deepStrictEqual(results, [
        ["", "NetworkError"],
        ["ab", "NetworkError"],
        ["ab", "NetworkError"],
        ["ab", "InvalidResponseError"],
        ["ab", "InternalProviderError"]
      ])
    })
  )

  it.effect("fails when nobody listens", () =>
    Effect.gen(function* () {
      const server = yield* Effect.scoped(ScriptedModel.serve())
      const provider = yield* LlmOpenAi.make(settings({ baseUrl: server.baseUrl }))
      const error = yield* Effect.flip(collect(yield* provider.languageModel({ model: "m" })))
      assert.strictEqual(error.reason._tag, "NetworkError")
      assert.include(error.message, "ECONNREFUSED")
    })
  )

  it.effect("gives up connecting after the limit, TLS included", () =>
    Effect.gen(function* () {
      // Accepts connections and never says a word of TLS.
      const port = yield* Effect.acquireRelease(
        Effect.callback<{ readonly close: () => void; readonly port: number }>((resume) => {
          const sockets = new Set<Socket>()
          const server = createServer((socket) => sockets.add(socket.on("error", () => {})))
          server.listen(0, "127.0.0.1", () =>
            resume(
              Effect.succeed({
                port: (server.address() as AddressInfo).port,
                close: () => {
                  for (const socket of sockets) socket.destroy()
                  server.close()
                }
              })
            )
          )
        }),
        ({ close }) => Effect.sync(close)
      ).pipe(Effect.map(({ port }) => port))
      const provider = yield* LlmOpenAi.make(
        settings({ baseUrl: `https://127.0.0.1:${port}`, connectTimeout: Duration.millis(30) })
      )
      const error = yield* Effect.flip(collect(yield* provider.languageModel({ model: "m" })))
      assert.strictEqual(error.reason._tag, "NetworkError")
      assert.include(error.message, "within 30 ms")
    })
  )
})

describe("LlmOpenAi, its connections", () => {
  for (const [when, reply, sees] of [
    ["before the response", Reply.hang, false],
    ["before the first token", Reply.text(["a"], { fault: { after: 0, kind: "hang" } }), false],
    ["after some tokens", Reply.text(["a", "b"], { fault: { after: 1, kind: "hang" } }), true]
  ] as const) {
    it.effect(`interrupting ends the request at once, ${when}`, () =>
      Effect.gen(function* () {
        const { model, server } = yield* start([reply])
        const languageModel = yield* model()
        const { promise: seen, resolve } = Promise.withResolvers<void>()
        const fiber = yield* stream(languageModel).pipe(
          Stream.runForEach((part) => Effect.sync(() => part.type === "text-delta" && resolve())),
          Effect.forkChild
        )
        const request = yield* Effect.promise(() => server.received(0))
        if (sees) yield* Effect.promise(() => seen)
        assert.isUndefined(request.outcome)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* Effect.promise(() => request.ended), "aborted")
      })
    )
  }

  it.effect("ending the stream early ends the request", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([Reply.text(["a", "b"], { fault: { after: 1, kind: "hang" } })])
      const parts = yield* stream(yield* model()).pipe(
        Stream.takeUntil((part) => part.type === "text-delta"),
        Stream.runCollect
      )
      assert.strictEqual(textOf(parts), "a")
      const request = yield* Effect.promise(() => server.received(0))
      assert.strictEqual(yield* Effect.promise(() => request.ended), "aborted")
    })
  )

  it.effect("uses a connection again, and asks anew when it has gone stale", () =>
    Effect.gen(function* () {
      const { model, server } = yield* start([
        Reply.text("one"),
        Reply.text("two"),
        Reply.cut,
        Reply.text("three")
      ])
      const languageModel = yield* model()
      assert.strictEqual(textOf(yield* collect(languageModel)), "one")
      yield* Effect.promise(async () => (await server.received(0)).ended)
      assert.strictEqual(textOf(yield* collect(languageModel)), "two")
      assert.strictEqual(yield* Effect.promise(server.connections), 1)
      yield* Effect.promise(async () => (await server.received(1)).ended)
      // The cut hits a connection that has been used, which looks like one the server had closed already.
      assert.strictEqual(textOf(yield* collect(languageModel)), "three")
      assert.strictEqual(server.requests.length, 4)
    })
  )

  it.effect("ends with [DONE], though the body may not", () =>
    Effect.gen(function* () {
      const answer =
        'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
      const { model } = yield* start([Reply.raw([answer], { ending: "hang" })])
      assert.strictEqual(textOf(yield* collect(yield* model())), "a")
    })
  )
})

describe("PartsReader", () => {
  it.effect("pauses the socket when nobody reads, and goes on when somebody does", () =>
    Effect.gen(function* () {
      const incoming = new IncomingMessage(new Socket())
      const parts = new CompletionParts({ method: "streamText", model: "m" })
      const reader = new PartsReader(incoming, parts, { method: "streamText", url: "u" })
      const event = `data: {"choices":[{"delta":{"content":"${"x".repeat(1000)}"},"finish_reason":null}]}\n\n`
      const nextTurn = Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))
      for (let n = 0; n < 60; n++) incoming.push(event)
      yield* nextTurn
      assert.isFalse(incoming.isPaused())
      for (let n = 0; n < 60; n++) incoming.push(event)
      yield* nextTurn
      assert.isTrue(incoming.isPaused())
      const chunk = yield* reader.pull
      assert.isFalse(incoming.isPaused())
      assert.isAtLeast(chunk.length, 2)
      reader.release()
      assert.isTrue(incoming.destroyed)
    })
  )

  it.effect("reads a complete answer's body to its end, so that the connection can be used again", () =>
    Effect.gen(function* () {
      const incoming = new IncomingMessage(new Socket())
      const parts = new CompletionParts({ method: "streamText", model: "m" })
      const reader = new PartsReader(incoming, parts, { method: "streamText", url: "u" })
      incoming.push(
        'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
      )
      yield* reader.pull
      assert.isTrue(Cause.isDone(yield* Effect.flip(reader.pull)))
      reader.release()
      assert.isFalse(incoming.destroyed)
      const ended = once(incoming, "end")
      incoming.push(": late\n\n")
      incoming.push(null)
      yield* Effect.promise(() => ended)
    })
  )
})
