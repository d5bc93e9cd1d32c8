/**
 * Owns the metrics of requests, turns, models and the process, and how they are served. Those of tools and of the
 * model policy lie beside them.
 *
 * Labels come from closed sets: routes, methods, outcomes, configured models. Never an id, never free text.
 */
import { monitorEventLoopDelay, PerformanceObserver } from "node:perf_hooks"
import { Context, Effect, Layer, Metric } from "effect"
import { PrometheusMetrics } from "effect/observability"
import { AppConfig } from "../Config.ts"

const seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]

const httpRequests = Metric.counter("http_requests_total", {
  description: "HTTP requests answered, by route, method and status",
  incremental: true
})
const httpDuration = Metric.histogram("http_request_duration_seconds", {
  description: "Time until the response began, by route and method, in seconds",
  boundaries: seconds
})
const turns = Metric.counter("turns_total", { description: "Turns ended, by outcome", incremental: true })
const turnDuration = Metric.histogram("turn_duration_seconds", {
  description: "Turns from the request to the end of the reply, in seconds",
  boundaries: seconds
})
const firstDelta = Metric.histogram("turn_first_delta_seconds", {
  description: "Turns from the request to the first words of the reply, in seconds",
  boundaries: seconds
})
const llmCalls = Metric.counter("llm_calls_total", {
  description: "Model calls of turns, by the model that answered and outcome",
  incremental: true
})
const llmTokens = Metric.counter("llm_tokens_total", {
  description: "Tokens, by model and direction",
  incremental: true
})
const llmCost = Metric.counter("llm_cost_usd_total", {
  description: "Cost of the tokens by LLM_PRICES, by model, in US dollars",
  incremental: true
})
/** Batches of spans given to the collector, by `outcome`: `sent`, `failed`. */
export const traceExports = Metric.counter("trace_exports_total", {
  description: "Batches of spans sent to the collector, by outcome",
  incremental: true
})
/** Spans that could not be kept in the database. */
export const traceSpansDropped = Metric.counter("trace_spans_dropped_total", {
  description: "Spans dropped before they reached the database",
  incremental: true
})

/** Told by the driver through its spans: it does not tell its pool's state. */
export const dbConnectionWait = Metric.histogram("db_connection_wait_seconds", {
  description: "How long statements waited for a connection of the pool, in seconds",
  boundaries: [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5]
})

const openTurns = Metric.gauge("turns_open", { description: "Turns accepted and not ended" })
const openStreams = Metric.gauge("streams_open", { description: "Event streams being sent, by transport" })
const poolSize = Metric.gauge("db_pool_size", { description: "Connections the database pool may open" })
const loopDelay = Metric.gauge("nodejs_eventloop_delay_seconds", {
  description: "Event-loop delay since the last scrape, by percentile, in seconds"
})
const memory = Metric.gauge("process_memory_bytes", { description: "Memory, by kind" })
const uptime = Metric.gauge("process_uptime_seconds", { description: "Seconds since the process began" })
const gcSeconds = Metric.counter("nodejs_gc_seconds_total", {
  description: "Time spent collecting garbage, in seconds",
  incremental: true
})

const methods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
const switchingProtocols = 101
/** As nginx counts what nobody waited for to the end. */
const clientClosedRequest = 499

/** What is counted of the things that happen all the time, without a fiber in between. */
export class Metrics extends Context.Service<
  Metrics,
  {
    readonly request: (request: {
      /** The pattern of the endpoint; `undefined`: there is none. */
      readonly route: string | undefined
      readonly method: string
      /** `undefined`: the client went away before. */
      readonly status: number | undefined
      readonly seconds: number
    }) => void
    readonly turnEnded: (turn: {
      readonly outcome: string
      readonly seconds: number
      readonly firstDeltaSeconds: number | undefined
    }) => void
    /** `model` is the one asked, which is what prices are known for. It is folded into `other` unless it is configured. */
    readonly llmCall: (call: {
      readonly model: string
      readonly outcome: "ok" | "failed" | "cancelled"
      readonly promptTokens: number
      readonly completionTokens: number
    }) => void
    readonly streamOpened: (transport: "sse" | "websocket") => void
    readonly streamClosed: (transport: "sse" | "websocket") => void
    readonly turnsOpen: (count: number) => void
  }
>()("voice-agent/observability/Metrics") {
  static readonly layer: Layer.Layer<Metrics, never, AppConfig> = Layer.effect(
    Metrics,
    Effect.suspend(() => make)
  )
}

