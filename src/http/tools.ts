/**
 * Owns the handlers of tools, in both spellings.
 */
import { Effect } from "effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import { Api } from "../api/Api.ts"
import { ArgumentsProblem, ToolNotFoundProblem } from "../api/Problems.ts"
import { ToolArgumentsInvalid, type ToolInfo, ToolNotFound, type ToolOutcome, Tools } from "../tools/Tools.ts"
import { sentenceOf, worded } from "./fieldIssues.ts"

/** Calls of one batch that run at once. */
const batchConcurrency = 5

const description = ({ name, description, parameters }: ToolInfo) => ({ name, description, parameters })

const functionSchema = ({ name, description, jsonSchema }: ToolInfo) => ({
  type: "function" as const,
  function: { name, description, parameters: jsonSchema }
})

const result = (name: string, outcome: ToolOutcome) => ({
  success: outcome.success,
  data: outcome.data,
  error: outcome.error,
  metadata: { tool: name, duration_ms: Math.round(outcome.durationMillis) }
})

const notFound = (name: string) => new ToolNotFoundProblem({ detail: new ToolNotFound({ name }).message })

const badArguments = ({ issues }: ToolArgumentsInvalid) => {
  const errors = issues.map(({ field, message }) => ({ field, message: worded(message) }))
  return new ArgumentsProblem({ detail: sentenceOf(errors), errors })
}

const execute = (tools: Tools["Service"], name: string, args: unknown) =>
  tools.execute(name, args).pipe(
    Effect.map((outcome) => result(name, outcome)),
    Effect.mapError((error) => (error instanceof ToolArgumentsInvalid ? badArguments(error) : notFound(name)))
  )

export const layerToolsHandlers = HttpApiBuilder.group(
  Api,
  "tools",
  Effect.fnUntraced(function* (handlers) {
    const tools = yield* Tools
    const total = tools.list.length
    return handlers
      .handle("list", () => Effect.succeed({ success: true, tools: tools.list.map(description), total }))
      .handle("schemas", () =>
        Effect.succeed({ success: true, schemas: tools.list.map(functionSchema), total })
      )
      .handle("execute", ({ params: { name }, payload }) =>
        Effect.map(execute(tools, name, payload), (result) => ({
          success: result.success,
          tool: name,
          result
        }))
      )
  })
)

export const layerMcpHandlers = HttpApiBuilder.group(
  Api,
  "mcp",
  Effect.fnUntraced(function* (handlers) {
    const tools = yield* Tools
    const total = tools.list.length
    return handlers
      .handle("list", () => Effect.succeed({ success: true, tools: tools.list.map(description), total }))
      .handle("get", ({ params: { name } }) => {
        const tool = tools.list.find((tool) => tool.name === name)
        return tool === undefined ? notFound(name) : Effect.succeed(description(tool))
      })
      .handle("schemas", () =>
        Effect.succeed({ success: true, schemas: tools.list.map(functionSchema), total })
      )
      .handle("status", () =>
        Effect.succeed({
          success: true,
          status: "available",
          total_tools: total,
          tools: tools.list.map((tool) => tool.name)
        })
      )
      .handle("execute", ({ payload }) => execute(tools, payload.tool_name, payload.arguments ?? {}))
      .handle("executeBatch", ({ payload }) =>
        Effect.forEach(
          payload,
          (call) =>
            execute(tools, call.tool_name, call.arguments ?? {}).pipe(
              Effect.catch((problem) =>
                Effect.succeed({
                  success: false,
                  data: null,
                  error: problem.detail,
                  metadata: { tool: call.tool_name, error_code: problem.error_code }
                })
              )
            ),
          { concurrency: batchConcurrency }
        ).pipe(
          Effect.map((results) => {
            const successful = results.filter(({ success }) => success).length
            return { results, total: results.length, successful, failed: results.length - successful }
          })
        )
      )
  })
)
