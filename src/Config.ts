/**
 * Owns the environment: the only file that reads it. Every value has a default, is validated at start, and is
 * documented in `.env.example`.
 *
 * Does not decide anything: `Server.ts` picks adapters from what is read here.
 */
import { isIPv4 } from "node:net"
import { Config, Context, Duration, Effect, Layer, Option, Redacted, Schema } from "effect"

/** The settings of one process. Text that is empty or blank counts as absent. */
export interface Settings {
  readonly host: string
  readonly port: number
  /** `undefined`: the embedded database, in `dataDir`. */
  readonly databaseUrl: Redacted.Redacted | undefined
  /** Connections the Postgres pool may open. */
  readonly databasePoolSize: number
  readonly dataDir: string
  readonly llm: LlmSettings
  readonly tavilyApiKey: Redacted.Redacted | undefined
  /** Keys that callers may present. Empty: no credentials, loopback only. */
  readonly apiKeys: ReadonlyArray<Redacted.Redacted>
  readonly corsOrigins: ReadonlyArray<string>
  /** Turns open at once, waiting ones included; more are refused. */
  readonly maxConcurrentTurns: number
  /** One turn, whole: waiting, model calls and tools. */
  readonly turnTimeout: Duration.Duration
  readonly tracing: TracingSettings
  /** US dollars for a million tokens, by model. */
  readonly prices: Readonly<Record<string, { readonly input: number; readonly output: number }>>
  /** How long running turns may go on after SIGTERM. */
  readonly shutdownGrace: Duration.Duration
  readonly logLevel: "Debug" | "Info" | "Warn" | "Error" | "None"
  readonly logFormat: "pretty" | "json"
}

/** The `OTEL_*` values mean what OpenTelemetry says they mean. */
export interface TracingSettings {
  /** `OTEL_SDK_DISABLED`: no spans at all. */
  readonly disabled: boolean
  /** Where spans go by OTLP gRPC. `undefined`: nowhere; spans are made all the same. */
  readonly endpoint: string | undefined
  /** How long a span waits to be sent, at most. */
  readonly exportEvery: Duration.Duration
  readonly serviceName: string
  /** Such as `production`; on every span. */
  readonly environment: string
  readonly sampler: SamplerName
  /** The share of traces kept by a ratio sampler, 0 to 1. */
  readonly samplerRatio: number
  /** Keep spans in the database too, for `GET /turns/{id}/trace`. */
  readonly store: boolean
  readonly retention: Duration.Duration
  /** Most spans kept by the embedded database. */
  readonly maxRows: number
  /** Hosts that get W3C trace headers with requests of ours, or `*` for all. */
  readonly propagateTo: ReadonlyArray<string>
  /** Whether spans may carry message text and tool arguments. */
  readonly content: boolean
  /** Spans that take longer are marked `performance.slow`. */
  readonly slow: {
    readonly model: Duration.Duration
    readonly tool: Duration.Duration
    readonly sql: Duration.Duration
  }
}

const samplers = [
  "always_on",
  "always_off",
  "traceidratio",
  "parentbased_always_on",
  "parentbased_always_off",
  "parentbased_traceidratio"
] as const
export type SamplerName = (typeof samplers)[number]

export interface LlmSettings {
  /** `undefined` with a key or a model: OpenAI's own. */
  readonly baseUrl: string | undefined
  readonly apiKey: Redacted.Redacted | undefined
  readonly model: string | undefined
  readonly modelFast: string | undefined
  readonly modelCreative: string | undefined
  /** Tried in order when the model asked for stays unavailable. */
  readonly fallbackModels: ReadonlyArray<string>
  /** Tokens of history a model call may carry, counted by estimate; oldest turns go first. */
  readonly historyTokens: number
  readonly connectTimeout: Duration.Duration
  readonly firstTokenTimeout: Duration.Duration
  /** Between two tokens, once the first has come. */
  readonly tokenTimeout: Duration.Duration
  /** One model call, whole. */
  readonly totalTimeout: Duration.Duration
  /** Before the first token only. */
  readonly retries: {
    /** Attempts after the first, at one model. */
    readonly times: number
    /** Wait before the first of them; each further one waits twice as long, give or take a fifth. */
    readonly base: Duration.Duration
    /** Longest `Retry-After` that is waited out. */
    readonly maxRetryAfter: Duration.Duration
  }
  readonly breaker: {
    /** Calls in a row that have to fail, retries included, for a model to be left alone. */
    readonly failures: number
    /** For how long, until one call may try again. */
    readonly openFor: Duration.Duration
  }
}

/** One or more values of the environment are wrong; one line for each. */
export class ConfigInvalid extends Schema.TaggedError<ConfigInvalid>()("ConfigInvalid", {
  problems: Schema.Array(Schema.String)
}) {
  override get message() {
    return this.problems.join("\n")
  }
}

