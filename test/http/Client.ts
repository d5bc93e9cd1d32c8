/**
 * Owns how these tests call the test server, and what they hold every problem against.
 */
import { connect } from "node:net"
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { TestServer } from "../support/TestServer.ts"

// biome-ignore lint/suspicious/noExplicitAny: bodies are looked into, in every shape they may have
export type Json = any

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  /** The parsed JSON, or `undefined` for what is none. */
  readonly body: Json
}

export interface Call {
  readonly method?: string
  /** Text and bytes are sent as they are, anything else as JSON. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

const parse = (text: string): Json => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** `GET` without a body, `POST` with one. */
export const call = (
  path: string,
  { body, headers, method }: Call = {}
): Effect.Effect<Answer, never, TestServer> =>
  Effect.flatMap(TestServer, ({ url }) =>
    Effect.promise(async (signal) => {
      const response = await fetch(`${url}${path}`, {
        method: method ?? (body === undefined ? "GET" : "POST"),
        headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
        ...(body === undefined
          ? {}
          : { body: typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body) }),
        signal
      } as RequestInit)
      const text = await response.text()
      return { status: response.status, headers: response.headers, text, body: parse(text) }
    })
  )

/** Writes bytes on a connection of its own. Answers what came back until the server closed it. */
export const exchange = (
  ...pieces: ReadonlyArray<string | Uint8Array>
): Effect.Effect<string, never, TestServer> =>
  Effect.flatMap(TestServer, ({ url }) =>
    Effect.callback<string>((resume) => {
      let received = ""
      const socket = connect(Number(new URL(url).port), "127.0.0.1", () => {
        for (const piece of pieces) socket.write(piece)
      })
      socket.setEncoding("utf8")
      socket.on("data", (text: string) => {
        received += text
      })
      // A reset after the answer is as good as an end.
      socket.on("error", () => undefined)
      socket.on("close", () => resume(Effect.succeed(received)))
      return Effect.sync(() => socket.destroy())
    })
  )

/** Writes bytes and goes away at once, without waiting for an answer. */
export const hangUp = (bytes: string): Effect.Effect<void, never, TestServer> =>
  Effect.flatMap(TestServer, ({ url }) =>
    Effect.callback<void>((resume) => {
      const socket = connect(Number(new URL(url).port), "127.0.0.1", () => {
        socket.write(bytes, () => socket.resetAndDestroy())
      })
      socket.on("error", () => undefined)
      socket.on("close", () => resume(Effect.void))
    })
  )

/** One response as it was on the wire. */
export const readAnswer = (wire: string): Answer => {
  const [head = "", ...rest] = wire.split("\r\n\r\n")
  const [statusLine = "", ...lines] = head.split("\r\n")
  const text = rest.join("\r\n\r\n")
  return {
    status: Number(statusLine.split(" ")[1]),
    headers: new Headers(
      lines.map((line): [string, string] => [
        line.slice(0, line.indexOf(":")),
        line.slice(line.indexOf(":") + 1)
      ])
    ),
    text,
    body: parse(text)
  }
}

const traceparent = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/

/** What every response carries. Answers its trace id. */
export const assertIds = ({ headers }: Answer): string => {
  assert.match(headers.get("x-request-id") ?? "", /^[\x21-\x7e]{1,128}$/)
  const [, traceId] = traceparent.exec(headers.get("traceparent") ?? "") ?? []
  assert.isDefined(traceId, `traceparent: ${headers.get("traceparent")}`)
  return traceId ?? ""
}

export interface ExpectedProblem {
  readonly status: number
  readonly code: string
  /** The fields it names, all of them. */
  readonly fields?: ReadonlyArray<string>
}

const problemKeys = ["detail", "error_code", "request_id", "status", "title", "trace_id", "type"]

/** Things of the inside that no client should see. */
const inside = /node_modules|\.ts:\d|\.js:\d|\n\s+at |Error:|SqlError|postgres|undefined|\[object/i

/** No answer may hold it. */
export const secret = "sk-never-to-be-told"

/** Holds an answer against the contract's form for errors. */
export const assertProblem = (answer: Answer, expected: ExpectedProblem) => {
  const { body, headers, status, text } = answer
  assert.strictEqual(status, expected.status, text)
  assert.strictEqual(headers.get("content-type"), "application/problem+json")
  const traceId = assertIds(answer)
  const isValidation = expected.code === "VALIDATION_ERROR"
  assert.deepStrictEqual(
    Object.keys(body).sort(),
    isValidation ? [...problemKeys, "errors"].sort() : problemKeys
  )
  assert.strictEqual(body.status, status)
  assert.strictEqual(body.error_code, expected.code)
  assert.strictEqual(
    body.type,
    `urn:voice-agent-api:problem:${expected.code.toLowerCase().replaceAll("_", "-")}`
  )
  assert.isNotEmpty(body.title)
  assert.isNotEmpty(body.detail)
  assert.strictEqual(body.request_id, headers.get("x-request-id"))
  assert.strictEqual(body.trace_id, traceId)
  assert.notMatch(text, inside)
  assert.notInclude(text, secret)
  if (!isValidation) return
  assert.deepStrictEqual(
    body.errors.map((issue: Json) => issue.field),
    expected.fields
  )
  for (const issue of body.errors) {
    assert.deepStrictEqual(Object.keys(issue).sort(), ["field", "message"])
    assert.isNotEmpty(issue.message)
    assert.include(body.detail, `${issue.field}: ${issue.message}`)
  }
}

/** The server goes on serving. */
export const assertServing = Effect.gen(function* () {
  const { body, status } = yield* call("/api/v1/health/ready")
  assert.deepStrictEqual({ body, status }, { body: { status: "ready" }, status: 200 })
})
