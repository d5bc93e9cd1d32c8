import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { Reply, ScriptedModel, type ScriptedServer } from "voice-agent-api/testing"
import { ask, eventsOf, eventually, historyOf, openSocket, openStream, textOf } from "./support/ChatClient.ts"
import { start, tempFolder } from "./support/ServerProcess.ts"
import { faultOf } from "./support/validRequest.ts"

/** Several starts of the embedded database, on a machine that may be busy. */
const timeout = 120_000

/** What a first run without any settings came to. Its data directory saves the other tests the first start. */
class FirstRun extends Context.Service<
  FirstRun,
  {
    readonly dataDir: string
    readonly stdout: string
    readonly stderr: string
    readonly reply: unknown
    readonly health: { readonly status: number; readonly body: unknown }
    readonly code: number | null
  }
>()("voice-agent/test/FirstRun") {
  static readonly layer = Layer.effect(
    FirstRun,
    Effect.gen(function* () {
      const dataDir = yield* tempFolder()
      const server = yield* start({ DATA_DIR: dataDir, PORT: "0" })
      const url = yield* server.url
      const reply = yield* ask(`${url}/api/v1/chat`, { message: "What is 6*7?", session_id: "first" })
      const health = yield* ask(`${url}/api/v1/health`)
      yield* server.kill("SIGTERM")
      const { code } = yield* server.exit
      return {
        dataDir,
        stdout: server.stdout(),
        stderr: server.stderr(),
        reply: reply.body,
        health: { status: health.status, body: health.body },
        code
      }
    })
  )
}

const hanging = Reply.text(["One ", "two", " three"], { fault: { after: 2, kind: "hang" } })

/** A server with a scripted model, on a data directory. */
const startOn = (dataDir: string, model: ScriptedServer, settings: Readonly<Record<string, string>> = {}) =>
  Effect.gen(function* () {
    const server = yield* start({
      DATA_DIR: dataDir,
      PORT: "0",
      LLM_BASE_URL: model.baseUrl,
      LLM_MODEL: "scripted",
      ...settings
    })
    return { ...server, url: yield* server.url }
  })