export class AppConfig extends Context.Service<AppConfig, Settings>()("voice-agent/Config/AppConfig") {
  static readonly layer: Layer.Layer<AppConfig, ConfigInvalid> = Layer.effect(
    AppConfig,
    Effect.suspend(() => read)
  )
}

/** Whether a server on `host` is reachable from this machine only. A name that begins with `127.` may be anywhere. */
export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."))

const blankAsAbsent = (value: Option.Option<string>) =>
  Option.filter(
    Option.map(value, (text) => text.trim()),
    (text) => text !== ""
  )

/** `gpt-5=1.25/10, gpt-5-mini=0.25/2` */
const parsePrices = (text: string): Settings["prices"] | undefined => {
  const prices: Record<string, { input: number; output: number }> = {}
  for (const item of text.split(",")) {
    const [, model, input, output] = /^\s*(\S+?)\s*=\s*([\d.]+)\s*\/\s*([\d.]+)\s*$/.exec(item) ?? []
    if (model === undefined || !Number.isFinite(Number(input)) || !Number.isFinite(Number(output)))
      return undefined
    prices[model] = { input: Number(input), output: Number(output) }
  }
  return prices
}

const read: Effect.Effect<Settings, ConfigInvalid> = Effect.gen(function* () {
  const problems: Array<string> = []

  const text = (name: string) =>
    Config.option(Config.String(name)).pipe(
      Effect.map((value) => Option.getOrUndefined(blankAsAbsent(value))),
      Effect.catch((error) => Effect.sync(() => void problems.push(`${name}: ${error.message}`)))
    )
  const secret = (...names: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      for (const name of names) {
        const value = yield* text(name)
        if (value !== undefined) return Redacted.make(value)
      }
      return undefined
    })
  const list = (name: string) =>
    Effect.map(text(name), (value) =>
      (value ?? "")
        .split(",")
        .map((item) => item.trim())
        .filter((item) => item !== "")
    )
  /** `parse` answers `undefined` for what does not fit; the value itself is shown, so no secrets here. */
  const parsed = <A>(name: string, fallback: A, expected: string, parse: (text: string) => A | undefined) =>
    Effect.map(text(name), (value) => {
      if (value === undefined) return fallback
      const result = parse(value)
      if (result === undefined) problems.push(`${name}: expected ${expected}, got ${JSON.stringify(value)}`)
      return result ?? fallback
    })
  const integer = (name: string, fallback: number, min: number, max: number) =>
    parsed(name, fallback, `a whole number from ${min} to ${max}`, (value) => {
      const number = Number(value)
      return /^\d+$/.test(value) && number >= min && number <= max ? number : undefined
    })
  const oneOf = <const L extends string>(name: string, fallback: L, choices: ReadonlyArray<L>) =>
    parsed<L>(name, fallback, `one of ${choices.join(", ")}`, (value) =>
      choices.find((choice) => choice.toLowerCase() === value.toLowerCase())
    )
  const durationAs = (
    name: string,
    fallback: Duration.Duration,
    expected: string,
    fits: (duration: Duration.Duration) => boolean
  ) =>
    parsed(name, fallback, expected, (value) => {
      const seconds = Number(value)
      const result = Number.isFinite(seconds)
        ? Option.some(Duration.seconds(seconds))
        : Duration.fromInput(value as Duration.Input)
      return Option.getOrUndefined(
        Option.filter(result, (d) => Duration.isFinite(d) && !Duration.isNegative(d) && fits(d))
      )
    })
  const duration = (name: string, fallback: Duration.Duration) =>
    durationAs(name, fallback, `a duration such as "500 millis" or "20 seconds"`, () => true)
  /** What would never let anything happen is a mistake. */
  const timeout = (name: string, fallback: Duration.Duration) =>
    durationAs(
      name,
      fallback,
      `a duration longer than zero, such as "500 millis" or "20 seconds"`,
      (d) => !Duration.isZero(d)
    )
  const flag = (name: string, fallback: boolean) =>
    Effect.map(
      oneOf(name, String(fallback) as "true" | "false", ["true", "false"]),
      (value) => value === "true"
    )
  const url = (name: string, protocols: ReadonlyArray<string>) =>
    Effect.map(text(name), (value) => {
      if (value === undefined) return undefined
      if (!URL.canParse(value) || !protocols.includes(new URL(value).protocol)) {
        problems.push(
          `${name}: expected a URL that starts with ${protocols.map((p) => `${p}//`).join(" or ")}`
        )
        return undefined
      }
      return value
    })

  const databaseUrl = yield* url("DATABASE_URL", ["postgres:", "postgresql:"])
  const settings: Settings = {
    host: (yield* text("HOST")) ?? "127.0.0.1",
    port: yield* integer("PORT", 8000, 0, 65535),
    databaseUrl: databaseUrl === undefined ? undefined : Redacted.make(databaseUrl),
    databasePoolSize: yield* integer("DATABASE_POOL_SIZE", 10, 1, 1000),
    dataDir: (yield* text("DATA_DIR")) ?? ".data",
    llm: {
      baseUrl: yield* url("LLM_BASE_URL", ["http:", "https:"]),
      apiKey: yield* secret("LLM_API_KEY", "OPENAI_API_KEY"),
      model: yield* text("LLM_MODEL"),
      modelFast: yield* text("LLM_MODEL_FAST"),
      modelCreative: yield* text("LLM_MODEL_CREATIVE"),
      fallbackModels: yield* list("LLM_FALLBACK_MODELS"),
      historyTokens: yield* integer("LLM_HISTORY_TOKENS", 8000, 100, 2_000_000),
      connectTimeout: yield* timeout("LLM_CONNECT_TIMEOUT", Duration.seconds(10)),
      firstTokenTimeout: yield* timeout("LLM_FIRST_TOKEN_TIMEOUT", Duration.seconds(30)),
      tokenTimeout: yield* timeout("LLM_TOKEN_TIMEOUT", Duration.seconds(30)),
      totalTimeout: yield* timeout("LLM_TOTAL_TIMEOUT", Duration.seconds(120)),
      retries: {
        times: yield* integer("LLM_RETRIES", 3, 0, 10),
        base: yield* duration("LLM_RETRY_DELAY", Duration.millis(500)),
        maxRetryAfter: yield* duration("LLM_RETRY_AFTER_MAX", Duration.seconds(10))
      },
      breaker: {
        failures: yield* integer("LLM_BREAKER_FAILURES", 5, 1, 1000),
        openFor: yield* duration("LLM_BREAKER_OPEN", Duration.seconds(30))
      }
    },
    tavilyApiKey: yield* secret("TAVILY_API_KEY"),
    apiKeys: (yield* list("API_KEYS")).map((key) => Redacted.make(key)),
    corsOrigins: yield* list("CORS_ORIGINS"),
    tracing: {
      disabled: yield* flag("OTEL_SDK_DISABLED", false),
      endpoint:
        (yield* url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ["http:", "https:"])) ??
        (yield* url("OTEL_EXPORTER_OTLP_ENDPOINT", ["http:", "https:"])),
      exportEvery: Duration.millis(yield* integer("OTEL_BSP_SCHEDULE_DELAY", 1000, 1, 3_600_000)),
      serviceName: (yield* text("OTEL_SERVICE_NAME")) ?? "voice-agent-api",
      environment: (yield* text("DEPLOYMENT_ENVIRONMENT")) ?? "development",
      sampler: yield* oneOf("OTEL_TRACES_SAMPLER", "parentbased_always_on", samplers),
      samplerRatio: yield* parsed("OTEL_TRACES_SAMPLER_ARG", 1, "a number from 0 to 1", (value) => {
        const ratio = Number(value)
        return ratio >= 0 && ratio <= 1 ? ratio : undefined
      }),
      store:
        (yield* oneOf("TRACE_STORE", databaseUrl === undefined ? "postgres" : "off", ["postgres", "off"])) ===
        "postgres",
      retention: yield* duration("TRACE_RETENTION", Duration.days(7)),
      maxRows: yield* integer("TRACE_MAX_ROWS", 100_000, 1000, 100_000_000),
      propagateTo: yield* list("TRACE_PROPAGATE_TO"),
      content: yield* flag("TRACE_CONTENT", false),
      slow: {
        model: yield* duration("SLOW_MODEL", Duration.seconds(10)),
        tool: yield* duration("SLOW_TOOL", Duration.seconds(5)),
        sql: yield* duration("SLOW_SQL", Duration.millis(200))
      }
    },
    prices: yield* parsed(
      "LLM_PRICES",
      {},
      "model=input/output, …: US dollars for a million tokens",
      parsePrices
    ),
    maxConcurrentTurns: yield* integer("MAX_CONCURRENT_TURNS", 2000, 1, 1_000_000),
    turnTimeout: yield* timeout("TURN_TIMEOUT", Duration.minutes(5)),
    shutdownGrace: yield* duration("SHUTDOWN_GRACE", Duration.seconds(20)),
    logLevel: yield* oneOf("LOG_LEVEL", "Info", ["Debug", "Info", "Warn", "Error", "None"]),
    logFormat: yield* oneOf("LOG_FORMAT", "pretty", ["pretty", "json"])
  }

  if (!isLoopback(settings.host) && settings.apiKeys.length === 0) {
    problems.push(
      `HOST: ${settings.host} is reachable from other machines, and no credentials are configured. Set API_KEYS, or HOST=127.0.0.1`
    )
  }
  if (problems.length > 0) return yield* new ConfigInvalid({ problems })
  return settings
})
