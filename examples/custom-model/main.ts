/** The server, with Ollama on this machine as its model: `node examples/custom-model/main.ts` */
import { Layer } from "effect"
import { FetchHttpClient } from "effect/http"
import { Llm, launch, Server } from "voice-agent-api"
import * as Ollama from "./Ollama.ts"

const provider = Ollama.layer({ url: "http://localhost:11434", model: "llama3.1" }).pipe(
  Layer.provide(FetchHttpClient.layer)
)

const llm = Llm.layer.pipe(Layer.provide(provider))

launch(Server.layerUsing(Layer.merge(llm, Server.layerTools)))
