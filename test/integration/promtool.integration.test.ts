import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { GenericContainer, Wait } from "testcontainers"
import { Reply } from "voice-agent-api/testing"
import { TestApp } from "../support/AppServer.ts"
import { ask } from "../support/ChatClient.ts"

const image = "prom/prometheus:latest"

/** One that waits to be asked, or why there is none. */
const prometheus = await new GenericContainer(image)
  .withEntrypoint(["sh", "-c", "echo started; exec sleep 3600"])
  .withWaitStrategy(Wait.forLogMessage("started"))
  .start()
  .catch((error: unknown) => {
    if (process.env.REQUIRE_CONTAINERS === "1") throw error
    return String(error)
  })

describe(typeof prometheus === "string" ? `promtool (no ${image}: ${prometheus})` : "promtool", () => {
  it.live.skipIf(typeof prometheus === "string")("finds nothing wrong with /metrics after some turns", () =>
    Effect.gen(function* () {
      if (typeof prometheus === "string") return
      yield* Effect.addFinalizer(() => Effect.promise(() => prometheus.stop()))
      const { model, url } = yield* TestApp
      model.push(
        Reply.toolCalls([{ name: "calculator", arguments: { expression: "1+1" } }]),
        Reply.text("Two.")
      )
      yield* ask(`${url}/api/v1/chat`, { message: "1+1?" })
      yield* ask(`${url}/api/v1/chat`, { nonsense: true })
      const { body } = yield* ask(`${url}/metrics`)
      yield* Effect.promise(() =>
        prometheus.copyContentToContainer([{ content: String(body), target: "/tmp/metrics" }])
      )
      const { exitCode, output } = yield* Effect.promise(() =>
        prometheus.exec(["sh", "-c", "promtool check metrics < /tmp/metrics"])
      )
      assert.strictEqual(output, "")
      assert.strictEqual(exitCode, 0)
    }).pipe(Effect.provide(TestApp.layer()))
  )
})
