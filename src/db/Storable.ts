/**
 * Owns what Postgres can hold of JavaScript's text: neither U+0000 nor half a surrogate pair.
 */

export const toText = (text: string): string => text.toWellFormed().replaceAll("\u0000", "")

/** JSON for a `jsonb` column. */
export const toJsonb = (value: unknown): string =>
  JSON.stringify(value, (_, item) => (typeof item === "string" ? toText(item) : item))
