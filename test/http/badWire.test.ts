import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import * as TestServer from "../support/TestServer.ts"
import {
  assertIds,
  assertProblem,
  assertServing,
  type Call,
  call,
  type ExpectedProblem,
  exchange,
  hangUp,
  readAnswer,
  secret
} from "./Client.ts"
import { api, invalid, long, refuses } from "./Refusals.ts"

const server = TestServer.layer(() => Reply.text("Hello there."), { LLM_API_KEY: secret })

const noRoute: ExpectedProblem = { status: 404, code: "NOT_FOUND" }

layer(server, { excludeTestServices: true })("bad addresses and bytes", (it) => {
  it.effect("ids that are none", () =>
    Effect.gen(function* () {
      for (const id of ["%00", "a%00b", long(256), long(10_000)]) {
        yield* refuses(
          invalid("id"),
          [`/session/${id}`],
          [`/session/${id}`, { method: "DELETE" }],
          [`/session/${id}/history`]
        )
        yield* refuses(invalid("session_id"), [`/chat/history/${id}`])
      }
    })
  )

  it.effect("paths that are not percent-encoded UTF-8, or too long", () =>
    Effect.gen(function* () {
      for (const id of ["%zz", "%", "%E4%A0", "%ED%A0%80", "%FF", "a%2", long(30_000)]) {
        yield* refuses(
          invalid("path"),
          [`/session/${id}`],
          [`/session/${id}/`, { method: "DELETE" }],
          [`/chat/history/${id}?limit=5`],
          [`/tools/execute/${id}`, { body: {} }],
          [`/mcp/tools/${id}`]
        )
      }
    })
  )

  it.effect("unknown routes", () =>
    Effect.gen(function* () {
      for (const [path, request] of [
        ["/nowhere"],
        ["/api"],
        ["/api/v1"],
        ["/api/v2/chat", { body: { message: "Hi" } }],
        ["/api/v1/chat/history"],
        ["/api/v1/session/a/b"],
        ["/api/v1/tools/execute", { body: {} }],
        ["/%zz"],
        ["/%00"],
        [`/${long(20_000)}`]
      ] as ReadonlyArray<readonly [string, Call?]>) {
        assertProblem(yield* call(path, request), noRoute)
        yield* assertServing
      }
    })
  )

  it.effect("wrong methods, with those that are right", () =>
    Effect.gen(function* () {
      for (const [method, path, allow] of [
        ["GET", "/api/v1/chat", "POST"],
        ["DELETE", "/api/v1/chat/", "POST"],
        ["PUT", "/api/v1/chat/stream", "POST, GET"],
        ["POST", "/api/v1/chat/history/a", "GET, HEAD"],
        ["GET", "/api/v1/session", "POST"],
        ["PATCH", "/api/v1/session/a", "GET, HEAD, DELETE"],
        ["POST", "/api/v1/tools", "GET, HEAD"],
        ["GET", "/api/v1/tools/execute/calculator", "POST"],
        ["GET", "/api/v1/mcp/execute", "POST"],
        ["OPTIONS", "/api/v1/chat", "POST"],
        ["POST", "/api/v1/health", "GET, HEAD"],
        ["POST", "/ws", "GET, HEAD"],
        ["POST", "/", "GET, HEAD"],
        ["DELETE", "/docs", "GET, HEAD"],
        ["PUT", "/openapi.json?a=b", "GET, HEAD"],
        ["GET", "/API/v1/Chat", "POST"],
        ["PURGE", "/api/v1/chat", "POST"]
      ] as const) {
        const answer = yield* call(path, { method })
        assertProblem(answer, { status: 405, code: "METHOD_NOT_ALLOWED" })
        assert.strictEqual(answer.headers.get("allow"), allow, path)
        yield* assertServing
      }
    })
  )

  const head = `POST ${api}/chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n`

  for (const [name, bytes] of [
    ["words", "hello there\r\n\r\n"],
    ["a TLS handshake", new Uint8Array([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0, 255, 13, 10, 13, 10])],
    ["an unknown version", "GET / HTTP/9.9\r\nHost: x\r\n\r\n"],
    ["a space in the path", `GET ${api}/session/a b HTTP/1.1\r\nHost: x\r\n\r\n`],
    ["raw UTF-8 in the path", `GET ${api}/session/ü HTTP/1.1\r\nHost: x\r\n\r\n`],
    ["NUL in a header", `GET ${api}/health HTTP/1.1\r\nHost: x\r\nX-A: a\u0000b\r\n\r\n`],
    ["two lengths", `${head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`],
    ["a negative length", `${head}Content-Length: -1\r\n\r\n{}`],
    ["a length that is no number", `${head}Content-Length: two\r\n\r\n{}`],
    [
      "a length and chunks",
      `${head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n`
    ],
    ["a chunk of no size", `${head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`],
    ["more body than its length", `${head}Content-Length: 16\r\n\r\n{"message":"Hi"} and more\r\n\r\n`]
  ] as const) {
    it.effect(`not HTTP: ${name}`, () =>
      Effect.gen(function* () {
        assertProblem(readAnswer(yield* exchange(bytes)), invalid("request"))
        yield* assertServing
      })
    )
  }

  it.effect("headers that are too large", () =>
    Effect.gen(function* () {
      for (const bytes of [
        `GET ${api}/health HTTP/1.1\r\nHost: x\r\nX-Big: ${long(70_000)}\r\n\r\n`,
        `GET /${long(70_000)} HTTP/1.1\r\nHost: x\r\n\r\n`,
        `GET ${api}/health HTTP/1.1\r\nHost: x\r\n${"X-Many: a\r\n".repeat(7000)}\r\n`
      ]) {
        assertProblem(readAnswer(yield* exchange(bytes)), { status: 431, code: "HEADERS_TOO_LARGE" })
        yield* assertServing
      }
    })
  )

  it.effect("clients that go away in the middle of a body", () =>
    Effect.gen(function* () {
      for (const bytes of [
        `${head}Content-Length: 1000\r\n\r\n{"message":"Hi","session_id":"cut"}`,
        `${head}Transfer-Encoding: chunked\r\n\r\nff\r\n{"message":`,
        head
      ]) {
        yield* hangUp(bytes)
        yield* assertServing
      }
      const { body } = yield* call(`${api}/chat/history/cut`)
      assert.strictEqual(body.total_count, 0)
    })
  )

  it.effect("what a client expects is no reason to refuse it", () =>
    Effect.gen(function* () {
      const request = `${head}Expect: miracles\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{"message":"Hi"}`
      const answer = readAnswer(yield* exchange(request))
      assert.strictEqual(answer.status, 200)
      assertIds(answer)
    })
  )
})
