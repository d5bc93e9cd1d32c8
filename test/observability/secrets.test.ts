import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Reply, type ScriptedServer } from "voice-agent-api/testing"
import { Tools } from "../../src/tools/Tools.ts"
import { eventually } from "../support/ChatClient.ts"
import { json, makeHttpRecorder, text } from "../support/HttpRecorder.ts"
import * as ServerProcess from "../support/ServerProcess.ts"
import { make } from "./LoggedApp.ts"
import { textOf } from "./TracedApp.ts"

/** None looks like a key, so that no pattern finds it: what is blotted out is known, or was never told. */
const planted = {
  llmKey: "zq1LlmKeyOfThisTest",
  openAiKey: "zq2OpenAiKeyOfThisTest",
  tavilyKey: "zq3TavilyKeyOfThisTest",
  callerKey: "zq4CallerKeyOfThisTest",
  otherCallerKey: "zq5OtherCallerKeyOfThisTest",
  wrongKey: "zq6WrongKeyOfThisTest",
  bearer: "zq7BearerOfThisTest",
  databasePassword: `zq8"Database\\Password/OfThisTest`,
  modelPassword: "zq9ModelPasswordOfThisTest",
  queryKey: "zr1QueryKeyOfThisTest",
  queryToken: "zr2QueryTokenOfThisTest",
  exporterHeader: "zr3ExporterHeaderOfThisTest",
  cookie: "zr4CookieOfThisTest"
} as const

const variants = Object.entries(planted).flatMap(([name, secret]) =>
  [
    secret,
    JSON.stringify(secret).slice(1, -1),
    encodeURIComponent(secret),
    Buffer.from(secret).toString("base64"),
    Buffer.from(`model:${secret}`).toString("base64")
  ].map((variant) => ({ name, variant }))
)

/** The names of the secrets that are in there. */
const foundIn = (text: string): ReadonlyArray<string> => [
  ...new Set(variants.filter(({ variant }) => text.includes(variant)).map(({ name }) => name))
]

const databaseUrl = (host: string) =>
  `postgres://app:${encodeURIComponent(planted.databasePassword)}@${host}/app`

const settings = ({ baseUrl }: Pick<ScriptedServer, "baseUrl">) => ({
  LLM_BASE_URL: baseUrl.replace("http://", `http://model:${planted.modelPassword}@`),
  LLM_API_KEY: planted.llmKey,
  OPENAI_API_KEY: planted.openAiKey,
  TAVILY_API_KEY: planted.tavilyKey,
  API_KEYS: `${planted.callerKey}, ${planted.otherCallerKey}`,
  DATABASE_URL: databaseUrl("db.invalid"),
  LOG_LEVEL: "Debug",
  TRACE_STORE: "postgres",
  TRACE_CONTENT: "true",
  SLOW_SQL: "0 millis",
  LLM_RETRY_DELAY: "1 millis"
})

/** What a server says that likes to repeat what it was told. */
const echo = [
  `Incorrect API key provided: ${planted.llmKey}`,
  `Authorization: Bearer ${planted.llmKey}`,
  `model:${planted.modelPassword} as ${Buffer.from(`model:${planted.modelPassword}`).toString("base64")}`,
  databaseUrl("db.invalid")
].join("; ")
const echoed = { error: { message: echo, code: "invalid_api_key", param: echo } }

/** The SDK reads them by itself, as OpenTelemetry says; there is no other way in. */
const withExporterHeaders = Effect.acquireRelease(
  Effect.sync(() => {
    process.env.OTEL_EXPORTER_OTLP_HEADERS = `x-collector-key=${planted.exporterHeader}`
  }),
  () => Effect.sync(() => void delete process.env.OTEL_EXPORTER_OTLP_HEADERS)
)

/** Everything that an answer is: status line, headers, body. */
const whole = (url: string, init: RequestInit = {}): Effect.Effect<string> =>
  Effect.promise(async () => {
    const response = await fetch(url, init)
    return `${response.status} ${JSON.stringify([...response.headers])} ${await response.text()}`
  })

/** All frames of a WebSocket up to the first `error` or `end`. */
const frames = (url: string, message: object): Effect.Effect<string> =>
  Effect.callback((resume) => {
    const all: Array<string> = []
    // A client of the platform's own can't send headers in a handshake.
    const socket = new WebSocket(url.replace("http:", "ws:"), {
      headers: { "x-api-key": planted.callerKey }
    } as never)
    socket.addEventListener("open", () => socket.send(JSON.stringify(message)))
    socket.addEventListener("message", ({ data }) => {
      all.push(data)
      if (!/"type":"(?:error|end)"/.test(data)) return
      socket.close()
      resume(Effect.succeed(all.join("\n")))
    })
    socket.addEventListener("error", () => resume(Effect.die(new Error(`The WebSocket broke: ${all}`))))
  })

