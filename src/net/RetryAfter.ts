/**
 * Owns reading the `Retry-After` header: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
 *
 * Does not decide whether to wait: the policy caps it.
 */
import { Duration } from "effect"

/**
 * How long a server asks to wait. `retry-after-ms` (OpenAI, Azure) is the more exact of the two; `retry-after` holds
 * seconds or an HTTP date, which is read against `nowMillis`. `undefined` for none, or for one that makes no sense.
 */
export const parseRetryAfter = (
  headers: { readonly get: (name: string) => string | null | undefined },
  nowMillis: number
): Duration.Duration | undefined => {
  const millis = headers.get("retry-after-ms")
  if (millis !== undefined && millis !== null && /^\d+(\.\d+)?$/.test(millis.trim())) {
    return Duration.millis(Number(millis))
  }
  const value = headers.get("retry-after")?.trim()
  if (value === undefined || value === "") return undefined
  if (/^\d+(\.\d+)?$/.test(value)) return Duration.seconds(Number(value))
  const date = Date.parse(value)
  return Number.isNaN(date) ? undefined : Duration.millis(Math.max(0, date - nowMillis))
}
