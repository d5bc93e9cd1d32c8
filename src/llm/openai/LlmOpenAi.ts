/**
 * Owns the provider for OpenAI-compatible servers: OpenAI, Ollama, vLLM, llama.cpp, gateways. One request, no retries.
 *
 * Does not decide what is tried again (`LlmPolicy.ts` does), and reads no environment: the settings come from `AppConfig`.
 */
import type { IncomingMessage } from "node:http"
import { Clock, Duration, Effect, Layer, Redacted, type Scope, Stream } from "effect"
import type { AiError, Response } from "effect/ai"
import * as LanguageModel from "effect/ai/LanguageModel"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import { APIError, BadRequestError } from "openai/error"
import { AppConfig, type LlmSettings } from "../../Config.ts"
import { makeTransport, readText } from "../../net/Transport.ts"
import { httpClientSpan, traceHeaders } from "../../observability/ClientSpan.ts"
import { version } from "../../version.ts"
import { LlmProvider, type ModelSettings } from "../Llm.ts"
import { failureOfThrown, openAiError } from "./LlmOpenAiError.ts"
import { CompletionParts, wholeParts } from "./LlmOpenAiParts.ts"
import { isReasoningModel, type Quirks, toBody, toLimits } from "./LlmOpenAiRequest.ts"
import { PartsReader } from "./LlmOpenAiStream.ts"

/** Asked for when a key is configured and no model is: cheap, quick to its first token, good with tools. */
const defaultModel = "gpt-4o-mini"

/** Models kept ready. A request may name its own model and temperature, so their number has no bound of itself. */
const maxKeptModels = 64

/**
 * The base URL, to which `/chat/completions` is appended.
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

const queryOf = (url: string | undefined): string => (url === undefined ? "" : new URL(url).search)

/** The parsed text, or `undefined` for what is no JSON. */
const jsonOf = (text: string): object | undefined => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** An answer other than 2xx, as the `openai` package tells it. */
const refusal = async (incoming: IncomingMessage): Promise<APIError> => {
  // The status is what counts, also when the rest of the answer is lost.
  const text = await readText(incoming).catch(String)
  const body = jsonOf(text)
  const headers = new Headers()
  for (const name of ["retry-after", "retry-after-ms"]) {
    const value = incoming.headers[name]
    if (typeof value === "string") headers.set(name, value)
  }
  return APIError.generate(incoming.statusCode, body, body === undefined ? text : undefined, headers)
}

/** An answer on its way. What is not read to its end takes its connection along. */
interface Answer {
  incoming: IncomingMessage | undefined
  reader: PartsReader | undefined
}

const makeAnswer: Effect.Effect<Answer, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync((): Answer => ({ incoming: undefined, reader: undefined })),
  ({ incoming, reader }) => Effect.sync(() => (reader === undefined ? incoming?.destroy() : reader.release()))
)

/** `propagateTo`: hosts that get W3C trace headers, or `*`. */
export const make = Effect.fnUntraced(function* (
  config: LlmSettings,
  propagateTo: ReadonlyArray<string> = []
) {
  const url = `${normalizeBaseUrl(config.baseUrl)}/chat/completions`
  const target = new URL(`${url}${queryOf(config.baseUrl)}`)
  const transport = yield* Effect.acquireRelease(
    Effect.sync(() => makeTransport(target, { connectMillis: Duration.toMillis(config.connectTimeout) })),
    (transport) => Effect.sync(transport.close)
  )
  const headers: Readonly<Record<string, string>> = {
    accept: "application/json",
    "content-type": "application/json",
    "user-agent": `voice-agent-api/${version}`,
    // Local servers need no key, so none is sent.
    ...(config.apiKey === undefined ? {} : { authorization: `Bearer ${Redacted.value(config.apiKey)}` })
  }

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

  /** The head of a successful answer. Its connection is let go with the scope, unless a reader takes that over. */
  const send = Effect.fnUntraced(function* (
    method: string,
    options: LanguageModel.ProviderOptions,
    settings: ModelSettings,
    stream: boolean,
    answer: Answer
  ) {
    const span = yield* httpClientSpan("POST", target)
    const body = yield* toBody(options, settings).pipe(
      Effect.mapError((reason) => openAiError(method, reason))
    )
    const allHeaders = { ...headers, ...traceHeaders(span, target, propagateTo) }
    const attempt = Effect.fnUntraced(function* (quirks: Quirks) {
      const incoming = yield* transport.post(
        allHeaders,
        JSON.stringify({
          ...body,
          ...toLimits(settings, quirks),
          stream,
          ...(stream && !quirks.noStreamOptions ? { stream_options: { include_usage: true } } : {})
        })
      )
      answer.incoming = incoming
      const { statusCode = 0 } = incoming
      if (statusCode >= 200 && statusCode <= 299) return incoming
      return yield* Effect.flatMap(
        Effect.tryPromise({ try: () => refusal(incoming), catch: (cause) => cause }),
        Effect.fail
      )
    })
    const attempts = (): Effect.Effect<IncomingMessage, unknown> => {
      const quirks = quirksOf(settings.model)
      return attempt(quirks).pipe(
        // Each refusal is learned once, so this ends.
        Effect.catch((cause) => (learn(cause, settings.model, quirks) ? attempts() : Effect.fail(cause)))
      )
    }
    const incoming = yield* attempts().pipe(
      Effect.catch((cause) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          if (cause instanceof APIError && typeof cause.status === "number") {
            span.attribute("http.response.status_code", cause.status)
          }
          return Effect.fail(openAiError(method, failureOfThrown(cause, url, now)))
        })
      )
    )
    span.attribute("http.response.status_code", incoming.statusCode)
    return incoming
  })

  const readWhole = (method: string, settings: ModelSettings, incoming: IncomingMessage) =>
    Effect.tryPromise({
      try: async () => JSON.parse(await readText(incoming)),
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
      const incoming = yield* send(method, options, settings, false, yield* makeAnswer)
      return wholeParts(yield* readWhole(method, settings, incoming))
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
    const answer = yield* makeAnswer
    const incoming = yield* send(method, options, settings, true, answer)
    if (incoming.headers["content-type"]?.startsWith("application/json") === true) {
      // A server that cannot stream, or reports an error with status 200.
      return Stream.fromIterable(yield* readWhole(method, settings, incoming))
    }
    const parts = new CompletionParts({ method, model: settings.model })
    const reader = new PartsReader(incoming, parts, { method, url })
    answer.reader = reader
    return Stream.fromPull(Effect.succeed(reader.pull))
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
