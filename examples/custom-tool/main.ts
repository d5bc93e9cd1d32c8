/** The server, with one tool more: `node examples/custom-tool/main.ts`, then ask "Where is my order A-1001?" */
import { Layer } from "effect"
import { builtIn, launch, Server, Tools } from "voice-agent-api"
import { Orders, orderStatus } from "./OrderStatus.ts"

const tools = Tools.layerOf([...builtIn, orderStatus]).pipe(
  Layer.provide([Server.layerToolHttp, Orders.layer])
)

launch(Server.layerUsing(Layer.merge(Server.layerLlm, tools)))
