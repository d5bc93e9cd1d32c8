/**
 * Whatever comes in, what goes out is as documented. A run takes its seed from `TEST_SEED`, or makes one and says it.
 */
import * as http from "node:http"
import { assert, layer } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import { Reply } from "voice-agent-api/testing"
import { ChatEvent } from "../../src/api/ChatEvent.ts"
import * as TestServer from "../support/TestServer.ts"
import { thorough } from "../support/thorough.ts"
import { call, type Json } from "./Client.ts"
import { violations } from "./JsonSchema.ts"
import {
  endpointOf,
  endpoints,
  type RandomRequest,
  randomFrames,
  randomRequest,
  someTurn
} from "./RandomRequest.ts"

const seed = process.env.TEST_SEED ?? String(Math.floor(Math.random() * 2 ** 32))

const options = (runs: number): Arbitrary.CheckOptions => ({
  runs: thorough ? runs * 10 : runs,
  seed,
  size: 8,
  concurrency: 8,
  maxShrinks: 60
})

/** Fails with the smallest input that does, and with what repeats it. */
const holds = <A>(
  input: Arbitrary.Arbitrary<A>,
  property: (value: A) => Effect.Effect<boolean, unknown>,
  runs: number
) =>
  Effect.gen(function* () {
    const failure = Arbitrary.formatCheckFailure(yield* Arbitrary.checkEffect(input, property, options(runs)))
    if (failure !== undefined) assert.fail(`${failure}\nSeed: TEST_SEED=${seed}`)
  })

interface Answer {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly text: string
}

const askOnce = (agent: http.Agent, url: string, { body, headers, method, target }: RandomRequest) =>
  Effect.callback<Answer, Error | "again">((resume) => {
    const request = http.request(url, {
      agent,
      method,
      path: target,
      headers: { ...headers, ...(body === undefined ? {} : { "content-length": Buffer.byteLength(body) }) }
    })
    request.on("response", (response) => {
      let text = ""
      response.setEncoding("utf8")
      response.on("data", (part: string) => {
        text += part
      })
      response.on("end", () =>
        resume(Effect.succeed({ status: response.statusCode ?? 0, headers: response.headers, text }))
      )
      response.on("error", (error) => resume(Effect.fail(error)))
    })
    request.on("upgrade", ({ headers, statusCode = 0 }, socket) => {
      socket.destroy()
      resume(Effect.succeed({ status: statusCode, headers, text: "" }))
    })
    // A connection that was kept may end just as it is used.
    request.on("error", (error) => resume(Effect.fail(request.reusedSocket ? "again" : error)))
    request.end(body)
    return Effect.sync(() => request.destroy())
  })

const ask = (agent: http.Agent, url: string, request: RandomRequest) =>
  Effect.retry(askOnce(agent, url, request), { while: (error) => error === "again" })

const check = (property: () => void) =>
  Effect.try({
    try: () => {
      property()
      return true
    },
    catch: (error) => (error instanceof Error ? error.message : String(error))
  })

const assertFits = (document: Json, schema: Json, value: unknown, what: string) => {
  const found = violations(document, schema, value)
  assert.isEmpty(found, `${what}: ${found.join("\n")}`)
}

/** What no endpoint answers for: the document has no path for it. */
const unrouted: Readonly<Record<number, string>> = {
  404: "NOT_FOUND",
  405: "METHOD_NOT_ALLOWED"
}

const problemKeys = ["type", "title", "status", "detail", "error_code", "request_id", "trace_id"]

