/**
 * Owns the wire shapes of tools, in both spellings: `/tools` and the older `/mcp`.
 */
import { Schema } from "effect"
import * as HttpApi from "effect/http-api/HttpApi"
import * as HttpApiEndpoint from "effect/http-api/HttpApiEndpoint"
import * as HttpApiGroup from "effect/http-api/HttpApiGroup"
import { absent, JsonObject, Success } from "./Fields.ts"
import { ArgumentsProblem, ToolNotFoundProblem } from "./Problems.ts"
import { Authorization } from "./Security.ts"

const ToolName = Schema.String.check(Schema.isBetweenCodePoints(1, 100, { expected: "1 to 100 characters" }))

const ToolDescription = Schema.Struct({
  name: Schema.String,
  description: Schema.String,
  parameters: Schema.Array(
    Schema.Struct({
      name: Schema.String,
      type: Schema.String,
      description: Schema.String,
      required: Schema.Boolean,
      default: Schema.Unknown,
      enum: Schema.NullOr(Schema.Array(Schema.Unknown))
    })
  )
}).annotate({ identifier: "ToolDescription" })

const FunctionSchema = Schema.Struct({
  type: Schema.Literal("function"),
  function: Schema.Struct({
    name: Schema.String,
    description: Schema.String,
    parameters: Schema.Record(Schema.String, Schema.Unknown)
  })
}).annotate({ identifier: "FunctionSchema" })

const ToolResult = Schema.Struct({
  success: Success,
  data: Schema.Unknown,
  error: Schema.NullOr(Schema.String),
  metadata: Schema.Record(Schema.String, Schema.Unknown)
}).annotate({ identifier: "ToolResult" })

const ToolList = Schema.Struct({ success: Success, tools: Schema.Array(ToolDescription), total: Schema.Int })

const SchemaList = Schema.Struct({
  success: Success,
  schemas: Schema.Array(FunctionSchema),
  total: Schema.Int
})

const McpCall = Schema.Struct({ tool_name: ToolName, arguments: absent(JsonObject) })

const badCall = [ToolNotFoundProblem, ArgumentsProblem] as const

export class ToolsApi extends HttpApiGroup.make("tools")
  .add(
    HttpApiEndpoint.get("list", "/tools", { success: ToolList }),
    HttpApiEndpoint.get("schemas", "/tools/schemas", { success: SchemaList }),
    HttpApiEndpoint.post("execute", "/tools/execute/:name", {
      params: { name: Schema.String },
      payload: JsonObject,
      success: Schema.Struct({ success: Success, tool: Schema.String, result: ToolResult }),
      error: badCall
    })
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}

export class McpApi extends HttpApiGroup.make("mcp")
  .add(
    HttpApiEndpoint.get("list", "/mcp/tools", { success: ToolList }),
    HttpApiEndpoint.get("get", "/mcp/tools/:name", {
      params: { name: Schema.String },
      success: ToolDescription,
      error: ToolNotFoundProblem
    }),
    HttpApiEndpoint.get("schemas", "/mcp/schemas", { success: SchemaList }),
    HttpApiEndpoint.get("status", "/mcp/status", {
      success: Schema.Struct({
        success: Success,
        status: Schema.String,
        total_tools: Schema.Int,
        tools: Schema.Array(Schema.String)
      })
    }),
    HttpApiEndpoint.post("execute", "/mcp/execute", {
      payload: McpCall,
      success: ToolResult,
      error: badCall
    }),
    HttpApiEndpoint.post("executeBatch", "/mcp/execute/batch", {
      payload: Schema.Array(McpCall).check(Schema.isBetweenLength(1, 20, { expected: "1 to 20 calls" })),
      success: Schema.Struct({
        results: Schema.Array(ToolResult),
        total: Schema.Int,
        successful: Schema.Int,
        failed: Schema.Int
      })
      // To name all that is wrong in a mebibyte of wrong calls takes seconds.
    }).annotate(HttpApi.PayloadParseOptions, { errors: "first" })
  )
  .middleware(Authorization)
  .prefix("/api/v1") {}
