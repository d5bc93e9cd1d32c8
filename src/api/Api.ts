/**
 * Owns the whole HTTP contract. It holds no server code, so that clients can import it.
 */
import * as HttpApi from "effect/http-api/HttpApi"
import * as OpenApi from "effect/http-api/OpenApi"
import { ChatApi, ChatFrame, ControlFrame, RootSocketApi } from "./ChatApi.ts"
import { ConversationApi } from "./ConversationApi.ts"
import { HealthApi, InfoApi, MetricsApi } from "./OperationsApi.ts"
import { Problems } from "./Security.ts"
import { SessionApi } from "./SessionApi.ts"
import { McpApi, ToolsApi } from "./ToolsApi.ts"
import { TurnApi } from "./TurnApi.ts"

export class Api extends HttpApi.make("voice-agent-api")
  .add(
    ChatApi,
    RootSocketApi,
    SessionApi,
    ConversationApi,
    ToolsApi,
    McpApi,
    HealthApi,
    InfoApi,
    MetricsApi,
    TurnApi
  )
  .middleware(Problems)
  .annotate(HttpApi.ParseOptions, { errors: "all" })
  // What WebSocket clients send; no endpoint mentions it.
  .annotate(HttpApi.AdditionalSchemas, [ChatFrame, ControlFrame])
  .annotateMerge(
    OpenApi.annotations({
      title: "Voice Agent API",
      description: "Text conversations with an agent that has tools and memory, over HTTP, SSE and WebSocket."
    })
  ) {}
