/**
 * Owns the checking of values against the schemas of an OpenAPI document: as much of JSON Schema as the document uses. A
 * keyword it does not know is an error, so that none is passed over.
 */
import type { Json } from "./Client.ts"

/** They tell people something, and restrict nothing. */
const annotations = new Set([
  "description",
  "title",
  "default",
  "examples",
  "contentMediaType",
  "contentSchema"
])

const typeOf = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value)

const resolve = (document: Json, ref: string): Json =>
  ref
    .slice("#/".length)
    .split("/")
    .reduce((value, key) => value?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], document)

/** What is wrong with `value`: nothing, or lines that say where and why. */
export const violations = (
  document: Json,
  schema: Json,
  value: unknown,
  at = "body"
): ReadonlyArray<string> => {
  const wrong = (what: string) => [`${at}: ${JSON.stringify(value)?.slice(0, 200)} ${what}`]
  const within = (inner: Json, member: unknown, where = at) => violations(document, inner, member, where)
  const type = typeOf(value)
  return Object.entries<Json>(schema).flatMap(([keyword, rule]): ReadonlyArray<string> => {
    switch (keyword) {
      case "$ref":
        return within(resolve(document, rule), value)
      case "type": {
        const fits = rule === "integer" ? Number.isInteger(value) : type === rule
        return fits ? [] : wrong(`is not of type ${rule}`)
      }
      case "enum":
        return rule.includes(value) ? [] : wrong(`is none of ${JSON.stringify(rule)}`)
      case "anyOf": {
        const each: ReadonlyArray<ReadonlyArray<string>> = rule.map((inner: Json) => within(inner, value))
        return each.some((found) => found.length === 0) ? [] : [...wrong("fits nothing of:"), ...each.flat()]
      }
      case "allOf":
        return rule.flatMap((inner: Json) => within(inner, value))
      case "minLength":
        return type !== "string" || [...(value as string)].length >= rule
          ? []
          : wrong(`is shorter than ${rule}`)
      case "maxLength":
        return type !== "string" || [...(value as string)].length <= rule
          ? []
          : wrong(`is longer than ${rule}`)
      case "pattern":
        return type !== "string" || new RegExp(rule, "u").test(value as string)
          ? []
          : wrong(`is not like ${rule}`)
      case "minimum":
        return type !== "number" || (value as number) >= rule ? [] : wrong(`is below ${rule}`)
      case "maximum":
        return type !== "number" || (value as number) <= rule ? [] : wrong(`is above ${rule}`)
      case "items":
        return type !== "array"
          ? []
          : (value as ReadonlyArray<unknown>).flatMap((member, n) => within(rule, member, `${at}[${n}]`))
      case "required":
        return type !== "object"
          ? []
          : rule.flatMap((name: string) =>
              Object.hasOwn(value as object, name) ? [] : wrong(`has no ${name}`)
            )
      case "properties":
        return type !== "object"
          ? []
          : Object.entries(rule).flatMap(([name, inner]) =>
              Object.hasOwn(value as object, name)
                ? within(inner, (value as Json)[name], `${at}.${name}`)
                : []
            )
      case "additionalProperties":
        return type !== "object"
          ? []
          : Object.entries(value as object).flatMap(([name, member]) =>
              Object.hasOwn(schema.properties ?? {}, name) ? [] : within(rule, member, `${at}.${name}`)
            )
      default:
        return annotations.has(keyword) ? [] : [`${at}: the schema has the unknown keyword ${keyword}`]
    }
  })
}
