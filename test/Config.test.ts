import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Redacted } from "effect"
import { AppConfig, isLoopback, type Settings } from "../src/Config.ts"

const read = (environment: Readonly<Record<string, string>>) =>
  AppConfig.pipe(
    Effect.provide(AppConfig.layer),
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: environment })))
  )

const problemsOf = (environment: Readonly<Record<string, string>>) =>
  Effect.map(Effect.flip(read(environment)), ({ problems }) => problems)

const revealed = (secrets: ReadonlyArray<Redacted.Redacted>) =>
  secrets.map((secret) => Redacted.value(secret))

describe("Config", () => {
  it.effect("has a default for every value", () =>
    Effect.gen(function* () {
      const settings = yield* read({})
      assert.deepInclude(settings, {
        host: "127.0.0.1",
        port: 8000,
        databaseUrl: undefined,
        dataDir: ".data",
        tavilyApiKey: undefined,
        apiKeys: [],
        corsOrigins: [],
        logLevel: "Info",
        logFormat: "pretty"
      })
      assert.deepInclude(settings.llm, {
        baseUrl: undefined,
        apiKey: undefined,
        model: undefined,
        fallbackModels: []
      })
      assert.deepInclude(settings.tracing, {
        disabled: false,
        endpoint: undefined,
        serviceName: "voice-agent-api",
        sampler: "parentbased_always_on",
        samplerRatio: 1,
        exportEvery: Duration.seconds(1),
        store: true,
        content: false
      })
      assert.strictEqual(Duration.toSeconds(settings.shutdownGrace), 20)
      assert.strictEqual(Duration.toSeconds(settings.llm.connectTimeout), 10)
      assert.strictEqual(Duration.toSeconds(settings.llm.firstTokenTimeout), 30)
      assert.strictEqual(Duration.toSeconds(settings.llm.totalTimeout), 120)
    })
  )

  it.effect("reads what is set, trimmed", () =>
    Effect.gen(function* () {
      const settings = yield* read({
        HOST: " 0.0.0.0 ",
        PORT: " 0 ",
        DATABASE_URL: "postgres://me:secret@db/voice",
        DATA_DIR: "/var/lib/voice agent",
        LLM_BASE_URL: "http://localhost:11434/v1",
        LLM_API_KEY: "sk-1",
        LLM_MODEL: "qwen3:8b",
        LLM_FALLBACK_MODELS: " a, b ,,c ",
        API_KEYS: "one, two",
        CORS_ORIGINS: "https://a.example,https://b.example",
        TURN_TIMEOUT: "90",
        SHUTDOWN_GRACE: "0",
        LLM_TOKEN_TIMEOUT: "1.5",
        LLM_CONNECT_TIMEOUT: "500 millis",
        LOG_LEVEL: "debug",
        LOG_FORMAT: "JSON",
        OTEL_TRACES_SAMPLER_ARG: "0.25",
        LLM_PRICES: "gpt-5=1.25/10, gpt-5-mini=0.25/2"
      })
      assert.deepInclude(settings, {
        host: "0.0.0.0",
        port: 0,
        dataDir: "/var/lib/voice agent",
        corsOrigins: ["https://a.example", "https://b.example"],
        logLevel: "Debug",
        logFormat: "json"
      })
      assert.deepStrictEqual(revealed(settings.apiKeys), ["one", "two"])
      assert.deepStrictEqual(settings.llm.fallbackModels, ["a", "b", "c"])
      assert.deepStrictEqual(settings.prices, {
        "gpt-5": { input: 1.25, output: 10 },
        "gpt-5-mini": { input: 0.25, output: 2 }
      })
      assert.strictEqual(Duration.toSeconds(settings.turnTimeout), 90)
      assert.strictEqual(Duration.toMillis(settings.shutdownGrace), 0)
      assert.strictEqual(Duration.toMillis(settings.llm.tokenTimeout), 1500)
      assert.strictEqual(Duration.toMillis(settings.llm.connectTimeout), 500)
      assert.strictEqual(settings.tracing.samplerRatio, 0.25)
      // On a server of its own, somebody else keeps the traces.
      assert.isFalse(settings.tracing.store)
    })
  )

  it.effect("takes what is empty or blank for absent", () =>
    Effect.gen(function* () {
      const names = ["HOST", "PORT", "DATABASE_URL", "LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL", "API_KEYS"]
      const more = ["TURN_TIMEOUT", "LOG_LEVEL", "CORS_ORIGINS", "OTEL_TRACES_SAMPLER", "LLM_PRICES"]
      for (const blank of ["", "  "]) {
        const settings = yield* read(Object.fromEntries([...names, ...more].map((name) => [name, blank])))
        assert.deepStrictEqual(settings, yield* read({}))
      }
    })
  )

  it.effect("takes OPENAI_API_KEY when there is no LLM_API_KEY", () =>
    Effect.gen(function* () {
      const keyOf = ({ llm }: Settings) => llm.apiKey && Redacted.value(llm.apiKey)
      assert.strictEqual(keyOf(yield* read({ OPENAI_API_KEY: "sk-open" })), "sk-open")
      assert.strictEqual(keyOf(yield* read({ OPENAI_API_KEY: "sk-open", LLM_API_KEY: " " })), "sk-open")
      assert.strictEqual(keyOf(yield* read({ OPENAI_API_KEY: "sk-open", LLM_API_KEY: "sk-llm" })), "sk-llm")
    })
  )

  it.effect.each<readonly [name: string, value: string]>([
    ["PORT", "http"],
    ["PORT", "65536"],
    ["PORT", "-1"],
    ["PORT", "80.5"],
    ["PORT", "0x50"],
    ["PORT", "8000 # the default"],
    ["DATABASE_URL", "mysql://localhost/voice"],
    ["DATABASE_URL", "localhost:5432"],
    ["DATABASE_POOL_SIZE", "0"],
    ["LLM_BASE_URL", "localhost:11434"],
    ["LLM_BASE_URL", "ftp://localhost"],
    ["LLM_HISTORY_TOKENS", "99"],
    ["LLM_TOTAL_TIMEOUT", "two minutes"],
    ["LLM_TOTAL_TIMEOUT", "-1"],
    ["LLM_TOTAL_TIMEOUT", "Infinity"],
    ["LLM_TOTAL_TIMEOUT", "0"],
    ["TURN_TIMEOUT", "0 seconds"],
    ["LLM_RETRIES", "11"],
    ["MAX_CONCURRENT_TURNS", "0"],
    ["SHUTDOWN_GRACE", "-5 seconds"],
    ["LOG_LEVEL", "verbose"],
    ["LOG_FORMAT", "xml"],
    ["OTEL_TRACES_SAMPLER", "sometimes"],
    ["OTEL_TRACES_SAMPLER_ARG", "1.5"],
    ["OTEL_TRACES_SAMPLER_ARG", "half"],
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"],
    ["OTEL_BSP_SCHEDULE_DELAY", "0"],
    ["OTEL_SDK_DISABLED", "yes"],
    ["TRACE_STORE", "redis"],
    ["LLM_PRICES", "gpt-5"]
  ])("refuses %s=%s, on one line that names it", ([name, value]) =>
    Effect.gen(function* () {
      const problems = yield* problemsOf({ [name]: value })
      assert.strictEqual(problems.length, 1)
      assert.isTrue(problems[0]?.startsWith(`${name}: `))
      assert.notInclude(problems[0], "\n")
    })
  )

  it.effect("tells of everything that is wrong at once", () =>
    Effect.gen(function* () {
      const problems = yield* problemsOf({
        PORT: "http",
        HOST: "0.0.0.0",
        LOG_LEVEL: "loud",
        DATABASE_URL: "nowhere",
        TURN_TIMEOUT: "soon"
      })
      assert.sameMembers(
        problems.map((problem) => problem.slice(0, problem.indexOf(":"))),
        ["PORT", "HOST", "LOG_LEVEL", "DATABASE_URL", "TURN_TIMEOUT"]
      )
    })
  )

  it.effect("repeats no secret, neither in problems nor when shown", () =>
    Effect.gen(function* () {
      const secret = "hunter2"
      const problems = yield* problemsOf({
        DATABASE_URL: `mysql://me:${secret}@db/voice`,
        LLM_BASE_URL: `ftp://me:${secret}@llm`,
        LLM_API_KEY: secret,
        TAVILY_API_KEY: secret,
        API_KEYS: secret,
        PORT: "http"
      })
      assert.strictEqual(problems.length, 3)
      assert.notInclude(problems.join("\n"), secret)
      const settings = yield* read({
        DATABASE_URL: `postgres://me:${secret}@db/voice`,
        LLM_API_KEY: secret,
        TAVILY_API_KEY: secret,
        API_KEYS: secret
      })
      assert.notInclude(JSON.stringify(settings), secret)
    })
  )

  it.effect("listens beyond this machine only with credentials", () =>
    Effect.gen(function* () {
      for (const HOST of ["0.0.0.0", "::", "192.168.0.7", "voice.example", "127.voice.example"]) {
        const [problem] = yield* problemsOf({ HOST })
        assert.include(problem, "API_KEYS")
        assert.strictEqual((yield* read({ HOST, API_KEYS: "key" })).host, HOST)
      }
      for (const HOST of ["127.0.0.1", "127.0.0.2", "localhost", "::1"]) {
        assert.isTrue(isLoopback(HOST))
        assert.strictEqual((yield* read({ HOST })).host, HOST)
      }
    })
  )
})
