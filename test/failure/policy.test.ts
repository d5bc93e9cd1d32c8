import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply, type ScriptedReply } from "voice-agent-api/testing"
import { ask, eventsOf, eventually } from "../support/ChatClient.ts"
import { FailureApp, type SeenEvent, type SeenSpan } from "./FailureApp.ts"
import { apology, askedOf, hold, kept, type Told, type Way, ways } from "./Told.ts"

const baseMillis = 40
const capMillis = 1500

const settings = {
  // All rows are tried at once: less is too little for a machine that is busy.
  LLM_FIRST_TOKEN_TIMEOUT: "4 seconds",
  LLM_TOKEN_TIMEOUT: "4 seconds",
  LLM_RETRY_DELAY: `${baseMillis} millis`,
  LLM_RETRY_AFTER_MAX: `${capMillis} millis`
}

/** How long is waited before a retry, in milliseconds. */
type Wait = readonly [least: number, most: number]

/** 40, 80 and 160 ms, give or take a fifth. */
const backoff: ReadonlyArray<Wait> = [1, 2, 4].map((n) => [baseMillis * n * 0.8, baseMillis * n * 1.2])

interface Row {
  readonly name: string
  /** What the model answers, attempt after attempt. The last is repeated. */
  readonly replies: ReadonlyArray<ScriptedReply | (() => ScriptedReply)>
  readonly asked: number
  /** Why it was asked again. */
  readonly retried?: ReadonlyArray<string>
  readonly waits?: ReadonlyArray<Wait>
  /** The statuses of the answers, as the spans of the requests tell. `undefined`: there was none. */
  readonly statuses?: ReadonlyArray<number | undefined>
  /** Absent: the turn ends well. */
  readonly error?: "LLM_UNAVAILABLE" | "LLM_TIMEOUT"
  /** What the model had said: all of it, or as far as it came. */
  readonly said: string
  /** Whether a used connection may have been cut, which is taken for a stale one: asked once more, without a word. */
  readonly isCut?: boolean
}

const fine = Reply.text(["Well", " then."])
const status = (code: number) => Reply.status(code)
const hungAfter = (after: number) =>
  Reply.text(["One", " two", " three."], { fault: { after, kind: "hang" } })
const brokenAfter = (after: number, kind: "cut" | "end" | "malformed" | "error") =>
  // Apart, so that what came before has arrived when it breaks.
  Reply.text(["One", " two", " three."], { delayMillis: 20, fault: { after, kind } })

/** Asked again and answered. */
const passing = (code: number, reason: string): Row => ({
  name: `${code}, once`,
  replies: [status(code), fine],
  asked: 2,
  retried: [reason],
  statuses: [code, 200],
  said: "Well then."
})

/** Asked four times in all, in vain. */
const lasting = (code: number, reason: string, error: Row["error"] = "LLM_UNAVAILABLE"): Row => ({
  name: `${code}, each time`,
  replies: [status(code)],
  asked: 4,
  retried: [reason, reason, reason],
  statuses: [code, code, code, code],
  error,
  said: ""
})

/** Not asked again. */
const refused = (code: number): Row => ({
  name: `${code}, which is final`,
  replies: [status(code), fine],
  asked: 1,
  statuses: [code],
  error: "LLM_UNAVAILABLE",
  said: ""
})

