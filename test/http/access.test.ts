import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import * as TestServer from "../support/TestServer.ts"
import { assertIds, assertProblem, call, exchange, readAnswer } from "./Client.ts"
import { endpoints } from "./Endpoints.ts"

const keys = ["key-one-of-two", "key-two-of-two"]
const origins = ["https://app.example", "http://localhost:5173"]

const isOpen = (path: string) => path.startsWith("/health")

const routes: ReadonlyArray<{ readonly method: string; readonly path: string; readonly body?: unknown }> = [
  ...endpoints.map(({ body, name, path }) => ({
    method: name.split(" ")[0] ?? "",
    path: `/api/v1${path}`,
    body
  })),
  { method: "POST", path: "/api/v1/chat/stream", body: { message: "Hello" } },
  { method: "GET", path: "/api/v1/chat/stream?message=Hello" },
  { method: "DELETE", path: "/api/v1/session/nobody" },
  { method: "GET", path: "/api/v1/chat/ws" },
  { method: "GET", path: "/ws" },
  { method: "GET", path: "/metrics" }
]

const server = TestServer.layer(() => Reply.text("Hello there."), {
  API_KEYS: keys.join(", "),
  CORS_ORIGINS: origins.join(",")
})

const handshake = (path: string, headers: string) =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${headers}\r\n`
const closeFrame = new Uint8Array([0x88, 0x80, 0, 0, 0, 0])

layer(server, { excludeTestServices: true })("with API keys and origins", (it) => {
  for (const route of routes) {
    const open = isOpen(route.path.slice("/api/v1".length))
    it.effect(`${route.method} ${route.path} ${open ? "needs no key" : "needs a key"}`, () =>
      Effect.gen(function* () {
        for (const wrong of [
          undefined,
          "",
          "key-one-of-tw",
          "key-one-of-two2",
          keys.join(", "),
          "KEY-ONE-OF-TWO"
        ]) {
          const answer = yield* call(route.path, {
            ...route,
            headers: wrong === undefined ? {} : { "x-api-key": wrong }
          })
          if (open) {
            assert.strictEqual(answer.status, 200)
            continue
          }
          assertProblem(answer, { status: 401, code: "UNAUTHORIZED" })
          assert.match(answer.headers.get("www-authenticate") ?? "", /^ApiKey /)
          for (const key of keys) assert.notInclude(answer.text, key)
        }
        for (const key of keys) {
          const answer = yield* call(route.path, { ...route, headers: { "x-api-key": key } })
          assert.notStrictEqual(answer.status, 401)
        }
      })
    )
  }

  it.effect("a WebSocket handshake needs a key", () =>
    Effect.gen(function* () {
      for (const path of ["/ws", "/api/v1/chat/ws"]) {
        for (const key of ["", "X-API-Key: wrong\r\n"]) {
          const refused = readAnswer(yield* exchange(handshake(path, key)))
          assertProblem(refused, { status: 401, code: "UNAUTHORIZED" })
        }
        const accepted = yield* exchange(handshake(path, `X-API-Key: ${keys[0]}\r\n`), closeFrame)
        assert.match(accepted, /^HTTP\/1\.1 101 /)
      }
    })
  )

  it.effect("the key is asked for before the request is looked at", () =>
    Effect.gen(function* () {
      for (const body of ["{", "[]", "x".repeat(2 * 1024 * 1024)]) {
        assertProblem(yield* call("/api/v1/chat", { body }), { status: 401, code: "UNAUTHORIZED" })
      }
    })
  )

  it.effect("pages need no key", () =>
    Effect.gen(function* () {
      for (const path of ["/", "/docs", "/openapi.json"]) {
        assert.strictEqual((yield* call(path)).status, 200, path)
      }
    })
  )

  for (const origin of origins) {
    it.effect(`a page of ${origin} may call, without a key for the preflight`, () =>
      Effect.gen(function* () {
        const preflight = yield* call("/api/v1/chat", {
          method: "OPTIONS",
          headers: {
            origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-api-key,authorization,x-request-id,traceparent"
          }
        })
        assert.strictEqual(preflight.status, 204)
        assertIds(preflight)
        assert.strictEqual(preflight.headers.get("access-control-allow-origin"), origin)
        assert.match(preflight.headers.get("access-control-allow-methods") ?? "", /GET.*POST.*DELETE/)
        const allowed = (preflight.headers.get("access-control-allow-headers") ?? "").split(",")
        assert.includeMembers(allowed, [
          "content-type",
          "x-api-key",
          "authorization",
          "x-request-id",
          "traceparent"
        ])

        for (const path of ["/api/v1/health/live", "/api/v1/tools", "/api/v1/nowhere"]) {
          const { headers } = yield* call(path, { headers: { origin } })
          assert.strictEqual(headers.get("access-control-allow-origin"), origin, path)
          assert.match(headers.get("vary") ?? "", /origin/i, path)
          assert.match(headers.get("access-control-expose-headers") ?? "", /x-request-id/, path)
        }
      })
    )
  }

  it.effect("pages of other origins may not", () =>
    Effect.gen(function* () {
      for (const origin of [
        "https://evil.example",
        "null",
        "https://app.example.evil",
        "https://APP.example/"
      ]) {
        for (const method of ["OPTIONS", "GET"]) {
          const { headers } = yield* call("/api/v1/health/live", {
            method,
            headers: { origin, "access-control-request-method": "GET" }
          })
          assert.isNull(headers.get("access-control-allow-origin"), `${method} ${origin}`)
        }
      }
    })
  )
})

layer(
  TestServer.layer(() => Reply.text("Hello there."), { CORS_ORIGINS: "https://app.example" }),
  {
    excludeTestServices: true
  }
)("with one origin", (it) => {
  it.effect("pages of others may not open a WebSocket, its own and this server's may", () =>
    Effect.gen(function* () {
      for (const path of ["/ws", "/api/v1/chat/ws"]) {
        for (const origin of ["https://evil.example", "null", "http://y"]) {
          const refused = readAnswer(yield* exchange(handshake(path, `Origin: ${origin}\r\n`)))
          assertProblem(refused, { status: 403, code: "FORBIDDEN" })
        }
        for (const origin of ["", "Origin: https://app.example\r\n", "Origin: http://x\r\n"]) {
          assert.match(yield* exchange(handshake(path, origin), closeFrame), /^HTTP\/1\.1 101 /)
        }
      }
    })
  )

  it.effect("others are not told of it", () =>
    Effect.gen(function* () {
      const { headers } = yield* call("/api/v1/health/live", { headers: { origin: "https://evil.example" } })
      assert.isNull(headers.get("access-control-allow-origin"))
      const own = yield* call("/api/v1/health/live", { headers: { origin: "https://app.example" } })
      assert.strictEqual(own.headers.get("access-control-allow-origin"), "https://app.example")
    })
  )
})
