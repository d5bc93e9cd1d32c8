/**
 * Owns the provider for OpenAI-compatible servers: OpenAI, Ollama, vLLM, llama.cpp, gateways. One request, no retries.
 *
 * Does not decide what is tried again (`LlmPolicy.ts` does), and reads no environment: the settings come from `AppConfig`.
 */
import { Clock, Duration, Effect, Layer, Redacted, type Scope, Stream } from "effect"
import { type AiError, LanguageModel, type Response } from "effect/ai"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import OpenAI, { APIError, BadRequestError } from "openai"
import { AppConfig, type LlmSettings } from "../Config.ts"
import { httpClientSpan, traceHeaders } from "../observability/ClientSpan.ts"
import { LlmProvider, type ModelSettings } from "./Llm.ts"
import { failureOfThrown, openAiError } from "./LlmOpenAiError.ts"
import { CompletionParts, wholeParts } from "./LlmOpenAiParts.ts"
import { isReasoningModel, type Quirks, toBody, toLimits } from "./LlmOpenAiRequest.ts"
import { PartsReader } from "./LlmOpenAiStream.ts"
import { makeTransport, NodeResponse } from "./LlmOpenAiTransport.ts"

/** Asked for when a key is configured and no model is: cheap, quick to its first token, good with tools. */
const defaultModel = "gpt-4o-mini"

/** Models kept ready. A request may name its own model and temperature, so their number has no bound of itself. */
const maxKeptModels = 64

/**
 * The base URL as the `openai` package wants it: it appends `/chat/completions`.
 *
 * A URL without a path gets `/v1`, where every compatible server answers. A path is taken to be what the server's manual
 * says (`/v1`, `/api/v1`, `/v1beta/openai`, `/openai/deployments/…`) and stays, less a closing slash. A pasted
 * `/chat/completions` is taken off. A query, such as Azure's `api-version`, goes with each request (`queryOf`). Without a
 * URL: OpenAI's own.
 */
export const normalizeBaseUrl = (url: string | undefined): string => {
  if (url === undefined) return "https://api.openai.com/v1"
  const parsed = new URL(url)
  const path = parsed.pathname.replace(/\/+$/, "").replace(/\/chat\/completions$/, "")
  parsed.pathname = path === "" ? "/v1" : path
  parsed.search = ""
  parsed.hash = ""
  return parsed.toString().replace(/\/$/, "")
}

const queryOf = (url: string | undefined): Record<string, string> =>
  url === undefined ? {} : Object.fromEntries(new URL(url).searchParams)

/** An answer on its way, and what to do with its connection when nobody reads on. */
interface Exchange {
  readonly controller: AbortController
  reader: PartsReader | undefined
}