describe("planted secrets", () => {
  it.live("are in nothing that leaves a running server", () =>
    Effect.gen(function* () {
      yield* withExporterHeaders
      const upstream = yield* makeHttpRecorder
      const app = yield* make([], {
        settings,
        tools: Layer.unwrap(
          Effect.sync(() =>
            Tools.layerWith({
              webSearch: `${upstream.url}/search?api_key=${planted.tavilyKey}`,
              openMeteo: { geocoding: `${upstream.url}/geo`, forecast: `${upstream.url}/forecast` }
            })
          )
        )
      })
      const told: Array<string> = []
      const credentials = {
        "content-type": "application/json",
        "x-api-key": planted.callerKey,
        authorization: `Bearer ${planted.bearer}`,
        cookie: `session=${planted.cookie}`
      }
      const query = `api_key=${planted.queryKey}&token=${planted.queryToken}&key=${planted.callerKey}`
      const say = (path: string, body?: unknown, headers: Record<string, string> = credentials) =>
        Effect.map(
          whole(`${app.url}${path}`, {
            headers,
            ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) })
          }),
          (answer) => {
            told.push(answer)
            return answer
          }
        )

      // A model that repeats its key in whatever way it fails.
      const failures = [
        Reply.status(401, { body: echoed }),
        Reply.status(400, { body: echo }),
        Reply.status(403, { body: echoed, headers: { "x-echo": planted.llmKey } }),
        Reply.text("One two three", { fault: { after: 2, kind: "error", message: echo } }),
        Reply.raw([`data: {"error":${JSON.stringify(echo)}}\n\n`]),
        Reply.raw([`data: {${echo}\n\n`]),
        Reply.raw([echo], { contentType: "application/json" }),
        Reply.cut
      ]
      for (const [n, failure] of failures.entries()) {
        app.model.push(failure)
        if (failure === Reply.cut) app.model.push(failure, failure, failure)
        yield* say(`/api/v1/chat?${query}`, { message: "hi", session_id: `json-${n}` })
        app.model.push(failure)
        if (failure === Reply.cut) app.model.push(failure, failure, failure)
        yield* say(`/api/v1/chat/stream?message=hi&session_id=sse-${n}&${query}`)
      }
      app.model.push(Reply.status(401, { body: echoed }))
      told.push(yield* frames(`${app.url}/api/v1/chat/ws?${query}`, { message: "hi", session_id: "ws" }))

      // A tool's server that does.
      for (const reply of [
        json({ detail: echo + planted.tavilyKey }, 401),
        text(echo + planted.tavilyKey, 500),
        text(echo + planted.tavilyKey, 500),
        text(echo + planted.tavilyKey, 500),
        text(`not JSON: ${planted.tavilyKey}`)
      ]) {
        upstream.script(reply)
      }
      app.model.push(
        Reply.toolCalls([{ name: "web_search", arguments: { query: "news" } }]),
        Reply.toolCalls([{ name: "web_search", arguments: { query: "more" } }]),
        Reply.toolCalls([{ name: "web_search", arguments: { query: "other" } }]),
        Reply.text("No news.")
      )
      const turn = yield* say("/api/v1/chat/stream", { message: "news?", session_id: "tools" })
      assert.include(turn, "No news.")
      assert.lengthOf(upstream.requests, 5)
      assert.include(JSON.stringify(upstream.requests[0]?.headers), planted.tavilyKey)
      upstream.script(json({ detail: planted.tavilyKey }, 403))
      yield* say("/api/v1/tools/execute/web_search", { query: "hi" })

      // Callers who are wrong, in the right place and in others.
      const wrong = { "x-api-key": planted.wrongKey, authorization: `Bearer ${planted.bearer}` }
      yield* say(`/api/v1/info?${query}`, undefined, wrong)
      yield* say("/api/v1/chat", { message: "hi" }, { ...wrong, "content-type": "application/json" })
      yield* say(`/nothing?${query}`)
      yield* say(`/api/v1/chat/history/none?limit=${planted.queryKey}&${query}`)
      yield* say("/api/v1/chat", { message: 7, api_key: planted.queryKey, session_id: [planted.wrongKey] })
      yield* say("/api/v1/tools/execute/calculator", { expression: { key: planted.wrongKey } })
      for (const path of ["/", "/docs", "/openapi.json", "/api/v1/health", "/api/v1/info", "/api/v1/tools"]) {
        yield* say(path)
      }

      // A bug of ours: what the database says, with all there is to know of the request.
      yield* app.sql`ALTER TABLE messages RENAME COLUMN content TO content_gone`
      const broken = yield* say(`/api/v1/chat/history/tools?${query}`)
      assert.match(broken, /^500 /)
      yield* say("/api/v1/chat", { message: "hi", session_id: "broken" })
      yield* app.sql`ALTER TABLE messages RENAME COLUMN content_gone TO content`

      const turnId = /"turn_id":"([0-9a-f-]+)"/.exec(turn)?.[1]
      const traced = yield* say(`/api/v1/turns/${turnId}/trace?${query}`)
      assert.include(traced, "tool.web_search")
      yield* say("/metrics")

      const spans = yield* app.otlp.until((spans) =>
        spans.some((span) => span.name === "GET /api/v1/turns/:turn_id/trace")
      )
      assert.include(JSON.stringify(app.otlp.headers()), planted.exporterHeader)
      app.otlp.behave("refuse")
      yield* say("/api/v1/info")
      yield* eventually(
        Effect.sync(() => app.lines),
        (lines) => lines.some((line) => line.includes("could not be sent"))
      )
      const rows = yield* app.sql`SELECT row_to_json(trace_spans)::text AS row FROM trace_spans`
      assert.isAbove(rows.length, 100)
      const samples =
        yield* app.sql`SELECT row_to_json(performance_metrics)::text AS row FROM performance_metrics`

      for (const line of app.lines) assert.doesNotThrow(() => JSON.parse(line), undefined, line)
      const leaving: Readonly<Record<string, string>> = {
        logs: app.lines.join("\n"),
        spans: textOf(spans),
        rows: JSON.stringify(rows),
        samples: JSON.stringify(samples),
        answers: told.join("\n")
      }
      for (const [what, all] of Object.entries(leaving)) {
        assert.deepStrictEqual(foundIn(all), [], what)
      }
      // They were there to be found: the failures were told, less the secrets.
      assert.include(leaving.spans, "[redacted]")
      assert.include(leaving.logs, "Incorrect API key provided: [redacted]")
      assert.include(leaving.logs, "A request failed unexpectedly")
    })
  )

  it.live("are OpenAI's too, where there is no other key", () =>
    Effect.gen(function* () {
      const app = yield* make(
        [Reply.status(401, { body: { error: { message: `No such key: ${planted.openAiKey}` } } })],
        { settings: () => ({ OPENAI_API_KEY: planted.openAiKey }) }
      )
      const answer = yield* whole(`${app.url}/api/v1/chat/stream?message=hi`)
      assert.strictEqual(app.model.requests[0]?.headers.authorization, `Bearer ${planted.openAiKey}`)
      const spans = yield* app.otlp.until((spans) => spans.some((span) => span.name.startsWith("GET ")))
      assert.include(app.lines.join("\n"), "No such key: [redacted]")
      assert.deepStrictEqual(foundIn(textOf(spans) + answer + app.lines.join("\n")), [])
    })
  )

  describe("are in nothing that a server says in the terminal", () => {
    const environment = {
      ...settings({ baseUrl: "http://127.0.0.1:1/v1" }),
      PORT: "0",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://collector:${planted.modelPassword}@127.0.0.1:1`,
      OTEL_EXPORTER_OTLP_HEADERS: `x-collector-key=${planted.exporterHeader}`
    }

    it.live("when its database is not there", () =>
      Effect.gen(function* () {
        const server = yield* ServerProcess.start({
          ...environment,
          DATABASE_URL: databaseUrl("127.0.0.1:1")
        })
        const { code } = yield* server.exit
        assert.strictEqual(code, 1)
        assert.match(server.stderr(), /^voice-agent-api: DATABASE_URL: PostgreSQL at 127\.0\.0\.1:1/)
        assert.deepStrictEqual(foundIn(server.stdout() + server.stderr()), [])
      })
    )

    it.live("when its database's address is odd", () =>
      Effect.gen(function* () {
        const odd = `postgres://app:50%off-${planted.llmKey}@127.0.0.1:1/app`
        const server = yield* ServerProcess.start({ ...environment, DATABASE_URL: odd })
        const { code } = yield* server.exit
        assert.strictEqual(code, 1)
        assert.match(server.stderr(), /^voice-agent-api: DATABASE_URL: /)
        assert.deepStrictEqual(foundIn(server.stdout() + server.stderr()), [])
      })
    )

    it.live("when other settings are wrong", () =>
      Effect.gen(function* () {
        const server = yield* ServerProcess.start({
          ...environment,
          DATABASE_URL: `mysql://${planted.databasePassword}@x`,
          LLM_BASE_URL: `ftp://${planted.modelPassword}@x`,
          HOST: "0.0.0.0",
          API_KEYS: "",
          LLM_TOTAL_TIMEOUT: "soon"
        })
        const { code } = yield* server.exit
        assert.strictEqual(code, 1)
        assert.lengthOf(server.stderr().trim().split("\n"), 4)
        assert.deepStrictEqual(foundIn(server.stdout() + server.stderr()), [])
      })
    )

    it.live(
      "when all is well",
      () =>
        Effect.gen(function* () {
          const { DATABASE_URL, ...embedded } = environment
          const DATA_DIR = yield* ServerProcess.tempFolder()
          const server = yield* ServerProcess.start({ ...embedded, DATA_DIR })
          const url = yield* server.url
          yield* whole(`${url}/api/v1/chat`, {
            method: "POST",
            headers: { "content-type": "application/json", "x-api-key": planted.callerKey },
            body: JSON.stringify({ message: "hi" })
          })
          yield* server.kill("SIGTERM")
          yield* server.exit
          const said = server.stdout() + server.stderr()
          assert.include(said, "http://[redacted]@127.0.0.1:1/v1")
          assert.deepStrictEqual(foundIn(said), [])
        }),
      60_000
    )
  })
})
