/**
 * Owns how a response's exact shape is written down and checked: every key, no other key, and the type of each value.
 */
import { assert } from "@effect/vitest"

/**
 * A type by name (`"string|null"`), a pattern for text, a list of one for all members of a list (which must have some),
 * or an object with exactly these keys.
 */
export type Shape = TypeName | RegExp | readonly [Shape] | { readonly [key: string]: Shape }

const isIso = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/

const types = {
  string: (value: unknown) => typeof value === "string",
  text: (value: unknown) => typeof value === "string" && value !== "",
  boolean: (value: unknown) => typeof value === "boolean",
  true: (value: unknown) => value === true,
  number: (value: unknown) => typeof value === "number" && Number.isFinite(value),
  integer: (value: unknown) => Number.isInteger(value),
  null: (value: unknown) => value === null,
  object: (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value),
  list: (value: unknown) => Array.isArray(value),
  any: () => true,
  timestamp: (value: unknown) =>
    typeof value === "string" && isIso.test(value) && !Number.isNaN(Date.parse(value))
}

type TypeName = keyof typeof types | `${keyof typeof types}|null`

const isList = (shape: Shape): shape is readonly [Shape] => Array.isArray(shape)

export const assertShape = (value: unknown, shape: Shape, at = "body"): void => {
  if (typeof shape === "string") {
    const names = shape.split("|") as ReadonlyArray<keyof typeof types>
    assert.isTrue(
      names.some((name) => types[name](value)),
      `${at}: expected ${shape}, got ${JSON.stringify(value)}`
    )
  } else if (shape instanceof RegExp) {
    assert.match(value as string, shape, at)
  } else if (isList(shape)) {
    assert.isArray(value, at)
    assert.isNotEmpty(value, at)
    for (const [index, member] of (value as ReadonlyArray<unknown>).entries()) {
      assertShape(member, shape[0], `${at}[${index}]`)
    }
  } else {
    assert.isObject(value, at)
    const object = value as Readonly<Record<string, unknown>>
    assert.deepStrictEqual(Object.keys(object).sort(), Object.keys(shape).sort(), at)
    for (const [key, field] of Object.entries(shape)) assertShape(object[key], field, `${at}.${key}`)
  }
}
