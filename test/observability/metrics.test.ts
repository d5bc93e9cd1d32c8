import { spawnSync } from "node:child_process"
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect } from "effect"
import { CircuitBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"
import { Reply } from "voice-agent-api/testing"
import { watchBreaker } from "../../src/observability/Breakers.ts"
import { prometheusText } from "../../src/observability/Metrics.ts"
import { makeAgentTools } from "../support/AgentTools.ts"
import { TestApp } from "../support/AppServer.ts"
import { ask, eventually, openSocket, openStream } from "../support/ChatClient.ts"

interface Exposition {
  readonly text: string
  readonly types: ReadonlyMap<string, string>
  readonly values: ReadonlyMap<string, number>
}

const parse = (text: string): Exposition => {
  const types = new Map<string, string>()
  const values = new Map<string, number>()
  for (const line of text.trim().split("\n")) {
    const [, family = "", type = ""] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? []
    if (family !== "") types.set(family, type)
    if (line.startsWith("#")) continue
    const [, series = "", value] = /^(.+) (\S+)$/.exec(line) ?? []
    values.set(series, Number(value))
  }
  return { text, types, values }
}

const scrape = (url: string) =>
  Effect.map(ask(`${url}/metrics`), ({ body, headers, status }) => {
    assert.strictEqual(status, 200)
    assert.strictEqual(headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8")
    return parse(body)
  })

/** By how much series have grown. */
const growth = (before: Exposition, after: Exposition, series: ReadonlyArray<string>) =>
  Object.fromEntries(
    series.map((one) => [one, (after.values.get(one) ?? 0) - (before.values.get(one) ?? 0)] as const)
  )

const request = (method: string, route: string, status: number) =>
  `http_requests_total{route="${route}",method="${method}",status="${status}"}`

const hasPromtool = spawnSync("promtool", ["--version"]).error === undefined

const tools = makeAgentTools()

/** What other files left in the registry of this process. */
const others = parse(Effect.runSync(Effect.scoped(Effect.flatten(prometheusText)))).values

layer(
  TestApp.layer([], {
    tools: tools.layer,
    settings: { LLM_PRICES: "scripted=2/8, dear=1000/1000", LLM_FALLBACK_MODELS: "spare" }
  }),
  { excludeTestServices: true }
)("metrics of a server", (it) => {
  it.effect("count requests by the pattern of the route, never by what callers put in it", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const before = yield* scrape(url)
      yield* ask(`${url}/api/v1/turns/0190d5a1-0000-4000-8000-0123456789ab/trace?x=1`)
      yield* ask(`${url}/api/v1/turns/not-an-id/trace`)
      yield* ask(`${url}/api/v1/chat/history/somebody`)
      yield* ask(`${url}/api/v1/mcp/tools/no-such-tool`)
      yield* ask(`${url}/api/v1/chat`, { nonsense: true })
      yield* ask(`${url}/no/such/path/${"x".repeat(200)}`)
      yield* ask(`${url}/api/v1/info`, undefined, { method: "PUT" })
      yield* ask(`${url}/docs`)
      const after = yield* scrape(url)
      assert.deepStrictEqual(
        growth(before, after, [
          request("GET", "/api/v1/turns/:turn_id/trace", 404),
          request("GET", "/api/v1/turns/:turn_id/trace", 400),
          request("GET", "/api/v1/chat/history/:session_id", 200),
          request("GET", "/api/v1/mcp/tools/:name", 404),
          request("POST", "/api/v1/chat", 400),
          request("GET", "unmatched", 404),
          request("PUT", "unmatched", 405),
          request("GET", "/docs", 200),
          request("GET", "/metrics", 200),
          `http_request_duration_seconds_count{route="unmatched",method="GET"}`
        ]),
        {
          [request("GET", "/api/v1/turns/:turn_id/trace", 404)]: 1,
          [request("GET", "/api/v1/turns/:turn_id/trace", 400)]: 1,
          [request("GET", "/api/v1/chat/history/:session_id", 200)]: 1,
          [request("GET", "/api/v1/mcp/tools/:name", 404)]: 1,
          [request("POST", "/api/v1/chat", 400)]: 1,
          [request("GET", "unmatched", 404)]: 1,
          [request("PUT", "unmatched", 405)]: 1,
          [request("GET", "/docs", 200)]: 1,
          [request("GET", "/metrics", 200)]: 1,
          'http_request_duration_seconds_count{route="unmatched",method="GET"}': 1
        }
      )
    })
  )

  it.effect("count turns, model calls, tokens, cost and tool calls", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const before = yield* scrape(url)
      const usage = { prompt_tokens: 1000, completion_tokens: 500 }
      model.push(
        Reply.toolCalls(
          [
            { name: "calculator", arguments: { expression: "1+1" } },
            { name: "fail", arguments: {} },
            { name: "calculator", arguments: {} },
            { name: "made_up_by_the_model", arguments: {} }
          ],
          { usage }
        ),
        Reply.text("Two.", { usage })
      )
      yield* ask(`${url}/api/v1/chat`, { message: "1+1?", session_id: "counted" })
      model.push(Reply.text("Dear.", { usage }))
      yield* ask(`${url}/api/v1/chat`, { message: "hi", model_config: { model: "dear" } })
      model.push(Reply.status(401), Reply.status(401))
      yield* ask(`${url}/api/v1/chat`, { message: "hi" })
      const after = yield* scrape(url)
      const expected = {
        'turns_total{outcome="completed"}': 2,
        'turns_total{outcome="failed"}': 1,
        turn_duration_seconds_count: 3,
        turn_first_delta_seconds_count: 2,
        'llm_calls_total{model="scripted",outcome="ok"}': 2,
        'llm_calls_total{model="other",outcome="ok"}': 1,
        'llm_calls_total{model="scripted",outcome="failed"}': 1,
        'llm_tokens_total{model="scripted",direction="input"}': 2000,
        'llm_tokens_total{model="scripted",direction="output"}': 1000,
        'llm_tokens_total{model="other",direction="input"}': 1000,
        'llm_cost_usd_total{model="scripted"}': (2000 * 2 + 1000 * 8) / 1e6,
        'llm_cost_usd_total{model="other"}': 1.5,
        'llm_errors_total{model="scripted",reason="rejected",mid_stream="false"}': 1,
        'llm_errors_total{model="spare",reason="rejected",mid_stream="false"}': 1,
        'llm_fallbacks_total{from="scripted",to="spare",reason="rejected"}': 1,
        'tool_calls_total{tool="calculator",outcome="success"}': 1,
        'tool_calls_total{tool="fail",outcome="failed"}': 1,
        'tool_calls_total{tool="calculator",outcome="invalid_arguments"}': 1,
        'tool_calls_total{tool="unknown",outcome="tool_not_found"}': 1,
        'tool_duration_seconds_count{tool="calculator"}': 1
      }
      assert.deepStrictEqual(growth(before, after, Object.keys(expected)), expected)
    })
  )

  it.effect("show what is open: turns, and event streams by transport", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const open = Effect.map(scrape(url), ({ values }) => [
        values.get("turns_open"),
        values.get('streams_open{transport="sse"}'),
        values.get('streams_open{transport="websocket"}')
      ])
      const hanging = Reply.text(["One", " two"], { fault: { after: 1, kind: "hang" } })
      const { values: before } = yield* scrape(url)
      assert.deepStrictEqual(yield* open, [0, 0, 0])
      model.push(hanging, hanging)
      const stream = yield* openStream(`${url}/api/v1/chat/stream?message=hi&session_id=open-1`)
      yield* stream.until("delta")
      assert.deepStrictEqual(yield* open, [1, 1, 0])
      const socket = yield* openSocket(url)
      assert.deepStrictEqual(yield* open, [1, 1, 0])
      yield* socket.send({ message: "hi", session_id: "open-2" })
      yield* socket.until("delta")
      assert.deepStrictEqual(yield* open, [2, 1, 1])
      yield* stream.leave
      yield* eventually(open, ([turns, sse]) => turns === 1 && sse === 0)
      yield* socket.leave
      yield* eventually(open, ([turns, , ws]) => turns === 0 && ws === 0)
      const opened = request("GET", "/api/v1/chat/ws", 101)
      const { values } = yield* eventually(
        scrape(url),
        ({ values }) => values.get(opened) === (before.get(opened) ?? 0) + 1
      )
      // How long a socket was open is not how long a request took.
      const durations = [...values].filter(([series]) => /duration.*chat\/ws/.test(series))
      assert.deepStrictEqual(
        durations,
        durations.map(([series]) => [series, before.get(series)])
      )
    })
  )

  it.effect("count a caller that went away before its answer", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const gone = request("POST", "/api/v1/chat", 499)
      const { values: before } = yield* scrape(url)
      model.push(Reply.hang)
      const asked = model.received(model.requests.length)
      const caller = yield* Effect.forkChild(ask(`${url}/api/v1/chat`, { message: "hi" }))
      yield* Effect.promise(() => asked)
      caller.interruptUnsafe()
      yield* eventually(scrape(url), ({ values }) => values.get(gone) === (before.get(gone) ?? 0) + 1)
    })
  )

  it.effect("tell of the database and the process", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const { values } = yield* scrape(url)
      assert.strictEqual(values.get("db_pool_size"), 1)
      for (const model of ["scripted", "spare"]) {
        assert.strictEqual(values.get(`circuit_breaker_state{name="model/${model}"}`), 0)
      }
      assert.isAbove(values.get("db_connection_wait_seconds_count") ?? 0, 0)
      for (const kind of ["resident", "heap_used", "heap_total", "external"]) {
        assert.isAbove(values.get(`process_memory_bytes{kind="${kind}"}`) ?? 0, 1e6, kind)
      }
      assert.isAbove(values.get("process_uptime_seconds") ?? 0, 0)
      assert.isAtLeast(values.get('nodejs_eventloop_delay_seconds{percentile="99"}') ?? -1, 0)
      assert.isAtLeast(values.get("nodejs_gc_seconds_total") ?? -1, 0)
    })
  )

  it.effect("have labels from closed sets only: no ids, no free text", () =>
    Effect.gen(function* () {
      const { model, url } = yield* TestApp
      const message = "whatsoever"
      for (let n = 0; n < 3; n++) {
        model.push(Reply.text(message, { model: `named-by-the-server-${n}` }))
        yield* ask(`${url}/api/v1/chat`, {
          message,
          session_id: `session-label-${n}`,
          user_id: `user-label-${n}`,
          model_config: { model: `model-label-${n}` }
        })
        yield* ask(`${url}/path-label-${n}`)
        yield* ask(`${url}/api/v1/session/session-label-${n}`)
      }
      const { values } = yield* scrape(url)
      assert.notMatch(
        [...values.keys()].join("\n"),
        /label|named-by|whatsoever|session_[0-9a-f]|[0-9a-f]{12}/
      )
      const allowed = {
        route: /^(?:\/[a-z0-9_:./]*|unmatched)$/,
        method: /^(?:GET|POST|PUT|DELETE)$/,
        status: /^\d{3}$/,
        outcome: /^[a-z_]+$/,
        model: /^(?:scripted|spare|other)$/,
        from: /^(?:scripted|spare|other)$/,
        to: /^(?:scripted|spare|other)$/,
        tool: /^[a-z_]+$/,
        direction: /^(?:input|output)$/,
        transport: /^(?:sse|websocket)$/,
        reason: /^[a-z_]+$/,
        mid_stream: /^(?:true|false)$/,
        kind: /^[a-z_]+$/,
        percentile: /^\d+$/,
        name: /^(?:(?:model|tool)\/[\w.:-]+|other)$/,
        le: /^(?:[\d.]+|\+Inf)$/
      }
      for (const [series, value] of values) {
        if (others.get(series) === value) continue
        for (const [, label = "", text = ""] of series.matchAll(/(\w+)="([^"]*)"/g)) {
          assert.property(allowed, label, series)
          assert.match(text, allowed[label as keyof typeof allowed], series)
        }
      }
    })
  )

  it.effect("are in the format: types, help, and buckets that add up", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const { text, types, values } = yield* scrape(url)
      for (const [family, type] of types) {
        assert.match(text, new RegExp(`^# HELP ${family} [A-Z]`, "m"))
        assert.strictEqual(family.endsWith("_total"), type === "counter", family)
        if (type !== "histogram") continue
        const buckets = [...values].filter(([series]) => series.startsWith(`${family}_bucket`))
        const groups = Map.groupBy(buckets, ([series]) => series.replace(/,?le="[^"]*"/, ""))
        assert.isAbove(groups.size, 0)
        for (const [group, members] of groups) {
          const counts = members.map(([, count]) => count)
          assert.deepStrictEqual(
            counts,
            [...counts].sort((a, b) => a - b),
            group
          )
          const labels = group.slice(`${family}_bucket`.length).replace("{}", "")
          assert.include(members.at(-1)?.[0], 'le="+Inf"')
          assert.strictEqual(counts.at(-1), values.get(`${family}_count${labels}`), group)
          assert.isDefined(values.get(`${family}_sum${labels}`), group)
        }
      }
    })
  )

  it.effect.skipIf(!hasPromtool)("pass promtool check metrics (skipped where there is no promtool)", () =>
    Effect.gen(function* () {
      const { url } = yield* TestApp
      const { text } = yield* scrape(url)
      const { status, stderr, stdout } = spawnSync("promtool", ["check", "metrics"], {
        input: text,
        encoding: "utf8"
      })
      assert.strictEqual(`${stdout}${stderr}`, "")
      assert.strictEqual(status, 0)
    })
  )
})

