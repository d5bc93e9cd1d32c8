/**
 * Owns the field schemas that several endpoints share. `null` means absent everywhere.
 */
import { Schema, SchemaTransformation } from "effect"

/** May be missing, or `null`. */
export const absent = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

const noNul = Schema.makeFilter<string>(
  (text) => !text.includes("\u0000") || "must not contain the character U+0000"
)

/** Text a person wrote: 1 to 4000 characters after trimming. */
export const MessageText = Schema.String.pipe(
  Schema.decodeTo(
    Schema.String.check(Schema.isBetweenCodePoints(1, 4000, { expected: "1 to 4000 characters" }), noNul),
    SchemaTransformation.trim()
  )
)

/** A name that clients choose, such as a user's id: 1 to 255 characters. */
export const ClientName = Schema.String.check(
  Schema.isBetweenCodePoints(1, 255, { expected: "1 to 255 characters" }),
  noNul
)

const maxDepth = 64

/** Deeper nesting overflows the stack of whatever walks it. */
const isShallow = Schema.makeFilter<object>((root) => {
  let level: Array<object> = [root]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > maxDepth) return `must not be nested deeper than ${maxDepth} levels`
    level = level.flatMap((item) =>
      Object.values(item).filter((value): value is object => typeof value === "object" && value !== null)
    )
  }
  return true
})

/** Any JSON object, of bounded depth. */
export const JsonObject = Schema.Record(Schema.String, Schema.Json).check(isShallow)

/** `GET` parameters are text. */
export const limited = (minimum: number, maximum: number) =>
  Schema.FiniteFromString.check(
    Schema.isInt({ expected: "a whole number" }),
    Schema.isBetween({ minimum, maximum }, { expected: `a value from ${minimum} to ${maximum}` })
  )

export const Timestamp = Schema.String.annotate({ description: "ISO 8601, UTC" })

export const Success = Schema.Boolean
