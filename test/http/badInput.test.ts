import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import * as TestServer from "../support/TestServer.ts"
import {
  assertProblem,
  assertServing,
  call,
  type ExpectedProblem,
  exchange,
  readAnswer,
  secret
} from "./Client.ts"
import { accepts, api, invalid, long, refuses } from "./Refusals.ts"

const server = TestServer.layer(() => Reply.text("Hello there."), { LLM_API_KEY: secret })

const unfit = (...fields: ReadonlyArray<string>): ExpectedProblem => ({ ...invalid(...fields), status: 422 })
const noSession: ExpectedProblem = { status: 404, code: "SESSION_NOT_FOUND" }
const noTool: ExpectedProblem = { status: 404, code: "TOOL_NOT_FOUND" }
const tooLarge: ExpectedProblem = { status: 413, code: "PAYLOAD_TOO_LARGE" }
const wrongType: ExpectedProblem = { status: 415, code: "UNSUPPORTED_MEDIA_TYPE" }

const enc = encodeURIComponent

/** Unfit for any store, in a field of text. */
const notText = ["a\u0000b", "a\ud800b", "\udc00"]

const noMessage = ["", " ", "\n\t\u3000 ", long(4001), "字".repeat(4001), "😀".repeat(4001), ...notText]
const noName = [5, true, {}, [], "", long(256), long(10_000), ...notText]
const noObject = ["text", 5, true, [], { a: "\u0000" }, { "\ud800": 1 }, { a: [{ b: "\udfff" }] }]
const noSettings = ["text", 5, []]
const noPercent = [-1, 100.1, "50", true, {}]

/** Wrong values of every field, by endpoint. `base` has the required ones. */
const fields: ReadonlyArray<{
  readonly path: string
  readonly base: object
  readonly wrong: Readonly<Record<string, ReadonlyArray<unknown>>>
}> = [
  ...["/chat", "/chat/stream"].map((path) => ({
    path,
    base: { message: "Hello" },
    wrong: {
      message: [undefined, null, 5, true, {}, ["Hello"], ...noMessage],
      session_id: noName,
      user_id: noName,
      context: noObject,
      stream: ["true", 1, {}],
      model_variant: ["turbo", "", 5, ["fast"]],
      model_params: noSettings,
      model_config: noSettings,
      model_config_override: noSettings
    }
  })),
  { path: "/session", base: {}, wrong: { user_id: noName, initial_context: noObject } },
  {
    path: "/conversation/message",
    base: { text: "Hello" },
    wrong: {
      text: [undefined, null, 5, ...noMessage],
      output_mode: ["audio", "video", "", 5],
      voice: noName,
      speed: noPercent,
      volume: noPercent,
      pitch: noPercent,
      session_id: noName,
      user_id: noName
    }
  },
  {
    path: "/mcp/execute",
    base: { tool_name: "calculator", arguments: { expression: "1" } },
    wrong: { tool_name: [undefined, null, 5, "", long(101)], arguments: ["text", 5, [], { a: "\u0000" }] }
  }
]

const posts = [
  "/chat",
  "/chat/stream",
  "/session",
  "/conversation/message",
  "/tools/execute/calculator",
  "/mcp/execute"
]

