/**
 * Owns what log lines look like: one line for people in development, JSON in production. Every line under a request
 * carries its ids, and none carries a secret.
 */
import { Cause, Context, Effect, Layer, Logger, Predicate, References, Tracer } from "effect"
import { AppConfig } from "../Config.ts"
import { CurrentRequest } from "./CurrentRequest.ts"
import { blot, isSecretName, Redaction } from "./Redaction.ts"

type Redact = Redaction["Service"]["redact"]

interface Line {
  readonly timestamp: string
  readonly level: string
  readonly message: string
  /** Ids and annotations, in `snake_case`. */
  readonly fields: Readonly<Record<string, unknown>>
  readonly cause: string | undefined
}

/** JSON, whatever the value is: a line that can't be told would be lost with what it is about. */
const jsonOf = (value: unknown, redact: Redact): string => {
  const seen: Array<unknown> = []
  return JSON.stringify(value, function (this: unknown, key, item) {
    if (typeof item === "string") return isSecretName(key) ? blot : redact(item)
    if (typeof item === "bigint") return String(item)
    if (typeof item !== "object" || item === null) return item
    // What lies between the root and here; anything else was left again.
    while (seen.length > 0 && seen.at(-1) !== this) seen.pop()
    if (seen.includes(item)) return "[circular]"
    seen.push(item)
    return item instanceof Error ? { name: item.name, message: item.message } : item
  })
}

const textOf = (value: unknown, redact: Redact): string =>
  typeof value === "string"
    ? redact(value)
    : value instanceof Error
      ? redact(value.message)
      : (jsonOf(value, redact) ?? String(value))

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

const lineOf = ({ cause, date, fiber, logLevel, message }: Logger.Options<unknown>, redact: Redact): Line => {
  const parts = Array.isArray(message) ? message : [message]
  return {
    timestamp: date.toISOString(),
    level: logLevel,
    message: parts
      .filter(Predicate.isNotUndefined)
      .map((part) => textOf(part, redact))
      .join(": "),
    fields: { ...idsOf(fiber.context), ...fiber.getRef(References.CurrentLogAnnotations) },
    cause: cause.reasons.length === 0 ? undefined : redact(Cause.pretty(cause))
  }
}

const json = ({ cause, fields, level, message, timestamp }: Line, redact: Redact): string =>
  jsonOf({ timestamp, level, message, ...fields, ...(cause === undefined ? {} : { cause }) }, redact)

/** What would move the cursor, or begin a line that nobody logged. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const controls = /[\u0000-\u001f\u007f-\u009f]/g
const visible = (text: string) => text.replace(controls, (control) => JSON.stringify(control).slice(1, -1))

const pretty = ({ cause, fields, level, message, timestamp }: Line, redact: Redact): string => {
  const details = Object.entries(fields).map(
    ([key, value]) => `${key}=${isSecretName(key) ? blot : textOf(value, redact)}`
  )
  const line = [timestamp.slice(11, 23), level.toUpperCase().padEnd(5), message, ...details].join(" ")
  return cause === undefined ? visible(line) : `${visible(line)}\n${cause}`
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
        Logger.layer([Logger.make((options) => write(render(lineOf(options, redact), redact)))]),
        Layer.succeed(References.MinimumLogLevel, logLevel)
      )
    })
  )

export const layerLogging = layerLoggingTo((line) => void process.stdout.write(`${line}\n`))