const make = Effect.gen(function* () {
  const { databasePoolSize, databaseUrl, llm, prices } = yield* AppConfig
  const context = yield* Effect.context<never>()
  const models = new Set(
    [llm.model, llm.modelFast, llm.modelCreative, ...llm.fallbackModels, "offline"].filter(
      (model) => model !== undefined
    )
  )

  /** One series for each set of labels, made once. */
  const series = <Input, State>(metric: Metric.Metric<Input, State>) => {
    const made = new Map<string, Metric.Metric<Input, State>>()
    return (input: Input, labels: Readonly<Record<string, string>> = {}) => {
      const key = Object.values(labels).join("\n")
      const one = made.get(key) ?? Metric.withAttributes(metric, labels)
      made.set(key, one)
      one.updateUnsafe(input, context)
    }
  }
  const record = {
    requests: series(httpRequests),
    duration: series(httpDuration),
    turns: series(turns),
    turnDuration: series(turnDuration),
    firstDelta: series(firstDelta),
    calls: series(llmCalls),
    tokens: series(llmTokens),
    cost: series(llmCost),
    openTurns: series(openTurns),
    openStreams: series(openStreams)
  }
  const streams = { sse: 0, websocket: 0 }
  series(poolSize)(databaseUrl === undefined ? 1 : databasePoolSize)
  record.openTurns(0)
  record.openStreams(0, { transport: "sse" })
  record.openStreams(0, { transport: "websocket" })

  return Metrics.of({
    request: ({ method, route = "unmatched", seconds, status }) => {
      const known = methods.has(method) ? method : "other"
      record.requests(1, { route, method: known, status: String(status ?? clientClosedRequest) })
      // A WebSocket's request lasts as long as its connection.
      if (status !== switchingProtocols) record.duration(seconds, { route, method: known })
    },
    turnEnded: ({ firstDeltaSeconds, outcome, seconds }) => {
      record.turns(1, { outcome })
      record.turnDuration(seconds)
      if (firstDeltaSeconds !== undefined) record.firstDelta(firstDeltaSeconds)
    },
    llmCall: ({ completionTokens, model, outcome, promptTokens }) => {
      const label = models.has(model) ? model : "other"
      record.calls(1, { model: label, outcome })
      if (promptTokens + completionTokens === 0) return
      record.tokens(promptTokens, { model: label, direction: "input" })
      record.tokens(completionTokens, { model: label, direction: "output" })
      const price = prices[model]
      if (price === undefined) return
      record.cost((promptTokens * price.input + completionTokens * price.output) / 1e6, { model: label })
    },
    streamOpened: (transport) => record.openStreams(++streams[transport], { transport }),
    streamClosed: (transport) => record.openStreams(--streams[transport], { transport }),
    turnsOpen: (count) => record.openTurns(count)
  })
})

const loopSampleMillis = 20

/** Measures the process itself, on every scrape. */
const processMetrics = Effect.gen(function* () {
  const delay = monitorEventLoopDelay({ resolution: loopSampleMillis })
  delay.enable()
  let collected = 0
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) collected += entry.duration / 1000
  })
  observer.observe({ entryTypes: ["gc"] })
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      delay.disable()
      observer.disconnect()
    })
  )
  const set = (metric: Metric.Metric<number, unknown>, value: number, labels: Record<string, string> = {}) =>
    Metric.update(Metric.withAttributes(metric, labels), value)
  return Effect.gen(function* () {
    const usage = process.memoryUsage()
    yield* set(memory, usage.rss, { kind: "resident" })
    yield* set(memory, usage.heapUsed, { kind: "heap_used" })
    yield* set(memory, usage.heapTotal, { kind: "heap_total" })
    yield* set(memory, usage.external, { kind: "external" })
    yield* set(uptime, process.uptime())
    for (const percentile of [50, 99]) {
      const nanos = delay.percentile(percentile)
      // Node measures from sample to sample, so that even an idle loop shows the time between two.
      const late = nanos / 1e9 - loopSampleMillis / 1e3
      yield* set(loopDelay, Number.isFinite(late) ? Math.max(late, 0) : 0, { percentile: String(percentile) })
    }
    delay.reset()
    const spent = collected
    collected = 0
    yield* Metric.update(gcSeconds, spent)
  })
})

/** The text that `/metrics` answers, in Prometheus's format. */
export const prometheusText = Effect.map(processMetrics, (measure) =>
  Effect.andThen(measure, PrometheusMetrics.format())
)
