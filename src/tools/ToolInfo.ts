/**
 * Owns how a tool is described to people and models, and how loosely written arguments are made to fit it.
 *
 * Does not check arguments: the tool's schema does.
 */
import { Predicate, type Schema } from "effect"
import * as Tool from "effect/ai/Tool"

interface ToolParameter {
  readonly name: string
  /** JSON Schema's word; alternatives are joined: `string | null`. */
  readonly type: string
  readonly description: string
  readonly required: boolean
  /** `null`: none. */
  readonly default: Schema.Json
  /** The values allowed, when they are few; `null`: not a choice. */
  readonly enum: ReadonlyArray<Schema.Json> | null
}

export interface ToolInfo {
  readonly name: string
  readonly description: string
  readonly parameters: ReadonlyArray<ToolParameter>
  /** JSON Schema of the arguments, as OpenAI's function calling wants it: `{ type: "object", properties, required }`. */
  readonly jsonSchema: Schema.JsonObject
}

type Json = Schema.Json | undefined

const isObject = (value: unknown): value is Schema.JsonObject => Predicate.isObject(value)

const isArray = (value: Json): value is Schema.JsonArray => Array.isArray(value)

const property = (schema: Json, name: string): Json =>
  isObject(schema) && Object.hasOwn(schema, name) ? schema[name] : undefined

const alternatives = (schema: Json): ReadonlyArray<Schema.Json> => {
  const found = property(schema, "anyOf") ?? property(schema, "oneOf")
  return isArray(found) ? found : []
}

const typeOf = (schema: Json): string => {
  const type = property(schema, "type")
  if (typeof type === "string") return type
  if (isArray(type)) return type.join(" | ")
  const types = new Set(alternatives(schema).map(typeOf))
  return types.size === 0 ? "any" : [...types].join(" | ")
}

const propertiesOf = (schema: Json): ReadonlyArray<[string, Schema.Json]> => {
  const properties = property(schema, "properties")
  return isObject(properties) ? Object.entries(properties) : []
}

export const infoOf = (tool: Tool.Any): ToolInfo => {
  const schema = Tool.getJsonSchema(tool) as Schema.JsonObject
  const required = isArray(schema.required) ? schema.required : []
  return {
    name: tool.name,
    description: Tool.getDescription(tool) ?? "",
    parameters: propertiesOf(schema).map(([name, field]) => {
      const description = property(field, "description")
      const choices = property(field, "enum")
      return {
        name,
        type: typeOf(field),
        description: typeof description === "string" ? description : "",
        required: required.includes(name),
        default: property(field, "default") ?? null,
        enum: isArray(choices) ? choices : null
      }
    }),
    jsonSchema: {
      type: "object",
      properties: schema.properties ?? {},
      required,
      ...(schema.$defs === undefined ? {} : { $defs: schema.$defs })
    }
  }
}

const takesNull = (schema: Json): boolean => {
  const type = property(schema, "type")
  return (
    type === "null" ||
    (isArray(type) && type.includes("null")) ||
    (type === undefined && (alternatives(schema).length === 0 || alternatives(schema).some(takesNull)))
  )
}

/**
 * Leaves out what is `null` where the schema has no place for `null`: models write it for what they leave open, and
 * strict function calling makes them. Looks into nested objects, not into lists.
 */
export const withoutNulls = (args: unknown, schema: Schema.Json): unknown => {
  if (!Predicate.isObject(args)) return args
  const fields = new Map(propertiesOf(schema))
  return Object.fromEntries(
    Object.entries(args).flatMap(([name, value]) => {
      const field = fields.get(name)
      if (field === undefined) return [[name, value]]
      if (value === null) return takesNull(field) ? [[name, value]] : []
      return [[name, withoutNulls(value, field)]]
    })
  )
}
