/**
 * Owns the translation of what goes wrong with an OpenAI-compatible server into `AiError`.
 *
 * Does not decide what is tried again (`LlmFailure.ts` reads the reasons).
 */
import { Duration } from "effect"
import * as AiError from "effect/ai/AiError"
import { APIError } from "openai/error"
import { parseRetryAfter } from "../../net/RetryAfter.ts"

const module = "LlmOpenAi"

export const openAiError = (method: string, reason: AiError.AiErrorReason): AiError.AiError =>
  AiError.make({ module, method, reason })

/** The fields of OpenAI's error body that say what is wrong. */
interface ErrorBody {
  readonly message?: unknown
  readonly code?: unknown
  readonly type?: unknown
}

const describe = (body: ErrorBody | undefined, fallback: string): string => {
  const message = typeof body?.message === "string" && body.message !== "" ? body.message : fallback
  const code = body?.code ?? body?.type
  return (typeof code === "string" && code !== "" ? `${message} [${code}]` : message).slice(0, 1000)
}

const reasonOf = (
  status: number,
  description: string,
  code: unknown,
  retryAfter: Duration.Duration | undefined
): AiError.AiErrorReason => {
  // Only what the policy reads is kept: headers may hold more than should be logged.
  const http = {
    response: {
      status,
      headers: retryAfter === undefined ? {} : { "retry-after-ms": String(Duration.toMillis(retryAfter)) }
    }
  }
  switch (status) {
    case 400:
    case 404:
    case 413:
    case 422:
      return code === "content_filter" || code === "content_policy_violation"
        ? new AiError.ContentPolicyError({ description, http })
        : new AiError.InvalidRequestError({ description, http })
    case 401:
      return new AiError.AuthenticationError({ kind: "InvalidKey", description, http })
    case 403:
      return new AiError.AuthenticationError({ kind: "InsufficientPermissions", description, http })
    case 402:
      return new AiError.QuotaExhaustedError({ http })
    case 429:
      return code === "insufficient_quota"
        ? new AiError.QuotaExhaustedError({ http })
        : new AiError.RateLimitError({ http, ...(retryAfter === undefined ? {} : { retryAfter }) })
    default:
      return status >= 500
        ? new AiError.InternalProviderError({ description, http })
        : new AiError.UnknownError({ description: `HTTP ${status}: ${description}`, http })
  }
}

/** An error that came as a chunk of a stream, or as the body of a 200. Its `code` may be an HTTP status. */
export const failureOfErrorBody = (error: unknown): AiError.AiErrorReason => {
  if (typeof error !== "object" || error === null) return reasonOf(500, String(error), undefined, undefined)
  const body: ErrorBody & { readonly status?: unknown } = error
  const named = [body.code, body.status].find(
    (value) => typeof value === "number" && Number.isInteger(value) && value >= 400 && value < 600
  )
  const isRateLimit = body.code === "rate_limit_exceeded" || body.type === "rate_limit_error"
  const status = typeof named === "number" ? named : isRateLimit ? 429 : 500
  return reasonOf(status, describe(body, "The server reported an error in its answer"), body.code, undefined)
}

/** Whatever the transport failed with, or the server's refusal. */
export const failureOfThrown = (cause: unknown, url: string, nowMillis: number): AiError.AiErrorReason => {
  if (cause instanceof APIError && typeof cause.status === "number") {
    const body = typeof cause.error === "object" && cause.error !== null ? cause.error : undefined
    const retryAfter = cause.headers === undefined ? undefined : parseRetryAfter(cause.headers, nowMillis)
    return reasonOf(cause.status, describe(body, cause.message), cause.code, retryAfter)
  }
  return new AiError.NetworkError({
    reason: "TransportError",
    method: "POST",
    url,
    description: cause instanceof Error ? cause.message : String(cause),
    cause
  })
}
