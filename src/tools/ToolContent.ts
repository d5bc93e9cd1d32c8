/**
 * Owns the text of a tool's answer as a model sees it: JSON, never longer than a limit.
 *
 * Does not change what people get: `execute` answers whole.
 */
import type { Schema } from "effect"

/** What may stay: characters of one string, and members of one list or object. */
interface Allowance {
  readonly characters: number
  readonly members: number
}

/** Gentlest first: long texts are cut before anything is left out. */
const allowances: ReadonlyArray<Allowance> = [
  ...[4000, 2000, 1000, 500, 250].map((characters) => ({ characters, members: Number.POSITIVE_INFINITY })),
  ...[100, 50, 20, 10, 5].map((members) => ({ characters: 250, members })),
  { characters: 80, members: 3 }
]

/** Nothing a tool answers is nested deeper for good reason. */
const maxDepth = 20

const cutText = (text: string, characters: number): string =>
  text.length <= characters
    ? text
    : `${text.slice(0, characters).toWellFormed()}… [cut: ${text.length - characters} more characters]`

const isArray = (value: Schema.Json): value is Schema.JsonArray => Array.isArray(value)

const cut = (value: Schema.Json, allowance: Allowance, depth = 0): Schema.Json => {
  if (typeof value === "string") return cutText(value, allowance.characters)
  if (value === null || typeof value !== "object") return value
  if (depth >= maxDepth) return "[cut: nested too deeply]"
  if (isArray(value)) {
    const kept = value.slice(0, allowance.members).map((item) => cut(item, allowance, depth + 1))
    const left = value.length - kept.length
    return left === 0 ? kept : [...kept, `[cut: ${left} more]`]
  }
  const entries = Object.entries(value)
  const kept: Array<[string, Schema.Json]> = entries
    .slice(0, allowance.members)
    .map(([key, item]) => [cutText(key, allowance.characters), cut(item, allowance, depth + 1)])
  const left = entries.length - kept.length
  return Object.fromEntries(left === 0 ? kept : [...kept, ["[cut]", `${left} more`]])
}

/**
 * The JSON text of a JSON value, at most `limit` characters (UTF-16 units; at least 200). What is too long is cut,
 * long strings first, then the ends of lists and objects, each cut marked with what is missing; the text stays valid
 * JSON. When even that is too long it is `{ "cut": "<the beginning of the JSON>…" }`.
 */
export const contentOf = (data: Schema.Json, limit: number): string => {
  const whole = JSON.stringify(data)
  if (whole.length <= limit) return whole
  for (const allowance of allowances) {
    const text = JSON.stringify(cut(data, allowance))
    if (text.length <= limit) return text
  }
  // Escaping at most doubles what is JSON already, control characters having been escaped once.
  const beginning = whole.slice(0, Math.floor((limit - 60) / 2)).toWellFormed()
  return JSON.stringify({ cut: `${beginning}… [${whole.length - beginning.length} more characters]` })
}
