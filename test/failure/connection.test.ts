import { spawn } from "node:child_process"
import { connect } from "node:net"
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import { FailureApp } from "./FailureApp.ts"
import { apology, askedOf, hold, kept, ways } from "./Told.ts"

const settings = { LLM_RETRY_DELAY: "20 millis" }

/** The turn fails after four attempts that found nobody, by any transport. */
const failsFourTimes = (name: string, reason: string, code: string) =>
  Effect.forEach(
    ways,
    Effect.fnUntraced(function* (way) {
      const app = yield* FailureApp
      const session_id = `${name}-${way}`
      const told = yield* hold(app.url, way, { session_id, message: "Hello?" })
      assert.deepStrictEqual([told.ends, told.errorCode], [["error"], code])
      assert.strictEqual(told.text, way === "json" ? apology : "")
      assert.deepStrictEqual(yield* kept(app, session_id), [["user", "Hello?"]])

      const { spans } = yield* app.spansOf(session_id)
      const [call] = spans.filter(({ name }) => name === "agent.call_llm")
      const retries = (call?.events ?? []).filter(({ name }) => name === "llm.retry")
      assert.deepStrictEqual(
        retries.map(({ attributes }) => attributes.reason),
        [reason, reason, reason]
      )
      const requests = spans.filter(({ name, parent }) => name === "POST" && parent === "agent.call_llm")
      assert.strictEqual(requests.length, 4)
      for (const request of requests) {
        assert.isTrue(request.failed)
        assert.notProperty(request.attributes, "http.response.status_code")
      }
    }),
    { concurrency: "unbounded", discard: true }
  )

describe("a model server that", () => {
  layer(FailureApp.layer([], { settings: { ...settings, LLM_BASE_URL: "http://127.0.0.1:1/v1" } }), {
    excludeTestServices: true
  })((it) => {
    it.effect("refuses connections is tried four times", () =>
      failsFourTimes("refused", "connection", "LLM_UNAVAILABLE")
    )
  })

  layer(
    FailureApp.layer(() => Reply.cut, { settings }),
    { excludeTestServices: true }
  )((it) => {
    it.effect("breaks every connection is tried four times", () =>
      Effect.gen(function* () {
        yield* failsFourTimes("broken", "connection", "LLM_UNAVAILABLE")
        assert.strictEqual(askedOf(yield* FailureApp, "scripted").length, 4 * ways.length)
      })
    )
  })

  it.live(
    "does not take connections is tried four times, each as long as LLM_CONNECT_TIMEOUT",
    Effect.fnUntraced(function* () {
      const port = yield* deafPort
      const app = FailureApp.layer([], {
        settings: {
          ...settings,
          LLM_BASE_URL: `http://127.0.0.1:${port}/v1`,
          LLM_CONNECT_TIMEOUT: "200 millis"
        }
      })
      yield* Effect.provide(failsFourTimes("deaf", "timeout", "LLM_TIMEOUT"), app)
    })
  )

  layer(
    FailureApp.layer(
      ({ model }) =>
        model === "slow"
          ? Reply.text(
              Array.from({ length: 100 }, () => "drip "),
              { delayMillis: 30 }
            )
          : Reply.status(503, { retryAfter: 5 }),
      { settings: { ...settings, LLM_TOTAL_TIMEOUT: "700 millis" } }
    ),
    { excludeTestServices: true }
  )((it) => {
    it.effect("never comes to an end is stopped after LLM_TOTAL_TIMEOUT, and what it said is kept", () =>
      Effect.gen(function* () {
        const app = yield* FailureApp
        const told = yield* hold(app.url, "sse", { session_id: "slow", message: "Go on.", model: "slow" })
        assert.deepStrictEqual([told.ends, told.errorCode], [["error"], "LLM_TIMEOUT"])
        assert.match(told.text, /^(drip )+$/)
        assert.deepStrictEqual(yield* kept(app, "slow"), [
          ["user", "Go on."],
          ["assistant", told.text, "failed"]
        ])
        assert.deepStrictEqual(
          yield* Effect.forEach(askedOf(app, "slow"), ({ ended }) => Effect.promise(() => ended)),
          ["aborted"]
        )
      })
    )

    it.effect("asks for more patience than LLM_TOTAL_TIMEOUT allows is not waited for", () =>
      Effect.gen(function* () {
        const app = yield* FailureApp
        const told = yield* hold(app.url, "sse", { session_id: "patient", message: "Well?", model: "busy" })
        assert.deepStrictEqual([told.ends, told.errorCode], [["error"], "LLM_TIMEOUT"])
        assert.strictEqual(askedOf(app, "busy").length, 1)
        assert.deepStrictEqual(yield* kept(app, "patient"), [["user", "Well?"]])
      })
    )
  })
})

/**
 * A port where connecting takes for ever: a process that listens and is stopped, whose queue of connections is full.
 */
const deafPort = Effect.acquireRelease(
  Effect.promise(async () => {
    const child = spawn(process.execPath, [
      "-e",
      `const server = require("node:net").createServer()
       server.listen({ host: "127.0.0.1", port: 0, backlog: 1 }, () => {
         require("node:fs").writeSync(1, server.address().port + "\\n")
         process.kill(process.pid, "SIGSTOP")
       })`
    ])
    const port = await new Promise<number>((resolve) =>
      child.stdout.once("data", (line) => resolve(Number(line)))
    )
    const fillers = Array.from({ length: 8 }, () => connect(port, "127.0.0.1").on("error", () => undefined))
    // As many as the queue holds; the rest wait for ever.
    await new Promise((resolve) => setTimeout(resolve, 200))
    return { child, fillers, port }
  }),
  ({ child, fillers }) =>
    Effect.sync(() => {
      for (const filler of fillers) filler.destroy()
      child.kill("SIGKILL")
    })
).pipe(Effect.map(({ port }) => port))
