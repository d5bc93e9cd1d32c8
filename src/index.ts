/**
 * What a deployment of one's own is made of: tools and models to add, the ports to write adapters for, and the layers
 * that put a server together. Tests are written with `voice-agent-api/testing`.
 *
 * Everything else is private: other paths of the package cannot be imported.
 */
export { Api } from "./api/Api.ts"
export { AppConfig, ConfigInvalid, type LlmSettings, type Settings, type TracingSettings } from "./Config.ts"
/** The database: `Db.layer` as configured and migrated, `Db.layerMemory` empty and embedded. */
export * as Db from "./db/Db.ts"
/** `up` brings a database to the newest schema. */
export * as Migrations from "./db/Migrations.ts"
/** Runs a server as a process. */
export { launch } from "./launch.ts"
export {
  Llm,
  type LlmFailureReason,
  type LlmPart,
  LlmProvider,
  type LlmRequest,
  type LlmTimeouts,
  LlmUnavailable,
  type ModelOverride,
  type ModelSettings,
  type ModelVariant
} from "./llm/Llm.ts"
/** The rules that stand in for a model. */
export * as LlmOffline from "./llm/offline/LlmOffline.ts"
/** Models of OpenAI-compatible servers. */
export * as LlmOpenAi from "./llm/openai/LlmOpenAi.ts"
export { layerTracer, SpanProcessors } from "./observability/Tracer.ts"
/**
 * The server. `layer` is all of it from the environment; `layerUsing` the same with a model and tools of one's own,
 * next to which `layerLlm` and `layerTools` are those configured. For what else may differ: `layerApp` is all but the database (`Db`), the model and the
 * tools (`layerPorts` are those configured) and `AppConfig`; `layerAppOver` leaves the HTTP server and the tracer too.
 */
export * as Server from "./Server.ts"
export {
  builtIn,
  defineTool,
  type ToolCallResult,
  type ToolDefinition,
  ToolFailed,
  ToolHttp,
  type ToolInfo,
  type ToolOutcome,
  Tools,
  withDefault
} from "./tools/Tools.ts"