const rows: ReadonlyArray<Row> = [
  passing(408, "timeout"),
  passing(409, "server_error"),
  passing(429, "rate_limited"),
  passing(500, "server_error"),
  passing(502, "server_error"),
  passing(503, "server_error"),
  lasting(408, "timeout", "LLM_TIMEOUT"),
  lasting(429, "rate_limited"),
  lasting(500, "server_error"),
  lasting(503, "server_error"),
  ...[400, 401, 402, 403, 404, 413, 422].map(refused),
  {
    name: "429, whose Retry-After is in seconds",
    replies: [Reply.status(429, { retryAfter: 1 }), fine],
    asked: 2,
    retried: ["rate_limited"],
    waits: [[1000, 1000]],
    said: "Well then."
  },
  {
    name: "429, whose Retry-After is a date",
    // Dates have whole seconds only: one to two from now.
    replies: [() => Reply.status(429, { retryAfter: new Date(Date.now() + 2000).toUTCString() }), fine],
    asked: 2,
    retried: ["rate_limited"],
    waits: [[900, capMillis]],
    said: "Well then."
  },
  {
    name: "503, whose Retry-After is longer than is waited",
    replies: [Reply.status(503, { retryAfter: 3600 }), fine],
    asked: 2,
    retried: ["server_error"],
    waits: [[capMillis, capMillis]],
    said: "Well then."
  },
  {
    name: "503, whose Retry-After is a date gone by",
    replies: [Reply.status(503, { retryAfter: new Date(0).toUTCString() }), fine],
    asked: 2,
    retried: ["server_error"],
    said: "Well then."
  },
  {
    name: "no answer at all",
    replies: [Reply.hang],
    asked: 1,
    error: "LLM_TIMEOUT",
    said: "",
    statuses: [undefined]
  },
  {
    name: "an answer without a first token",
    replies: [hungAfter(0)],
    asked: 1,
    error: "LLM_TIMEOUT",
    said: "",
    statuses: [200]
  },
  {
    name: "silence after some tokens",
    replies: [hungAfter(2)],
    asked: 1,
    error: "LLM_TIMEOUT",
    said: "One two",
    statuses: [200]
  },
  {
    name: "a connection cut before the answer, once",
    replies: [Reply.cut, Reply.cut, fine],
    asked: 3,
    retried: ["connection", "connection"],
    said: "Well then.",
    isCut: true
  },
  {
    name: "a stream cut before its first token",
    replies: [brokenAfter(0, "cut"), fine],
    asked: 2,
    retried: ["connection"],
    said: "Well then."
  },
  {
    name: "a stream cut after some tokens",
    replies: [brokenAfter(2, "cut"), fine],
    asked: 1,
    error: "LLM_UNAVAILABLE",
    said: "One two"
  },
  {
    name: "a stream that just ends before its first token",
    replies: [brokenAfter(0, "end"), fine],
    asked: 2,
    retried: ["connection"],
    said: "Well then."
  },
  {
    name: "a stream that just ends after some tokens",
    replies: [brokenAfter(2, "end"), fine],
    asked: 1,
    error: "LLM_UNAVAILABLE",
    said: "One two"
  },
  {
    name: "a malformed chunk before the first token",
    replies: [brokenAfter(0, "malformed"), fine],
    asked: 1,
    error: "LLM_UNAVAILABLE",
    said: ""
  },
  {
    name: "a malformed chunk after some tokens",
    replies: [brokenAfter(2, "malformed"), fine],
    asked: 1,
    error: "LLM_UNAVAILABLE",
    said: "One two"
  },
  {
    name: "an error in place of the first token",
    replies: [brokenAfter(0, "error"), fine],
    asked: 2,
    retried: ["server_error"],
    said: "Well then."
  },
  {
    name: "an error after some tokens",
    replies: [brokenAfter(2, "error"), fine],
    asked: 1,
    error: "LLM_UNAVAILABLE",
    said: "One two"
  }
]

const message = "Tell me."

const assertClient = (row: Row, way: Way, told: Told) => {
  assert.deepStrictEqual(told.ends, [row.error === undefined ? "end" : "error"])
  assert.strictEqual(told.errorCode, row.error ?? null)
  if (way !== "websocket") assert.strictEqual(told.status, 200)
  if (way === "json") {
    assert.strictEqual(told.text, row.error === undefined ? row.said : apology)
    assert.strictEqual(told.body.message_id === null, row.said === "")
    assert.strictEqual(told.body.error === null, row.error === undefined)
  } else {
    assert.strictEqual(told.text, row.said)
    assert.strictEqual(
      eventsOf(told.events, "end")[0]?.content,
      row.error === undefined ? row.said : undefined
    )
  }
}

const assertHistory = (row: Row, history: ReadonlyArray<unknown>) =>
  assert.deepStrictEqual(history, [
    ["user", message],
    ...(row.said === "" ? [] : [["assistant", row.said, row.error === undefined ? "completed" : "failed"]])
  ])

const assertRetries = (row: Row, model: string, events: ReadonlyArray<SeenEvent>) => {
  const { isCut = false, retried = [], waits = backoff } = row
  const expected = retried.map((reason, n) => ({ name: "llm.retry", model, attempt: n + 1, reason }))
  assert.deepStrictEqual(
    events.map(({ attributes: { delay_ms: _, ...rest }, name }) => ({ name, ...rest })),
    isCut ? expected.slice(0, events.length) : expected
  )
  return events.map(({ attributes }, n) => {
    const [least, most] = waits[n] ?? [0, 0]
    const delay = Number(attributes.delay_ms)
    assert.isTrue(delay >= Math.floor(least) && delay <= Math.ceil(most), `retry ${n + 1} after ${delay} ms`)
    return delay
  })
}

