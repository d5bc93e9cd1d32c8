/**
 * A provider whose models answer with any parts and reasons that `effect/ai` has, by the test's clock: for the policy,
 * which has to bear what no OpenAI-compatible server sends. For all else there is `ScriptedModel`. Records who was asked,
 * when, and with which settings.
 */
import { Clock, type Duration, Effect, Stream } from "effect"
import { AiError, LanguageModel, type Response } from "effect/ai"
import { LlmProvider, type ModelSettings } from "../../src/llm/Llm.ts"

export type Answer = Stream.Stream<Response.StreamPartEncoded, AiError.AiError>

interface Asked {
  readonly model: string
  readonly atMillis: number
  readonly settings: ModelSettings
  readonly prompt: LanguageModel.ProviderOptions
  /** Whether the answer's stream has been let go of. */
  isOver: boolean
}

const start = { type: "text-start", id: "1" } as const
export const token = (delta: string) => ({ type: "text-delta", id: "1", delta }) as const
export const finish: Response.FinishPartEncoded = {
  type: "finish",
  reason: "stop",
  usage: {
    inputTokens: { uncached: undefined, total: undefined, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: undefined, text: undefined, reasoning: undefined }
  }
}

export const says = (...tokens: ReadonlyArray<string>): Answer =>
  Stream.make(start, ...tokens.map(token), { type: "text-end", id: "1" } as const, finish)

/** Each token after the pause. */
export const saysSlowly = (pause: Duration.Input, ...tokens: ReadonlyArray<string>): Answer =>
  Stream.concat(
    Stream.mapEffect(Stream.make(...tokens), (text) => Effect.delay(Effect.succeed(token(text)), pause)),
    Stream.make(finish)
  )

export const fails = (reason: AiError.AiErrorReason): Answer =>
  Stream.fail(AiError.make({ module: "Test", method: "streamText", reason }))

export const hangs: Answer = Stream.never

export const inTurn = (first: Answer, next: Answer): Answer => Stream.concat(first, next)

export const reason = {
  network: new AiError.NetworkError({ reason: "TransportError", method: "POST", url: "u" }),
  server: new AiError.InternalProviderError({ description: "down" }),
  status: (status: number) => new AiError.UnknownError({ http: { response: { status, headers: {} } } }),
  rateLimit: (retryAfter?: Duration.Duration) =>
    new AiError.RateLimitError(retryAfter === undefined ? {} : { retryAfter }),
  serverAfter: (retryAfter: string) =>
    new AiError.InternalProviderError({
      description: "down",
      http: { response: { status: 503, headers: { "retry-after": retryAfter } } }
    }),
  auth: new AiError.AuthenticationError({ kind: "InvalidKey" }),
  notFound: new AiError.InvalidRequestError({ description: "no such model" }),
  badResponse: new AiError.InvalidResponseError({ description: "no JSON" })
}

/**
 * `script`: the answers of each model, in order; the last one is given again and again. A model without a script is
 * unknown.
 */
export const partsProvider = (script: Readonly<Record<string, ReadonlyArray<Answer>>>) => {
  const asked: Array<Asked> = []
  const counts = new Map<string, number>()
  const provider = LlmProvider.of({
    name: "parts",
    models: { default: "main", fast: "quick", creative: "free" },
    isOffline: false,
    languageModel: (settings) =>
      LanguageModel.make({
        generateText: () => Effect.die("not used"),
        streamText: (prompt) =>
          Stream.unwrap(
            Effect.gen(function* () {
              const { model } = settings
              const entry: Asked = {
                model,
                atMillis: yield* Clock.currentTimeMillis,
                settings,
                prompt,
                isOver: false
              }
              asked.push(entry)
              const count = counts.get(model) ?? 0
              counts.set(model, count + 1)
              const answers = script[model] ?? [fails(reason.notFound)]
              const answer = answers[Math.min(count, answers.length - 1)] ?? hangs
              return Stream.ensuring(
                answer,
                Effect.sync(() => {
                  entry.isOver = true
                })
              )
            })
          )
      })
  })
  return { provider, asked }
}
