/**
 * Owns what the terminal shows at start: where things are, or what is wrong.
 */
import { Cause, Effect, Option } from "effect"
import * as HttpServer from "effect/http/HttpServer"
import { AppConfig, ConfigInvalid } from "../Config.ts"
import { DbInfo, DbStartError } from "../db/Db.ts"
import { Llm } from "../llm/Llm.ts"
import { redactForms } from "../observability/Redaction.ts"
import { version } from "../version.ts"

export const banner = Effect.gen(function* () {
  const config = yield* AppConfig
  const db = yield* DbInfo
  const llm = yield* Llm
  const { address } = yield* HttpServer.HttpServer
  const host = config.host.includes(":") ? `[${config.host}]` : config.host
  const url = `http://${host}:${"port" in address ? address.port : config.port}`
  const model = llm.isOffline
    ? "the offline model: rules, not a language model"
    : llm.provider === "openai"
      ? `${llm.models.default} at ${redactForms(config.llm.baseUrl ?? "api.openai.com")}`
      : `${llm.models.default} of ${llm.provider}`
  return `
Voice Agent API ${version}

  API       ${url}/api/v1
  Docs      ${url}/docs
  Health    ${url}/api/v1/health
  Console   ${url}/

  Database  ${db.description}
            change it: DATABASE_URL=postgres://user:password@host/name, or DATA_DIR
  Model     ${model}
            change it: LLM_BASE_URL, LLM_API_KEY, LLM_MODEL
`
})

const serveProblem = (cause: unknown, config: { readonly code?: unknown; readonly port?: unknown }) =>
  config.code === "EADDRINUSE"
    ? `PORT: ${config.port} is in use by another program`
    : `HOST: cannot listen: ${cause instanceof Error ? cause.message : String(cause)}`

/** One line for each thing that kept the server from starting. */
export const startProblems = (cause: Cause.Cause<unknown>): ReadonlyArray<string> => {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause))
  if (error instanceof ConfigInvalid) return error.problems
  if (error instanceof DbStartError) return error.message.split("\n")
  if (typeof error === "object" && error !== null && "_tag" in error && error._tag === "ServeError") {
    const reason = "cause" in error ? error.cause : undefined
    return [serveProblem(reason, typeof reason === "object" && reason !== null ? reason : {})]
  }
  return [redactForms(Cause.pretty(cause))]
}
