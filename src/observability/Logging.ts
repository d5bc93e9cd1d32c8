/**
 * Owns what log lines look like: one line for people in development, JSON in production. Every line under a request
 * carries its ids, and none carries a secret.
 */
import { Cause, Context, Effect, Layer, Logger, Predicate, References, Tracer } from "effect"
import { AppConfig } from "../Config.ts"
import { CurrentRequest } from "./CurrentRequest.ts"
import { Redaction } from "./Redaction.ts"

interface Line {
  readonly timestamp: string
  readonly level: string
  readonly message: string
  /** Ids and annotations, in `snake_case`. */
  readonly fields: Readonly<Record<string, unknown>>
  readonly cause: string | undefined
}

const textOf = (value: unknown): string =>
  typeof value === "string"
    ? value
    : value instanceof Error
      ? value.message
      : (JSON.stringify(value) ?? String(value))

const idsOf = (context: Context.Context<never>): Record<string, string> => {
  const ids: Record<string, string> = {}
  const span = Context.getOrUndefined(context, Tracer.ParentSpan)
  const { requestId, spanId, traceId } = Context.get(context, CurrentRequest)
  if (span !== undefined || traceId !== "") {
    ids.trace_id = span?.traceId ?? traceId
    ids.span_id = span?.spanId ?? spanId
  }
  if (requestId !== "") ids.request_id = requestId
  return ids
}

const lineOf = ({ cause, date, fiber, logLevel, message }: Logger.Options<unknown>): Line => {
  const parts = Array.isArray(message) ? message : [message]
  return {
    timestamp: date.toISOString(),
    level: logLevel,
    message: parts.filter(Predicate.isNotUndefined).map(textOf).join(": "),
    fields: { ...idsOf(fiber.context), ...fiber.getRef(References.CurrentLogAnnotations) },
    cause: cause.reasons.length === 0 ? undefined : Cause.pretty(cause)
  }
}

const json = ({ cause, fields, level, message, timestamp }: Line): string =>
  JSON.stringify({ timestamp, level, message, ...fields, ...(cause === undefined ? {} : { cause }) })

const pretty = ({ cause, fields, level, message, timestamp }: Line): string => {
  const details = Object.entries(fields).map(([key, value]) => `${key}=${textOf(value)}`)
  const line = [timestamp.slice(11, 23), level.toUpperCase().padEnd(5), message, ...details].join(" ")
  return cause === undefined ? line : `${line}\n${cause}`
}

/** Writes each line by `write`: for the process, standard output. */
export const layerLoggingTo = (
  write: (line: string) => void
): Layer.Layer<never, never, AppConfig | Redaction> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const { logFormat, logLevel } = yield* AppConfig
      const { redact } = yield* Redaction
      const render = logFormat === "json" ? json : pretty
      return Layer.merge(
        Logger.layer([Logger.make((options) => write(redact(render(lineOf(options)))))]),
        Layer.succeed(References.MinimumLogLevel, logLevel)
      )
    })
  )

export const layerLogging = layerLoggingTo((line) => void process.stdout.write(`${line}\n`))
