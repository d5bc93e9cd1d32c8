/**
 * Owns the field schemas that several endpoints share. `null` means absent everywhere.
 */
import { Schema, SchemaTransformation } from "effect"
import { isStorable, storable, storableExpected } from "./text.ts"

/** May be missing, or `null`. */
export const absent = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

/** Text a person wrote: 1 to 4000 characters after trimming. */
export const MessageText = Schema.String.pipe(
  Schema.decodeTo(
    Schema.String.check(Schema.isBetweenCodePoints(1, 4000, { expected: "1 to 4000 characters" }), storable),
    SchemaTransformation.trim()
  )
)

/** A name that clients choose, such as a user's id: 1 to 255 characters. */
export const ClientName = Schema.String.check(
  Schema.isBetweenCodePoints(1, 255, { expected: "1 to 255 characters" }),
  storable
)

const maxDepth = 64

/** Deeper nesting overflows the stack of whatever walks it. */
const isPlain = Schema.makeFilter<object>((root) => {
  let level: Array<object> = [root]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > maxDepth) return `must not be nested deeper than ${maxDepth} levels`
    const next: Array<object> = []
    for (const item of level) {
      for (const [name, value] of Object.entries(item)) {
        if (!isStorable(name) || (typeof value === "string" && !isStorable(value))) {
          return `${storableExpected}, in names and values alike`
        }
        if (typeof value === "object" && value !== null) next.push(value)
      }
    }
    level = next
  }
  return true
})

/** Any JSON object, of bounded depth. */
export const JsonObject = Schema.Record(Schema.String, Schema.Json).check(isPlain)

/** A whole number in a query. Digits only: `Number` would make 0 of nothing at all, and takes `0x10` and `1e2`. */
export const limited = (minimum: number, maximum: number) =>
  Schema.String.check(Schema.isPattern(/^-?\d+$/, { expected: "a whole number" })).pipe(
    Schema.decodeTo(
      Schema.Finite.check(
        Schema.isBetween({ minimum, maximum }, { expected: `a value from ${minimum} to ${maximum}` })
      ),
      SchemaTransformation.numberFromString
    )
  )

/** A yes or no in a query. In any case: Python writes `True`. */
export const flag = Schema.String.check(
  Schema.isPattern(/^(true|false|1|0)$/i, { expected: "true or false" })
).pipe(
  Schema.decodeTo(
    Schema.Boolean,
    SchemaTransformation.transform({ decode: (text) => /^(true|1)$/i.test(text), encode: String })
  )
)

export const Timestamp = Schema.String.annotate({ description: "ISO 8601, UTC" })

export const Success = Schema.Boolean
