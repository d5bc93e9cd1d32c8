/**
 * Owns what a cassette holds: exchanges without secrets, how two requests are compared, and how their differences are
 * told.
 *
 * Does not speak HTTP (`Cassette.ts` does).
 */
import { Schema } from "effect"

const Exchange = Schema.Struct({
  request: Schema.Struct({
    method: Schema.String,
    /** Under the upstream's base URL, with the query. */
    path: Schema.String,
    /** A JSON document, or a text. */
    body: Schema.Unknown
  }),
  response: Schema.Struct({
    status: Schema.Int,
    headers: Schema.Record(Schema.String, Schema.String),
    /** As they arrived: one for each chunk of the body. */
    chunks: Schema.Array(Schema.String),
    /** False when the client went away before the end. */
    complete: Schema.Boolean
  })
})
export type Exchange = typeof Exchange.Type
export type TapeRequest = Exchange["request"]

export const Tape = Schema.fromJsonString(
  Schema.Struct({ version: Schema.Literal(1), exchanges: Schema.Array(Exchange) })
)

/** All that is kept of a response's headers; of a request's, nothing is. */
export const keptHeaders = ["content-type", "retry-after", "retry-after-ms"]

const stripped = "***"

const isSecretName = (name: string) => /key|token|secret|sig|auth|password|credential/i.test(name)

/** The path with the values of secret parameters blotted out, and these values. */
export const stripQuery = (
  path: string
): { readonly path: string; readonly secrets: ReadonlyArray<string> } => {
  const [route = "", query] = path.split("?", 2)
  if (query === undefined) return { path, secrets: [] }
  const secrets: Array<string> = []
  const parameters = Array.from(new URLSearchParams(query), ([name, value]) => {
    if (!isSecretName(name)) return [name, value]
    secrets.push(value)
    return [name, stripped]
  })
  return { path: `${route}?${parameters.map((pair) => pair.join("=")).join("&")}`, secrets }
}

/** What a request's headers hold that must not be kept, should it come back in a body. */
export const secretsOf = (headers: Readonly<Record<string, unknown>>): ReadonlyArray<string> =>
  Object.entries(headers).flatMap(([name, value]) => {
    if (typeof value !== "string") return []
    if (name === "cookie") return value.split(/;\s*/).map((pair) => pair.slice(pair.indexOf("=") + 1))
    // `Bearer …`: the scheme is no secret.
    if (/^(?:proxy-)?authorization$/.test(name)) return [value.slice(value.indexOf(" ") + 1)]
    return isSecretName(name) ? [value] : []
  })

const strip = (text: string, secrets: ReadonlyArray<string>): string =>
  secrets
    .filter((secret) => secret !== "")
    .sort((a, b) => b.length - a.length)
    .reduce((result, secret) => result.replaceAll(secret, stripped), text)

/** Boundaries stay, but for a secret that lies across one. */
const stripChunks = (
  chunks: ReadonlyArray<string>,
  secrets: ReadonlyArray<string>
): ReadonlyArray<string> => {
  const each = chunks.map((chunk) => strip(chunk, secrets))
  const whole = strip(chunks.join(""), secrets)
  return each.join("") === whole ? each : [whole]
}

/** An exchange as it may be kept. */
export const withoutSecrets = (
  { request, response }: Exchange,
  secrets: ReadonlyArray<string>
): Exchange => ({
  request: JSON.parse(strip(JSON.stringify(request), secrets)),
  response: {
    ...response,
    headers: Object.fromEntries(
      Object.entries(response.headers)
        .filter(([name]) => keptHeaders.includes(name))
        .map(([name, value]) => [name, strip(value, secrets)])
    ),
    chunks: stripChunks(response.chunks, secrets)
  }
})

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

const shown = (value: unknown): string => {
  const text = value === undefined ? "nothing" : JSON.stringify(value)
  return text.length > 300 ? `${text.slice(0, 300)}…` : text
}

/** Where two JSON values differ, a line each; none when they are equal. */
export const differences = (recorded: unknown, got: unknown, path: string): ReadonlyArray<string> => {
  if (Object.is(recorded, got)) return []
  if (isObject(recorded) && isObject(got) && Array.isArray(recorded) === Array.isArray(got)) {
    return [...new Set([...Object.keys(recorded), ...Object.keys(got)])].flatMap((key) =>
      differences(recorded[key], got[key], Array.isArray(recorded) ? `${path}[${key}]` : `${path}.${key}`)
    )
  }
  return [`  ${path}`, `    recorded: ${shown(recorded)}`, `    got:      ${shown(got)}`]
}