const assertSpans = (row: Row, model: string, spans: ReadonlyArray<SeenSpan>) => {
  const named = (name: string) => spans.filter((span) => span.name === name)
  const failed = row.error !== undefined
  for (const name of ["api.send_message", "agent.process_message", "agent.call_llm"]) {
    assert.deepStrictEqual(
      named(name).map((span) => span.failed),
      [failed],
      name
    )
  }
  const [call] = named("agent.call_llm")
  const told = (call?.events ?? []).filter(({ name }) => name.startsWith("llm."))
  assert.strictEqual(call?.attributes["error.type"], failed ? "LlmUnavailable" : undefined)
  assert.strictEqual(call?.attributes["gen_ai.request.model"], model)
  assert.strictEqual(
    typeof call?.attributes["gen_ai.response.time_to_first_chunk"] === "number",
    row.said !== ""
  )
  const requests = named("POST").filter(({ parent }) => parent === "agent.call_llm")
  assert.strictEqual(requests.length, told.length + 1)
  if (row.statuses !== undefined) {
    assert.deepStrictEqual(
      requests.map(({ attributes }) => attributes["http.response.status_code"]),
      [...row.statuses]
    )
  }
  return assertRetries(row, model, told)
}

const scripts = new Map<string, Array<Row["replies"][number]>>()

/** Each turn asks a model of its own name, and so has its own script and its own breaker. */
const script = ({ model }: { readonly model: string }) => {
  const replies = scripts.get(model) ?? []
  const [reply = Reply.status(400)] = replies
  if (replies.length > 1) replies.shift()
  return typeof reply === "function" ? reply() : reply
}

layer(FailureApp.layer(script, { settings }), { excludeTestServices: true })(
  "the model answers with",
  (it) => {
    for (const [n, row] of rows.entries()) {
      it.effect(
        row.name,
        () =>
          Effect.forEach(
            ways,
            Effect.fnUntraced(function* (way) {
              const app = yield* FailureApp
              const model = `row-${n}-${way}`
              scripts.set(model, [...row.replies])
              const told = yield* hold(app.url, way, { session_id: model, message, model })

              assertClient(row, way, told)
              assertHistory(row, yield* kept(app, model))
              const asked = askedOf(app, model)
              assert.strictEqual(asked.length, row.asked)
              const { spans, traceIds } = yield* app.spansOf(model)
              const delays = assertSpans(row, model, spans)
              if (row.isCut !== true) {
                for (const [n, delay] of delays.entries()) {
                  const waited = (asked[n + 1]?.receivedAt ?? 0) - (asked[n]?.receivedAt ?? 0)
                  // A timer may fire a millisecond early.
                  assert.isAtLeast(waited, delay - 2)
                }
              }
              const traceparent = told.headers?.get("traceparent")
              if (traceparent !== undefined) assert.include(traceparent, traceIds[0] ?? "none")
              // No exchange goes on: what hung was let go of.
              for (const request of asked) {
                const ending = yield* Effect.promise(() => request.ended)
                if (request.body.stream === true && row.error === "LLM_TIMEOUT" && row.asked === 1)
                  assert.strictEqual(ending, "aborted")
              }
              yield* assertTrace(row, told, app.url)
            }),
            { concurrency: "unbounded", discard: true }
          ),
        { concurrent: true }
      )
    }
  }
)

/** The same without a tracing backend. */
const assertTrace = Effect.fnUntraced(function* (row: Row, told: Told, url: string) {
  const [start] = eventsOf(told.events, "start")
  if (start === undefined) return
  const { body } = yield* eventually(
    ask(`${url}/api/v1/turns/${start.turn_id}/trace`),
    ({ status }) => status !== 503
  )
  const nodes: Array<{ name: string; status: string; attributes: Record<string, unknown> }> = []
  const walk = (list: ReadonlyArray<(typeof nodes)[number] & { children: ReadonlyArray<never> }>) => {
    for (const node of list) {
      nodes.push(node)
      walk(node.children)
    }
  }
  walk(body.spans)
  const calls = nodes.filter(({ name }) => name === "agent.call_llm")
  assert.strictEqual(body.status, row.error === undefined ? "completed" : "failed")
  assert.deepStrictEqual(
    calls.map((call) => [call.status, call.attributes["error.type"]]),
    [row.error === undefined ? ["ok", undefined] : ["error", "LlmUnavailable"]]
  )
})
