import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Logger } from "effect"
import { TestClock } from "effect/testing"
import { ToolFailed, Tools } from "../../src/tools/Tools.ts"
import { probe, transient } from "./Probe.ts"
import { record } from "./RecordingTracer.ts"

describe("a call's end", () => {
  it.effect("is an outcome when the tool fails", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      const outcome = yield* tools.execute("probe", {})
      assert.deepStrictEqual(outcome, {
        success: false,
        data: null,
        error: "no such thing",
        durationMillis: 0
      })
      assert.strictEqual((yield* tools.call("probe", {})).content, '{"error":"no such thing"}')
    }).pipe(Effect.provide(probe(() => Effect.fail(new ToolFailed({ message: "no such thing" })))))
  )

  it.effect.each([
    ["a thrown error", () => Effect.die(new Error("key sk-123 at /srv/secret.ts:1"))],
    ["a handler that throws", () => thrown()],
    ["an answer that is no JSON", () => Effect.succeed({ at: new Date(0), key: 1n })],
    ["an interruption of its own", () => Effect.interrupt]
  ] as const)("tells nothing of %s, and logs it", ([, handler]) =>
    Effect.gen(function* () {
      const logged: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => {
        logged.push(`${logLevel} ${String(message)}`)
      })
      const result = yield* Effect.flatMap(Tools, (tools) => tools.call("probe", {})).pipe(
        Effect.provide([probe(handler), Logger.layer([logger])])
      )
      assert.strictEqual(result.content, '{"error":"The tool failed unexpectedly."}')
      assert.isFalse(result.success)
      assert.lengthOf(logged, 1)
      assert.match(logged[0] ?? "", /^Error The tool probe failed unexpectedly/u)
    })
  )

  it.effect("comes after 15 seconds at most", () =>
    Effect.gen(function* () {
      const stopped = yield* Deferred.make<void>()
      const handler = () => Effect.onInterrupt(Effect.never, () => Deferred.succeed(stopped, undefined))
      const fiber = yield* Effect.flatMap(Tools, (tools) => tools.execute("probe", {})).pipe(
        Effect.provide(probe(handler)),
        Effect.forkChild
      )
      yield* TestClock.adjust("14 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(fiber), {
        success: false,
        data: null,
        error: "The tool took longer than 15 seconds and was stopped.",
        durationMillis: 15_000
      })
      yield* Deferred.await(stopped)
    })
  )

  it.effect("is an interruption when the caller's is", () =>
    Effect.gen(function* () {
      const started = yield* Deferred.make<void>()
      const stopped = yield* Deferred.make<void>()
      const handler = () =>
        Effect.andThen(Deferred.succeed(started, undefined), Effect.never).pipe(
          Effect.onInterrupt(() => Deferred.succeed(stopped, undefined))
        )
      const { spans } = yield* record(
        Effect.gen(function* () {
          const fiber = yield* Effect.flatMap(Tools, (tools) => tools.call("probe", {})).pipe(
            Effect.provide(probe(handler)),
            Effect.forkChild
          )
          yield* Deferred.await(started)
          yield* Fiber.interrupt(fiber)
          yield* Deferred.await(stopped)
          assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        })
      )
      for (const span of spans) {
        assert.deepInclude(Object.fromEntries(span.attributes), {
          success: false,
          "error.type": "interrupted"
        })
      }
    })
  )
})

describe("retries", () => {
  const failing = (times: number) => {
    let calls = 0
    return {
      calls: () => calls,
      handler: () => Effect.suspend(() => (++calls > times ? Effect.succeed(calls) : Effect.fail(transient)))
    }
  }

  it.effect("are made twice for an idempotent tool, 200 and 400 ms apart, and show on its span", () =>
    Effect.gen(function* () {
      const script = failing(2)
      const { result, spans } = yield* record(
        Effect.gen(function* () {
          const fiber = yield* Effect.flatMap(Tools, (tools) => tools.execute("probe", {})).pipe(
            Effect.provide(probe(script.handler, { isIdempotent: true })),
            Effect.forkChild
          )
          yield* TestClock.adjust("159 millis")
          assert.strictEqual(script.calls(), 1)
          yield* TestClock.adjust("81 millis")
          assert.strictEqual(script.calls(), 2)
          yield* TestClock.adjust("480 millis")
          return yield* Fiber.join(fiber)
        })
      )
      assert.strictEqual(result.data, 3)
      const span = spans.find(({ name }) => name === "tool.probe")
      assert.deepStrictEqual(
        span?.events.map(([name, , attributes]) => [name, attributes?.attempt]),
        [
          ["retry", 1],
          ["retry", 2]
        ]
      )
    })
  )

  it.effect("end after the second", () =>
    Effect.gen(function* () {
      const script = failing(9)
      const fiber = yield* Effect.flatMap(Tools, (tools) => tools.execute("probe", {})).pipe(
        Effect.provide(probe(script.handler, { isIdempotent: true })),
        Effect.forkChild
      )
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(fiber)).error, transient.message)
      assert.strictEqual(script.calls(), 3)
    }).pipe(Effect.provide(Logger.layer([])))
  )

  it.effect("are not made for other tools, nor for failures that will stay", () =>
    Effect.gen(function* () {
      const script = failing(9)
      const tools = yield* Effect.provide(Tools, probe(script.handler))
      assert.isFalse((yield* tools.execute("probe", {})).success)
      assert.strictEqual(script.calls(), 1)

      let calls = 0
      const final = () =>
        Effect.suspend(() => {
          calls++
          return Effect.fail(new ToolFailed({ message: "no" }))
        })
      const others = yield* Effect.provide(Tools, probe(final, { isIdempotent: true }))
      assert.isFalse((yield* others.execute("probe", {})).success)
      assert.strictEqual(calls, 1)
    }).pipe(Effect.provide(Logger.layer([])))
  )
})

const thrown = (): Effect.Effect<never> => {
  throw new Error("key sk-123")
}