/** `propagateTo`: hosts that get W3C trace headers, or `*`. */
export const make = Effect.fnUntraced(function* (
  config: LlmSettings,
  propagateTo: ReadonlyArray<string> = []
) {
  const baseURL = normalizeBaseUrl(config.baseUrl)
  const url = `${baseURL}/chat/completions`
  const target = new URL(url)
  const transport = yield* Effect.acquireRelease(
    Effect.sync(() => makeTransport({ connectMillis: Duration.toMillis(config.connectTimeout) })),
    (transport) => Effect.sync(transport.close)
  )
  const apiKey = config.apiKey === undefined ? undefined : Redacted.value(config.apiKey)
  const client = new OpenAI({
    baseURL,
    defaultQuery: queryOf(config.baseUrl),
    // The package insists on a key. Local servers need none, so none is sent.
    apiKey: apiKey ?? "none",
    ...(apiKey === undefined ? { defaultHeaders: { Authorization: null } } : {}),
    // Given, so that the package does not look for them in the environment.
    organization: null,
    project: null,
    adminAPIKey: null,
    webhookSecret: null,
    logLevel: "off",
    maxRetries: 0,
    // The policy bounds time; the package's own timer would start one per request.
    timeout: 24 * 60 * 60 * 1000,
    fetch: transport.fetch
  })

  let noStreamOptions = false
  const learned = new Map<string, { noTemperature: boolean; maxCompletionTokens: boolean }>()
  const quirksOf = (model: string): Quirks => {
    const isReasoning = isReasoningModel(model)
    const known = learned.get(model)
    return {
      noStreamOptions,
      noTemperature: known?.noTemperature ?? isReasoning,
      maxCompletionTokens: known?.maxCompletionTokens ?? isReasoning
    }
  }
  /** Whether a refusal names a field that can be left out or spelt otherwise. Remembers it. */
  const learn = (cause: unknown, model: string, quirks: Quirks): boolean => {
    if (!(cause instanceof BadRequestError)) return false
    const text = `${cause.param ?? ""} ${cause.message}`
    if (!quirks.noStreamOptions && /stream_options|include_usage/.test(text)) {
      noStreamOptions = true
      return true
    }
    const { maxCompletionTokens, noTemperature } = quirks
    if (!maxCompletionTokens && /max_completion_tokens/.test(text)) {
      learned.set(model, { noTemperature, maxCompletionTokens: true })
      return true
    }
    // A value out of range is the caller's affair; only a refusal of the field itself is learned.
    if (!noTemperature && /temperature/.test(text) && /support|deprecated|only the default/i.test(text)) {
      learned.set(model, { noTemperature: true, maxCompletionTokens })
      return true
    }
    return false
  }

  const send = Effect.fnUntraced(function* (
    method: string,
    options: LanguageModel.ProviderOptions,
    settings: ModelSettings,
    stream: boolean,
    signal: AbortSignal
  ) {
    const span = yield* httpClientSpan("POST", target)
    const headers = traceHeaders(span, target, propagateTo)
    const body = yield* toBody(options, settings).pipe(
      Effect.mapError((reason) => openAiError(method, reason))
    )
    const attempt = (quirks: Quirks) =>
      Effect.tryPromise({
        try: () =>
          client.chat.completions
            .create(
              {
                ...body,
                ...toLimits(settings, quirks),
                stream,
                ...(stream && !quirks.noStreamOptions ? { stream_options: { include_usage: true } } : {})
              },
              { signal, headers }
            )
            .asResponse(),
        catch: (cause) => cause
      })
    const attempts = (): Effect.Effect<globalThis.Response, unknown> => {
      const quirks = quirksOf(settings.model)
      return attempt(quirks).pipe(
        // Each refusal is learned once, so this ends.
        Effect.catch((cause) => (learn(cause, settings.model, quirks) ? attempts() : Effect.fail(cause)))
      )
    }
    const response = yield* attempts().pipe(
      Effect.catch((cause) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          if (cause instanceof APIError && typeof cause.status === "number") {
            span.attribute("http.response.status_code", cause.status)
          }
          return Effect.fail(openAiError(method, failureOfThrown(cause, url, now)))
        })
      )
    )
    span.attribute("http.response.status_code", response.status)
    // The client was given this transport, whose responses are all of this class.
    return response instanceof NodeResponse
      ? response
      : yield* Effect.die("A response of a foreign transport")
  })

  const readWhole = (method: string, settings: ModelSettings, response: NodeResponse) =>
    Effect.tryPromise({
      try: () => response.json(),
      catch: (cause) => openAiError(method, failureOfThrown(cause, url, 0))
    }).pipe(
      Effect.flatMap((body) => {
        const parts = new CompletionParts({ method, model: settings.model })
        parts.whole(body)
        return parts.failure === undefined ? Effect.succeed(parts.take()) : Effect.fail(parts.failure)
      })
    )

  const generateText = (settings: ModelSettings) =>
    Effect.fnUntraced(function* (options: LanguageModel.ProviderOptions) {
      const method = "generateText"
      const controller = yield* Effect.acquireRelease(
        Effect.sync(() => new AbortController()),
        (controller) => Effect.sync(() => controller.abort())
      )
      const response = yield* send(method, options, settings, false, controller.signal)
      return wholeParts(yield* readWhole(method, settings, response))
    }, Effect.scoped)

  const openStream = Effect.fnUntraced(function* (
    options: LanguageModel.ProviderOptions,
    settings: ModelSettings
  ): Effect.fn.Return<
    Stream.Stream<Response.StreamPartEncoded, AiError.AiError>,
    AiError.AiError,
    Scope.Scope
  > {
    const method = "streamText"
    const exchange = yield* Effect.acquireRelease(
      Effect.sync((): Exchange => ({ controller: new AbortController(), reader: undefined })),
      ({ controller, reader }) =>
        Effect.sync(() => (reader === undefined ? controller.abort() : reader.release()))
    )
    const response = yield* send(method, options, settings, true, exchange.controller.signal)
    if (response.headers.get("content-type")?.startsWith("application/json") === true) {
      // A server that cannot stream, or reports an error with status 200.
      return Stream.fromIterable(yield* readWhole(method, settings, response))
    }
    const parts = new CompletionParts({ method, model: settings.model })
    exchange.reader = new PartsReader(response.incoming, parts, { method, url })
    return Stream.fromPull(Effect.succeed(exchange.reader.pull))
  })

  // A model holds a compiled decoder for its parts, which is far too dear to make for each call.
  const kept = new Map<string, LanguageModel.LanguageModel>()
  const languageModel = Effect.fnUntraced(function* (settings: ModelSettings) {
    const key = JSON.stringify([settings.model, settings.temperature, settings.maxTokens])
    const known = kept.get(key)
    if (known !== undefined) return known
    const model = yield* LanguageModel.make({
      generateText: generateText(settings),
      streamText: (options) => Stream.unwrap(openStream(options, settings)),
      codecTransformer: toCodecOpenAI
    })
    const oldest = kept.keys().next()
    if (kept.size >= maxKeptModels && oldest.done !== true) kept.delete(oldest.value)
    kept.set(key, model)
    return model
  })

  const model = config.model ?? defaultModel
  return LlmProvider.of({
    name: "openai",
    models: {
      default: model,
      fast: config.modelFast ?? model,
      creative: config.modelCreative ?? model
    },
    isOffline: false,
    languageModel
  })
})

export const layer: Layer.Layer<LlmProvider, never, AppConfig> = Layer.effect(
  LlmProvider,
  Effect.flatMap(AppConfig, ({ llm, tracing }) => make(llm, tracing.propagateTo))
)
