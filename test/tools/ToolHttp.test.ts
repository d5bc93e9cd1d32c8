import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger, Redacted, Schema } from "effect"
import { FetchHttpClient, HttpClientRequest } from "effect/http"
import { TestClock } from "effect/testing"
import type { ToolFailed } from "../../src/tools/ToolDefinition.ts"
import { ToolHttp } from "../../src/tools/ToolHttp.ts"
import { endless, hang, json, makeHttpRecorder, reset, text } from "../support/HttpRecorder.ts"
import { record } from "./RecordingTracer.ts"

const layer = ToolHttp.layer.pipe(Layer.provide(FetchHttpClient.layer))
const Answer = Schema.Struct({ ok: Schema.Boolean })

const ask = (url: string) =>
  Effect.flatMap(ToolHttp, (http) => http.json(HttpClientRequest.get(`${url}/data`), Answer))

const failure = (url: string) =>
  Effect.map(Effect.flip(ask(url)), ({ detail, isTransient, message, reason }: ToolFailed) => ({
    message,
    reason,
    detail,
    isTransient
  }))

describe("ToolHttp", () => {
  it.effect("decodes the answer", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json({ ok: true, more: 1 }))
      assert.deepStrictEqual(yield* ask(upstream.url), { ok: true })
    }).pipe(Effect.provide(layer))
  )

  it.effect("puts failures into words, and tells those that pass from those that stay", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      const { host } = new URL(upstream.url)
      upstream.script(
        text("<html>secret body</html>", 500),
        json({}, 429),
        json({}, 401),
        json({}, 404),
        text("not JSON"),
        json({ ok: "yes" }),
        endless(2 * 1024 * 1024),
        reset
      )
      const failures = yield* Effect.replicateEffect(failure(upstream.url), 8)
      assert.deepStrictEqual(
        failures.map(({ detail, isTransient, message }) => [message, detail, isTransient]),
        [
          [`${host} answered with an error (HTTP 500).`, `HTTP 500 from ${host}`, true],
          [`${host} is being asked too often (HTTP 429).`, `HTTP 429 from ${host}`, true],
          [`${host} refused the credentials (HTTP 401).`, `HTTP 401 from ${host}`, false],
          [`${host} answered with an error (HTTP 404).`, `HTTP 404 from ${host}`, false],
          [`${host} sent an answer that is not understood.`, `an unexpected body from ${host}`, false],
          [`${host} sent an answer that is not understood.`, `an unexpected body from ${host}`, false],
          [`${host} sent more than can be used.`, `a body over 1 MiB from ${host}`, false],
          [`${host} could not be reached.`, `TransportError from ${host}`, true]
        ]
      )
      assert.isTrue(failures.every(({ reason }) => reason === "upstream"))
    }).pipe(Effect.provide(layer))
  )

  it.effect("gives up on a host that does not answer, and breaks the connection", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(hang)
      const fiber = yield* Effect.forkChild(failure(upstream.url))
      yield* upstream.arrival
      yield* TestClock.adjust("10 seconds")
      const { host } = new URL(upstream.url)
      assert.deepInclude(yield* Fiber.join(fiber), {
        message: `${host} did not answer within 10 seconds.`,
        reason: "timeout"
      })
      yield* upstream.abandoned
    }).pipe(Effect.provide(layer))
  )

  it.effect("breaks the connection when it is interrupted", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(hang)
      const fiber = yield* Effect.forkChild(ask(upstream.url))
      yield* upstream.arrival
      yield* Fiber.interrupt(fiber)
      yield* upstream.abandoned
    }).pipe(Effect.provide(layer))
  )

  it.effect("leaves a host that keeps failing alone for half a minute, and no other host", () =>
    Effect.gen(function* () {
      const broken = yield* makeHttpRecorder
      const sound = yield* makeHttpRecorder
      broken.script(...Array(6).fill(json({}, 503)), json({ ok: true }), json({ ok: true }))
      sound.script(json({ ok: true }))
      yield* Effect.replicateEffect(failure(broken.url), 6)
      assert.strictEqual((yield* failure(broken.url)).reason, "unavailable")
      assert.lengthOf(broken.requests, 6)
      yield* ask(sound.url)
      yield* TestClock.adjust("30 seconds")
      yield* ask(broken.url)
      yield* ask(broken.url)
    }).pipe(Effect.provide(layer))
  )

  it.effect("does not hold answers against a host that only says no", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(...Array(8).fill(json({}, 429)), ...Array(8).fill(json({}, 400)), json({ ok: true }))
      yield* Effect.replicateEffect(failure(upstream.url), 16)
      yield* ask(upstream.url)
    }).pipe(Effect.provide(layer))
  )

  it.effect("keeps credentials, parameters and trace headers to itself", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json({ ok: true }), json({}, 500), reset)
      const request = HttpClientRequest.get(`${upstream.url}/data`, {
        urlParams: { place: "secret-place" }
      }).pipe(HttpClientRequest.bearerToken(Redacted.make("secret-key")))
      const told: Array<string> = []
      const logger = Logger.make((entry) => void told.push(inspect(entry, { depth: 12 })))
      const { spans } = yield* record(
        Effect.gen(function* () {
          const http = yield* ToolHttp
          yield* http.json(request, Answer)
          for (let asked = 0; asked < 2; asked++) {
            const error = yield* Effect.flip(http.json(request, Answer))
            yield* Effect.logError("failed", error)
            told.push(inspect(error, { depth: 12 }), JSON.stringify(error), String(error))
          }
        }).pipe(Effect.provide(Logger.layer([logger])))
      )
      assert.deepInclude(upstream.requests[0], { query: { place: "secret-place" } })
      assert.deepInclude(upstream.requests[0]?.headers, { authorization: "Bearer secret-key" })
      for (const header of ["traceparent", "b3"]) assert.notProperty(upstream.requests[0]?.headers, header)
      assert.lengthOf(spans, 3)
      assert.notInclude(spans.map(({ everything }) => everything).join(), "secret-")
      assert.notInclude(told.join(), "secret-")
    }).pipe(Effect.provide(layer))
  )
})