const assertProblem = ({ headers, status, text }: Answer) => {
  assert.strictEqual(headers["content-type"], "application/problem+json", text)
  const problem = JSON.parse(text)
  assert.containsAllKeys(problem, problemKeys)
  assert.strictEqual(problem.status, status)
  assert.strictEqual(problem.request_id, headers["x-request-id"])
  assert.notMatch(text, /node_modules|\n\s+at |SqlError|\[object/)
  return problem
}

const decodeEvent = Schema.decodeUnknownSync(Schema.toCodecJson(ChatEvent))

const eventsOf = (stream: string): ReadonlyArray<unknown> =>
  stream
    .split("\n")
    .filter((line) => line.startsWith("data: "))
    .map((line) => JSON.parse(line.slice("data: ".length)))

const assertStream = (document: Json, text: string) => {
  const events = eventsOf(text)
  for (const event of events) {
    decodeEvent(event)
    assertFits(document, document.components.schemas.ChatEvent, event, "event")
  }
  assert.include(["end", "error", "cancelled"], (events.at(-1) as Json)?.type)
  assert.notInclude(text, "INTERNAL_ERROR")
}

const isLast = (event: Json) => ["end", "error", "cancelled"].includes(event.type)

/** `TestServer`'s model answers at once, sometimes with a tool call. */
const server = TestServer.layer(({ messages }) =>
  messages.length % 3 === 2 && messages.at(-1)?.role === "user"
    ? Reply.toolCalls([{ name: "calculator", arguments: { expression: "6*7" } }])
    : Reply.text(["All ", "right."], { delayMillis: 0 })
)

/** Their answers, by status, for saying that the requests reached all there is. */
const seen = new Map<string, number>()

layer(server, { excludeTestServices: true, timeout: 60_000 })("whatever comes in", (it) => {
  const published = Effect.map(call("/openapi.json"), ({ body }) => body)
  const agent = Effect.acquireRelease(
    Effect.sync(() => new http.Agent({ keepAlive: true })),
    (agent) => Effect.sync(() => agent.destroy())
  )

  it.effect(
    "over HTTP, what goes out is what the document says",
    () =>
      Effect.gen(function* () {
        console.log(`Whole-input tests: TEST_SEED=${seed}`)
        const { url } = yield* TestServer.TestServer
        const document = yield* published
        const connections = yield* agent
        const { text: stream } = yield* call("/api/v1/chat/stream", { body: { message: "Hello" } })
        const turn = eventsOf(stream).find((event) => (event as Json).type === "start") as Json

        const isDocumented = (request: RandomRequest, answer: Answer) => {
          const { headers, status, text } = answer
          const endpoint = endpointOf(request.method === "HEAD" ? "GET" : request.method, request.target)
          const name = `${endpoint?.method} ${endpoint?.path} ${status}`
          seen.set(name, (seen.get(name) ?? 0) + 1)
          if (status === 503) assert.match(String(headers["retry-after"]), /^\d+$/)
          else assert.isBelow(status, 500, text)
          if (status !== 101) {
            assert.match(String(headers["x-request-id"] ?? ""), /^[\x21-\x7e]{1,128}$/)
            assert.match(String(headers.traceparent), /^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/)
          }
          if (request.method === "HEAD") return assert.strictEqual(text, "")
          const problem = status >= 400 ? assertProblem(answer) : undefined

          if (problem !== undefined && unrouted[status] === problem.error_code) return
          assert.isDefined(endpoint, `${status}, where there is no endpoint`)
          const responses =
            document.paths[endpoint.path.replaceAll(/:(\w+)/g, "{$1}")][endpoint.method.toLowerCase()]
              .responses
          const response = responses[status]
          assert.isDefined(response, `${status} is not documented: ${text}`)
          for (const name of Object.keys(response.headers ?? {})) assert.property(headers, name.toLowerCase())
          const type = String(headers["content-type"] ?? "none")
          if (response.content === undefined) return assert.strictEqual(text, "")
          assert.property(response.content, type, `${status}: its type is not documented`)
          if (type === "text/event-stream") return assertStream(document, text)
          if (!type.endsWith("json")) return
          const body = JSON.parse(text)
          assertFits(document, response.content[type].schema, body, `${status}`)
          if (problem !== undefined) return
          const schemas = endpoint.successes.get(status) ?? []
          assert.isNotEmpty(schemas, `${status} is no success of the contract`)
          Schema.decodeUnknownSync(
            Schema.toCodecJson(Schema.Union(schemas)) as unknown as Schema.Codec<unknown>
          )(body)
        }

        yield* holds(
          randomRequest,
          (request) =>
            Effect.flatMap(
              ask(connections, url, { ...request, target: request.target.replace(someTurn, turn.turn_id) }),
              (answer) => check(() => isDocumented(request, answer))
            ),
          2_000
        )
        // It tried what it says: every endpoint, with success and without.
        const successes = [...seen.keys()].filter((key) => / [12]\d\d$/.test(key))
        const reached = new Set(successes.map((key) => key.slice(0, key.lastIndexOf(" "))))
        const silent = [...endpoints.keys()].filter((name) => !reached.has(name))
        assert.deepStrictEqual(silent, [])
        if (process.env.TEST_SHOW !== undefined) console.log([...seen].sort().join("\n"))
      }),
    300_000
  )

  it.effect(
    "over WebSocket, every frame is answered by an event of the contract, and the connection stays",
    () =>
      Effect.gen(function* () {
        const { url } = yield* TestServer.TestServer
        const document = yield* published

        const converse = (path: string, frames: ReadonlyArray<string>) =>
          Effect.callback<boolean, string>((resume) => {
            const socket = new WebSocket(`${url.replace("http", "ws")}${path}`)
            const left = [...frames]
            let closing = false
            const next = () => {
              const frame = left.shift()
              closing = frame === undefined || isClose(frame)
              socket.send(frame ?? `{"type":"close"}`)
            }
            const fail = (why: string) => resume(Effect.fail(why))
            socket.addEventListener("open", next)
            socket.addEventListener("message", ({ data }) => {
              try {
                const event = JSON.parse(String(data))
                decodeEvent(event)
                assertFits(document, document.components.schemas.ChatEvent, event, "event")
                assert.notStrictEqual(event.error_code, "INTERNAL_ERROR")
                if (isLast(event)) next()
              } catch (error) {
                fail(String(error))
              }
            })
            socket.addEventListener("close", ({ code }) =>
              closing && code === 1000 ? resume(Effect.succeed(true)) : fail(`closed with ${code}`)
            )
            return Effect.sync(() => socket.close())
          })

        const input = Arbitrary.all({
          path: Arbitrary.schema(Schema.Literals(["/api/v1/chat/ws", "/ws"])),
          frames: randomFrames
        })
        yield* holds(
          input,
          ({ frames, path }) =>
            Effect.timeoutOrElse(converse(path, frames), {
              duration: "10 seconds",
              orElse: () => Effect.fail("a frame was not answered")
            }),
          250
        )
      }),
    300_000
  )
})

const isClose = (frame: string): boolean => {
  try {
    return JSON.parse(frame)?.type === "close"
  } catch {
    return false
  }
}
