/**
 * Owns the port to language models: which model answers a request, and the policy around one call.
 *
 * Does not know a wire protocol (the providers do), keep history or run tools (the agent does).
 */
import { Context, type Duration, Effect, Layer, Schema, Stream } from "effect"
import type { AiError, LanguageModel, Prompt, Response, Toolkit } from "effect/ai"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import { AppConfig } from "../Config.ts"
import * as LlmPolicy from "./LlmPolicy.ts"

export type ModelVariant = "default" | "fast" | "creative"

/** What a caller may ask of a model. A setting given here wins over what the variant implies. */
export interface ModelOverride {
  readonly model?: string | undefined
  /** 0 to 2. */
  readonly temperature?: number | undefined
  /** Most tokens of one reply, 1 to 32000. */
  readonly maxTokens?: number | undefined
}

/** One model with the settings of one call, decided. */
export interface ModelSettings {
  readonly model: string
  readonly temperature?: number | undefined
  readonly maxTokens?: number | undefined
}

/**
 * A source of `effect/ai` language models. Any `@effect/ai-*` package fits: hand its `make` here.
 */
export class LlmProvider extends Context.Service<
  LlmProvider,
  {
    /** As OpenTelemetry's `gen_ai.provider.name` spells it: `openai`, `offline`, … */
    readonly name: string
    /** Models it answers with when a request names none. */
    readonly models: { readonly default: string; readonly fast: string; readonly creative: string }
    /** Whether real language is understood. False for the rule-based stand-in. */
    readonly isOffline: boolean
    readonly languageModel: (settings: ModelSettings) => Effect.Effect<LanguageModel.LanguageModel>
  }
>()("voice-agent/llm/LlmProvider") {}

export type LlmFailureReason =
  | "connection"
  | "timeout"
  | "rate_limited"
  | "server_error"
  | "rejected"
  | "bad_response"

/** The model gave no complete answer, and trying further would not help. */
export class LlmUnavailable extends Schema.TaggedError<LlmUnavailable>()("LlmUnavailable", {
  reason: Schema.Literals([
    "connection",
    "timeout",
    "rate_limited",
    "server_error",
    "rejected",
    "bad_response"
  ]),
  model: Schema.String,
  /** Whether part of the reply had already been streamed. */
  midStream: Schema.Boolean,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message() {
    return `${this.model}: ${this.reason}${this.midStream ? " in the middle of the reply" : ""}`
  }
}

// biome-ignore lint/suspicious/noExplicitAny: a toolkit of tools known at run time only
export type AnyToolkit = Toolkit.WithHandler<any>
// biome-ignore lint/suspicious/noExplicitAny: as above
export type LlmPart = Response.StreamPart<any>

export interface LlmRequest {
  readonly prompt: Prompt.Prompt
  /** The tools the model may call. Calls are only announced, never run here. */
  readonly toolkit: AnyToolkit | undefined
  readonly variant: ModelVariant
  readonly override: ModelOverride
}

export class Llm extends Context.Service<
  Llm,
  {
    readonly provider: string
    readonly isOffline: boolean
    /** The models in use, by variant, then the fallbacks. */
    readonly models: { readonly default: string; readonly fast: string; readonly creative: string }
    readonly fallbackModels: ReadonlyArray<string>
    /** The model a request would be sent to first. */
    readonly modelFor: (variant: ModelVariant, override: ModelOverride) => string
    /**
     * One model call. Parts that arrive together stay in one chunk. Ends with a `finish` part, or fails once:
     * what came before the failure has been emitted.
     */
    readonly stream: (request: LlmRequest) => Stream.Stream<LlmPart, LlmUnavailable>
  }
>()("voice-agent/llm/Llm") {
  /** Open, for tests: the policy's numbers can be given, and the store that holds the breakers. */
  static readonly make = Effect.fnUntraced(function* (options: {
    readonly fallbackModels: ReadonlyArray<string>
    readonly timeouts: Omit<LlmTimeouts, "connect">
    readonly retries?: LlmPolicy.LlmRetries
    readonly breaker?: LlmPolicy.LlmBreaker
  }) {
    const provider = yield* LlmProvider
    const { fallbackModels } = options
    const policy = yield* LlmPolicy.make({
      timeouts: options.timeouts,
      retries: options.retries ?? LlmPolicy.defaultRetries,
      breaker: options.breaker ?? LlmPolicy.defaultBreaker,
      knownModels: new Set([...Object.values(provider.models), ...fallbackModels])
    })
    const modelFor = (variant: ModelVariant, override: ModelOverride): string =>
      override.model ?? provider.models[variant]

    const candidate = (model: string, request: LlmRequest): LlmPolicy.Candidate => ({
      model,
      stream: Stream.unwrap(
        Effect.map(
          provider.languageModel({
            model,
            temperature: request.override.temperature ?? temperatures[request.variant],
            maxTokens: request.override.maxTokens
          }),
          (languageModel): Stream.Stream<LlmPart, AiError.AiError> => {
            const { prompt } = request
            // Which tools there are is known at run time only; none of them is run or encoded, so nothing is required.
            const toolkit: Toolkit.WithHandler<Record<never, never>> | undefined = request.toolkit
            return toolkit === undefined
              ? languageModel.streamText({ prompt, ...asAnnounced })
              : languageModel.streamText({ prompt, toolkit, ...asAnnounced })
          }
        )
      )
    })

    return Llm.of({
      provider: provider.name,
      isOffline: provider.isOffline,
      models: provider.models,
      fallbackModels,
      modelFor,
      stream: (request) => {
        const model = modelFor(request.variant, request.override)
        const others = new Set(fallbackModels)
        others.delete(model)
        return policy
          .stream([candidate(model, request), ...Array.from(others, (other) => candidate(other, request))])
          .pipe(
            Stream.mapError(
              ({ cause, midStream, model, reason }) => new LlmUnavailable({ model, reason, midStream, cause })
            )
          )
      }
    })
  })

  static readonly layer: Layer.Layer<Llm, never, LlmProvider | AppConfig> = Layer.effect(
    Llm,
    Effect.flatMap(AppConfig, ({ llm }) =>
      Llm.make({
        fallbackModels: llm.fallbackModels,
        timeouts: {
          firstToken: llm.firstTokenTimeout,
          betweenTokens: llm.tokenTimeout,
          total: llm.totalTimeout
        },
        retries: llm.retries,
        breaker: llm.breaker
      })
    )
  ).pipe(Layer.provide(CircuitBreaker.layerStoreMemory()))
}

/** Calls are not run here, and wrong arguments come through: the tools answer the model. */
const asAnnounced = { disableToolCallResolution: true, toolCallValidation: "deferred" } as const

/** How free a variant is in its choice of words, unless a request says so itself. */
const temperatures: Record<ModelVariant, number> = { default: 0.7, fast: 0.3, creative: 1 }

/** Limits of one model call. Source: the failure policy in docs/ARCHITECTURE.md. */
export interface LlmTimeouts {
  readonly connect: Duration.Duration
  readonly firstToken: Duration.Duration
  readonly betweenTokens: Duration.Duration
  readonly total: Duration.Duration
}