layer(server, { excludeTestServices: true })("bad input", (it) => {
  for (const { base, path, wrong } of fields) {
    for (const [field, values] of Object.entries(wrong)) {
      it.effect(`POST ${path} names ${field}`, () =>
        refuses(
          invalid(field),
          ...values.map((value) => [path, { body: { ...base, [field]: value } }] as const)
        )
      )
    }
  }

  for (const settings of ["model_params", "model_config", "model_config_override"]) {
    for (const [field, values] of Object.entries({
      model: ["", long(201), 5],
      temperature: [-0.1, 2.1, "1", {}],
      max_tokens: [0, 32_001, 1.5, -1, "7"]
    })) {
      it.effect(`POST /chat names ${settings}.${field}`, () =>
        refuses(
          invalid(`${settings}.${field}`),
          ...values.map(
            (value) => ["/chat", { body: { message: "Hi", [settings]: { [field]: value } } }] as const
          )
        )
      )
    }
  }

  it.effect("all wrong fields are named at once", () =>
    refuses(invalid("message", "session_id", "model_params.temperature", "model_params.max_tokens"), [
      "/chat",
      { body: { session_id: "", model_params: { temperature: 3, max_tokens: 0 } } }
    ])
  )

  it.effect("the limits themselves are fine", () =>
    accepts(
      ...[long(4000), "字".repeat(4000), "😀".repeat(4000), ` ${long(4000)}\n`].flatMap((message) => [
        ["/chat", { body: { message } }] as const,
        ["/conversation/message", { body: { text: message } }] as const,
        [`/chat/stream?message=${enc(message)}`] as const
      ]),
      ["/chat", { body: { message: "Hi", session_id: "😀".repeat(255), user_id: "字".repeat(255) } }],
      ["/chat", { body: { message: "Hi", model_params: { temperature: 0, max_tokens: 32_000 } } }],
      ["/conversation/message", { body: { text: "Hi", speed: 0, volume: 100, pitch: 0.5 } }],
      [`/chat/history/${enc("😀".repeat(255))}?limit=200&offset=0`],
      ["/chat/history/a?limit=1"]
    )
  )

  it.effect("GET /chat/stream names its parameters", () =>
    Effect.gen(function* () {
      yield* refuses(
        invalid("message"),
        ["/chat/stream"],
        ["/chat/stream?message="],
        ["/chat/stream?message=%20"]
      )
      yield* refuses(invalid("message"), [`/chat/stream?message=${long(4001)}`], ["/chat/stream?message=%00"])
      yield* refuses(invalid("message"), ["/chat/stream?message=a&message=b"])
      yield* refuses(invalid("session_id"), ["/chat/stream?message=a&session_id="])
      yield* refuses(invalid("session_id"), [`/chat/stream?message=a&session_id=${long(256)}`])
      yield* refuses(invalid("session_id"), ["/chat/stream?message=a&session_id=%00"])
      yield* refuses(invalid("user_id"), ["/chat/stream?message=a&user_id=%00"])
      yield* refuses(invalid("model_variant"), ["/chat/stream?message=a&model_variant=turbo"])
    })
  )

  for (const limit of [
    "0",
    "201",
    "-1",
    "abc",
    "1.5",
    "",
    "NaN",
    "Infinity",
    "0x10",
    "1e2",
    "%zz",
    "%00",
    "1&limit=2"
  ]) {
    it.effect(`a limit of ${JSON.stringify(limit)}`, () =>
      refuses(
        invalid("limit"),
        [`/chat/history/a?limit=${limit}`],
        [`/chat/history/a/?limit=${limit}&t=1`],
        [`/session/a/history?limit=${limit}`]
      )
    )
  }

  it.effect("other parameters of the history", () =>
    Effect.gen(function* () {
      for (const offset of ["-1", "abc", "1.5", "", "1e99"]) {
        yield* refuses(invalid("offset"), [`/chat/history/a?offset=${offset}`])
      }
      yield* refuses(invalid("include_metadata"), ["/chat/history/a?include_metadata=maybe"])
      yield* refuses(invalid("limit", "offset"), ["/chat/history/a?limit=x&offset=x"])
    })
  )

  for (const path of posts) {
    it.effect(`POST ${path} with a body that is no JSON object`, () =>
      refuses(
        invalid("body"),
        ...[
          "",
          "{",
          '{"message": "Hello"',
          "{'message': 'Hello'}",
          '{"message": "Hello"} {}',
          '{"message": NaN}',
          "hello",
          "[]",
          '[{"message": "Hello"}]',
          '"hello"',
          "5",
          "true",
          "null",
          "[".repeat(100_000),
          "[".repeat(100_000) + "]".repeat(100_000),
          '{"a":'.repeat(50_000)
        ].map((body) => [path, { method: "POST", body }] as const),
        [path, { method: "POST" }]
      )
    )

    it.effect(`POST ${path} with a body that is too large`, () =>
      Effect.gen(function* () {
        const body = JSON.stringify({ message: long(2 * 1024 * 1024) })
        yield* refuses(tooLarge, [path, { body }], [path, { body: Buffer.alloc(1024 * 1024 + 1, " ") }])
        const head = `POST ${api}${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n`
        const chunk = `10000\r\n${long(0x10000)}\r\n`
        const chunked = yield* exchange(
          `${head}Transfer-Encoding: chunked\r\n\r\n`,
          chunk.repeat(20),
          "0\r\n\r\n"
        )
        assertProblem(readAnswer(chunked), tooLarge)
        yield* assertServing
      })
    )

    it.effect(`POST ${path} with a body of another type`, () =>
      refuses(
        wrongType,
        ...[
          "text/plain",
          "text/xml; charset=utf-8",
          "application/x-www-form-urlencoded",
          "multipart/form-data; boundary=x",
          "application/octet-stream",
          "nonsense",
          "__proto__"
        ].map((type) => [path, { body: "{}", headers: { "content-type": type } }] as const)
      )
    )
  }

  it.effect("a body of almost 1 MiB is fine, whatever its type's spelling", () => {
    const padded = { message: "Hi", text: "Hi", padding: long(1024 * 1024 - 100) }
    return accepts(
      ["/chat", { body: padded }],
      ["/conversation/message", { body: padded }],
      ["/chat", { body: { message: "Hi" }, headers: { "content-type": "Application/JSON; charset=UTF-8" } }]
    )
  })

  it.effect("objects nested too deep", () =>
    Effect.gen(function* () {
      for (const [open, close] of [
        ["[", "]"],
        ['{"a":', "}"]
      ] as const) {
        for (const depth of [65, 10_000, 100_000]) {
          const deep = `{"a":${open.repeat(depth)}1${close.repeat(depth)}}`
          yield* refuses(invalid("context"), ["/chat", { body: `{"message":"Hi","context":${deep}}` }])
          yield* refuses(invalid("initial_context"), ["/session", { body: `{"initial_context":${deep}}` }])
          yield* refuses(invalid("body"), ["/tools/execute/calculator", { body: deep }])
          yield* refuses(invalid("arguments"), [
            "/mcp/execute",
            { body: `{"tool_name":"calculator","arguments":${deep}}` }
          ])
          yield* accepts(["/chat", { body: `{"message":"Hi","unknown":${deep}}` }])
        }
      }
      const shallow = `{"a":${"[".repeat(60)}1${"]".repeat(60)}}`
      yield* accepts(["/chat", { body: `{"message":"Hi","context":${shallow}}` }])
    })
  )

  it.effect("prototype keys are keys like others", () =>
    Effect.gen(function* () {
      const evil = `{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},"toString":1}`
      yield* accepts(
        ["/chat", { body: `{"message":"Hi","context":${evil},"__proto__":{"polluted":true},"toString":1}` }],
        ["/chat", { body: `{"message":"Hi","model_params":{"__proto__":{"temperature":9}}}` }],
        ["/session", { body: `{"initial_context":${evil},"constructor":null}` }]
      )
      yield* refuses(invalid("message"), ["/chat", { body: `{"__proto__":{"message":"Hi"}}` }])
      yield* refuses(invalid("tool_name"), [
        "/mcp/execute",
        { body: `{"__proto__":{"tool_name":"calculator"}}` }
      ])
      yield* refuses(unfit("expression"), [
        "/tools/execute/calculator",
        { body: `{"__proto__":{"expression":"1"},"constructor":{}}` }
      ])
      assert.isUndefined(Reflect.get({}, "polluted"))
    })
  )

  it.effect("unknown sessions, whatever their ids", () =>
    Effect.gen(function* () {
      for (const id of [
        "nobody",
        "'; DROP TABLE sessions; --",
        `"quoted" \\ 'id'`,
        "new\nline\r\nSet-Cookie: a=b",
        "../../etc/passwd",
        "a?b#c;d&e=f",
        "100%",
        "%00",
        "😀".repeat(254),
        "__proto__",
        "constructor",
        "null"
      ]) {
        const path = `/session/${enc(id)}`
        yield* refuses(noSession, [path], [path, { method: "DELETE" }], [`${path}/history`])
        const { body } = yield* call(`${api}/chat/history/${enc(id)}`)
        assert.strictEqual(body.session_id, id)
        assert.strictEqual(body.total_count, 0)
      }
    })
  )

  it.effect("odd ids are ids", () =>
    Effect.gen(function* () {
      for (const id of [
        `"quoted" \\ 'id'`,
        "new\nline\r\nX-Evil: 1",
        "a/b?c#d;e%2F",
        " ",
        "constructor",
        "😀"
      ]) {
        const answer = yield* call(`${api}/chat/stream`, { body: { message: "Hi", session_id: id } })
        assert.strictEqual(answer.headers.get("x-session-id"), enc(id))
        assert.isNull(answer.headers.get("x-evil"))
        const { body } = yield* call(`${api}/session/${enc(id)}`)
        assert.strictEqual(body.session.session_id, id)
      }
    })
  )

  it.effect("unknown tools", () =>
    Effect.gen(function* () {
      for (const name of [
        "nothing",
        "__proto__",
        "constructor",
        "toString",
        "Calculator",
        "calculator ",
        "\u0000",
        "'"
      ]) {
        yield* refuses(
          noTool,
          [`/tools/execute/${enc(name)}`, { body: { expression: "1" } }],
          [`/mcp/tools/${enc(name)}`],
          ["/mcp/execute", { body: { tool_name: name, arguments: {} } }]
        )
      }
    })
  )

  it.effect("arguments that do not fit the tool", () =>
    Effect.gen(function* () {
      for (const [tool, args, field] of [
        ["calculator", {}, "expression"],
        ["calculator", { expression: null }, "expression"],
        ["calculator", { expression: 5 }, "expression"],
        ["calculator", { expression: ["1"] }, "expression"],
        ["get_time", { format: "sundial" }, "format"],
        ["get_time", { timezone: 5 }, "timezone"],
        ["get_weather", {}, "location"],
        ["get_weather", { location: "Paris", units: "kelvin" }, "units"]
      ] as const) {
        yield* refuses(
          unfit(field),
          [`/tools/execute/${tool}`, { body: args }],
          ["/mcp/execute", { body: { tool_name: tool, arguments: args } }]
        )
      }
    })
  )

  it.effect("batches that are none", () =>
    Effect.gen(function* () {
      const path = "/mcp/execute/batch"
      const one = { tool_name: "calculator", arguments: { expression: "1" } }
      yield* refuses(invalid("body"), [path, { body: [] }], [path, { body: Array(21).fill(one) }])
      yield* refuses(invalid("body"), [path, { body: one }], [path, { body: "null" }], [path, { body: "" }])
      yield* refuses(invalid("0"), [path, { body: [5] }], [path, { body: [null, one] }])
      yield* refuses(invalid("1.tool_name"), [path, { body: [one, {}, { ...one, arguments: "1" }] }])
    })
  )

  it.effect("a value that was sent is never repeated in what is wrong with it", () =>
    Effect.gen(function* () {
      const body = {
        message: { password: secret },
        session_id: [secret],
        model_variant: secret,
        model_params: { temperature: secret }
      }
      const answer = yield* call(`${api}/chat`, { body, headers: { authorization: `Bearer ${secret}` } })
      assertProblem(answer, invalid("message", "session_id", "model_variant", "model_params.temperature"))
    })
  )
})