describe("circuit_breaker_state", () => {
  it.effect("follows a breaker: closed, open, half-open, closed", () =>
    Effect.gen(function* () {
      const breaker = yield* CircuitBreaker.make({
        tripPolicy: CircuitBreaker.consecutive(2),
        openDuration: "10 seconds"
      })
      yield* watchBreaker(breaker, (key) => `model/${key}`, ["a", "b"])
      const text = yield* prometheusText
      const states = Effect.map(Effect.andThen(Effect.yieldNow, text), (all) => {
        const { values } = parse(all)
        return ["a", "b"].map((key) => values.get(`circuit_breaker_state{name="model/${key}"}`))
      })
      const call = (outcome: Effect.Effect<void, string>) =>
        Effect.exit(breaker.execute(outcome, { key: "a" }))
      assert.deepStrictEqual(yield* states, [0, 0])
      yield* call(Effect.fail("down"))
      assert.deepStrictEqual(yield* states, [0, 0])
      yield* call(Effect.fail("down"))
      assert.deepStrictEqual(yield* states, [2, 0])
      yield* TestClock.adjust("10 seconds")
      const halfOpen = yield* Effect.forkChild(call(Effect.andThen(Effect.sleep("1 second"), Effect.void)))
      yield* Effect.yieldNow
      assert.deepStrictEqual(yield* states, [1, 0])
      yield* TestClock.adjust("1 second")
      yield* Effect.yieldNow
      assert.isDefined(halfOpen.pollUnsafe())
      assert.deepStrictEqual(yield* states, [0, 0])
    }).pipe(Effect.provide(CircuitBreaker.layerStoreMemory()))
  )
})
