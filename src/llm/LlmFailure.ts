/**
 * Owns the reading of a failed model call: what went wrong, whether asking the same model again may help, and whether it
 * speaks against the model's health.
 *
 * Does not act on it (`LlmPolicy.ts` does), and knows no provider: only `effect/ai`'s `AiError`.
 */
import { Data, type Duration } from "effect"
import type { AiError } from "effect/ai"
import { ConnectTimeout } from "../net/ConnectTimeout.ts"
import { parseRetryAfter } from "../net/RetryAfter.ts"
import type { LlmFailureReason } from "./Llm.ts"

/** One attempt at one model failed. */
export class AttemptFailed extends Data.TaggedError("AttemptFailed")<{
  readonly reason: LlmFailureReason
  /** Whether the same model may answer when asked again. */
  readonly isRetryable: boolean
  /** Whether the model, and not the request, is to blame. */
  readonly isUnhealthy: boolean
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause: unknown
}> {}

interface HttpContext {
  readonly response?:
    | { readonly status: number; readonly headers: Readonly<Record<string, unknown>> }
    | undefined
}

const statusOf = (http: HttpContext | undefined): number | undefined => http?.response?.status

const retryAfterOf = (http: HttpContext | undefined, nowMillis: number): Duration.Duration | undefined =>
  parseRetryAfter(
    {
      get: (name) => {
        const value = http?.response?.headers[name]
        return typeof value === "string" ? value : undefined
      }
    },
    nowMillis
  )

/** `nowMillis`: for a `Retry-After` that is a date. */
export const classify = (error: AiError.AiError, nowMillis: number): AttemptFailed => {
  const reason = error.reason
  const failed = (
    as: LlmFailureReason,
    options: {
      readonly retry: boolean
      readonly unhealthy: boolean
      readonly after?: Duration.Duration | undefined
    }
  ) =>
    new AttemptFailed({
      reason: as,
      isRetryable: options.retry,
      isUnhealthy: options.unhealthy,
      retryAfter: options.after,
      cause: error
    })
  switch (reason._tag) {
    case "NetworkError":
      return failed(reason.cause instanceof ConnectTimeout ? "timeout" : "connection", {
        retry: reason.isRetryable,
        unhealthy: true
      })
    case "RateLimitError":
      return failed("rate_limited", {
        retry: true,
        unhealthy: true,
        after: reason.retryAfter ?? retryAfterOf(reason.http, nowMillis)
      })
    case "InternalProviderError":
      return failed("server_error", {
        retry: true,
        unhealthy: true,
        after: retryAfterOf(reason.http, nowMillis)
      })
    case "InvalidResponseError":
    case "InvalidOutputError":
    case "StructuredOutputError":
      return failed("bad_response", { retry: false, unhealthy: true })
    case "UnknownError": {
      const status = statusOf(reason.http)
      const after = retryAfterOf(reason.http, nowMillis)
      if (status === 408) return failed("timeout", { retry: true, unhealthy: true, after })
      if (status === 409) return failed("server_error", { retry: true, unhealthy: true, after })
      return status === undefined
        ? failed("bad_response", { retry: false, unhealthy: true })
        : failed("rejected", { retry: false, unhealthy: false })
    }
    default:
      // A wrong key, an unknown model, a request it does not take: the same answer would come again, to this request.
      return failed("rejected", { retry: false, unhealthy: false })
  }
}

export const timedOut = (message: string): AttemptFailed =>
  // Waited for long enough already: the next model is the better use of the time left.
  new AttemptFailed({ reason: "timeout", isRetryable: false, isUnhealthy: true, cause: new Error(message) })

export const badResponse = (message: string, cause?: unknown): AttemptFailed =>
  new AttemptFailed({
    reason: "bad_response",
    isRetryable: false,
    isUnhealthy: true,
    cause: new Error(message, { cause })
  })