layer(FirstRun.layer, { excludeTestServices: true, timeout })("the server", (it) => {
  it.effect("starts with nothing configured, says where it is, and answers by the offline model", () =>
    Effect.gen(function* () {
      const { code, dataDir, health, reply, stderr, stdout } = yield* FirstRun
      assert.match(stdout, /API +http:\/\/127\.0\.0\.1:\d+\/api\/v1/)
      assert.include(stdout, dataDir)
      assert.include(stdout, "offline model")
      assert.deepInclude(reply, { success: true, tool_calls: 1 })
      assert.include(JSON.stringify(reply), "42")
      assert.strictEqual(health.status, 200)
      assert.deepInclude(health.body, { status: "degraded" })
      assert.strictEqual(code, 0)
      assert.strictEqual(stderr, "")
    })
  )

  it.effect(
    "told to stop, finishes the turn that runs, and meanwhile takes no others",
    () =>
      Effect.gen(function* () {
        const go = Promise.withResolvers<void>()
        const model = yield* ScriptedModel.serve(async (_, index) => {
          if (index === 0)
            return Reply.toolCalls([{ name: "get_time", arguments: {} }], { text: "Let me see. " })
          await go.promise
          return Reply.text("It is late.")
        })
        const server = yield* startOn(yield* tempFolder((yield* FirstRun).dataDir), model)
        const socket = yield* openSocket(server.url)
        const stream = yield* openStream(`${server.url}/api/v1/chat/stream`, { message: "What time is it?" })
        yield* Effect.promise(() => model.received(1))
        yield* server.kill("SIGTERM")

        const ready = yield* eventually(
          ask(`${server.url}/api/v1/health/ready`),
          ({ status }) => status !== 200
        )
        assert.strictEqual(ready.status, 503)
        assert.strictEqual((yield* ask(`${server.url}/api/v1/health/live`)).status, 200)
        const refused = yield* ask(`${server.url}/api/v1/chat`, { message: "Me too" })
        assert.strictEqual(refused.status, 503)
        assert.strictEqual(refused.body.error_code, "SERVICE_UNAVAILABLE")
        assert.isAbove(Number(refused.headers.get("retry-after")), 0)
        yield* socket.send({ message: "Me too" })
        assert.strictEqual((yield* socket.until("error")).error_code, "SERVICE_UNAVAILABLE")

        go.resolve()
        const events = yield* stream.all
        assert.strictEqual(textOf(events), "Let me see. It is late.")
        assert.strictEqual(eventsOf(events, "end").length, 1)
        assert.deepStrictEqual(yield* server.exit, { code: 0, signal: null })
        assert.strictEqual(server.stderr(), "")
      }),
    timeout
  )

  it.effect(
    "keeps what was said whatever ends the process, and goes on from there",
    () =>
      Effect.gen(function* () {
        const model = yield* ScriptedModel.serve([hanging])
        const dataDir = yield* tempFolder((yield* FirstRun).dataDir)

        const stopped = yield* startOn(dataDir, model, { SHUTDOWN_GRACE: "1" })
        const stream = yield* openStream(`${stopped.url}/api/v1/chat/stream`, {
          message: "Count",
          session_id: "s"
        })
        let said = ""
        while (said !== "One two") said += (yield* stream.until("delta")).content
        yield* stopped.kill("SIGTERM")
        assert.strictEqual((yield* stream.until("cancelled")).reason, "shutdown")
        assert.deepStrictEqual(yield* stopped.exit, { code: 0, signal: null })

        const killed = yield* startOn(dataDir, model)
        const kept = yield* historyOf(killed.url, "s")
        assert.deepStrictEqual(
          kept.map(({ role, content, metadata }) => [role, content, metadata?.status]),
          [
            ["user", "Count", undefined],
            ["assistant", "One two", "interrupted"]
          ]
        )
        model.push(hanging)
        const last = yield* openStream(`${killed.url}/api/v1/chat/stream`, {
          message: "Go on",
          session_id: "s"
        })
        const { turn_id } = yield* last.until("start")
        yield* last.until("delta")
        yield* killed.kill("SIGKILL")
        assert.deepStrictEqual(yield* killed.exit, { code: null, signal: "SIGKILL" })

        const restarted = yield* startOn(dataDir, model)
        assert.deepStrictEqual(
          (yield* historyOf(restarted.url, "s")).map(({ content }) => content),
          ["Count", "One two", "Go on"]
        )
        const trace = yield* ask(`${restarted.url}/api/v1/turns/${turn_id}/trace`)
        assert.strictEqual(trace.body.status, "interrupted")
        model.push(Reply.text("Three."))
        const { body } = yield* ask(`${restarted.url}/api/v1/chat`, { message: "Please", session_id: "s" })
        assert.deepInclude(body, { success: true, response: "Three." })
        assert.isUndefined(faultOf(model.requests.at(-1)?.body ?? { messages: [] }))
        assert.deepStrictEqual(
          model.requests
            .at(-1)
            ?.body.messages.slice(1)
            .map(({ content }) => content),
          ["Count", "One two", "Go on\n\nPlease"]
        )
        yield* restarted.kill("SIGINT")
        assert.deepStrictEqual(yield* restarted.exit, { code: 0, signal: null })
      }),
    timeout
  )

  it.effect(
    "says in one line that its port is in use",
    () =>
      Effect.gen(function* () {
        const other = yield* Effect.acquireRelease(
          Effect.callback<ReturnType<typeof createServer>>((resume) => {
            const server = createServer().listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
          }),
          (server) => Effect.sync(() => server.close())
        )
        const { port } = other.address() as AddressInfo
        const server = yield* start({
          DATA_DIR: yield* tempFolder((yield* FirstRun).dataDir),
          PORT: String(port),
          // Its warnings of slow statements are not what is asked for here.
          LOG_LEVEL: "Error"
        })
        assert.deepStrictEqual(yield* server.exit, { code: 1, signal: null })
        assert.strictEqual(server.stderr(), `voice-agent-api: PORT: ${port} is in use by another program\n`)
        assert.strictEqual(server.stdout(), "")
      }),
    timeout
  )
})

describe("a server that is told nonsense", () => {
  const problemsOf = (settings: Readonly<Record<string, string>>) =>
    Effect.gen(function* () {
      const server = yield* start(settings)
      assert.deepStrictEqual(yield* server.exit, { code: 1, signal: null })
      assert.strictEqual(server.stdout(), "")
      return server.stderr().trimEnd().split("\n")
    })

  it.live(
    "says what is wrong, a line for each value, and nothing more",
    () =>
      Effect.gen(function* () {
        const lines = yield* problemsOf({
          PORT: "http",
          LOG_LEVEL: "loud",
          TURN_TIMEOUT: "soon",
          DATA_DIR: "/dev/null"
        })
        assert.strictEqual(lines.length, 3)
        for (const name of ["PORT", "LOG_LEVEL", "TURN_TIMEOUT"]) {
          assert.strictEqual(lines.filter((line) => line.startsWith(`voice-agent-api: ${name}: `)).length, 1)
        }
      }),
    timeout
  )

  it.live(
    "does not listen to other machines without credentials",
    () =>
      Effect.gen(function* () {
        const lines = yield* problemsOf({ HOST: "0.0.0.0", PORT: "0", DATA_DIR: "/dev/null" })
        assert.strictEqual(lines.length, 1)
        assert.include(lines[0], "API_KEYS")
      }),
    timeout
  )

  it.live(
    "says in one line that its data directory can't be one",
    () =>
      Effect.gen(function* () {
        const lines = yield* problemsOf({ PORT: "0", DATA_DIR: "/dev/null" })
        assert.strictEqual(lines.length, 1)
        assert.isTrue(lines[0]?.startsWith("voice-agent-api: DATA_DIR: "))
      }),
    timeout
  )
})
