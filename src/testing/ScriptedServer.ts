/**
 * Owns a scripted OpenAI-compatible server on the loopback interface: it answers from a script and records what it was
 * asked and how each exchange ended.
 *
 * Does not understand prompts: whoever writes the script decides every answer. What it can answer: `Reply`.
 */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { type Script, type Scripted, ScriptRun } from "./Script.ts"
import type { Exchange, ScriptedRequestBody } from "./ScriptedRequest.ts"
import { send, sendJson } from "./ScriptedSending.ts"

export interface ScriptedServerOptions {
  /** Requests to remember; the oldest are forgotten. Lower it for long benchmarks. Default: all. */
  readonly keepRequests?: number
  /** What `/v1/models` lists. Default `["scripted"]`. */
  readonly models?: ReadonlyArray<string>
}

export interface ScriptedServer extends Scripted {
  /** `http://127.0.0.1:<port>`. */
  readonly url: string
  /** `url` with `/v1`: what `LLM_BASE_URL` wants. */
  readonly baseUrl: string
  /** Connections open at this moment. */
  readonly connections: () => Promise<number>
  /** Destroys every connection and stops listening. */
  readonly close: () => Promise<void>
}

/** Starts a server; `ScriptedModel.serve` does the same within a scope. */
export const startScriptedServer = async (
  script: Script = [],
  options: ScriptedServerOptions = {}
): Promise<ScriptedServer> => {
  const run = new ScriptRun(script, options.keepRequests)

  const server = createServer((request, response) => {
    const path = request.url ?? "/"
    const route = path.split("?", 1)[0] ?? ""
    if (request.method === "GET" && route.endsWith("/models")) {
      const data = (options.models ?? ["scripted"]).map((id) => ({
        id,
        object: "model",
        created: 0,
        owned_by: "test"
      }))
      sendJson(response, 200, { object: "list", data })
      return
    }
    if (request.method !== "POST" || !route.endsWith("/chat/completions")) {
      sendJson(response, 404, { error: { message: `No route ${request.method} ${route}` } })
      return
    }
    const pieces: Array<Buffer> = []
    request.on("data", (piece: Buffer) => pieces.push(piece))
    request.on("end", () => {
      let body: ScriptedRequestBody
      try {
        body = JSON.parse(Buffer.concat(pieces).toString())
      } catch {
        sendJson(response, 400, { error: { message: "The request body is no JSON" } })
        return
      }
      const exchange: Exchange = run.accept(path, request.headers, body)
      response.on("close", () =>
        exchange.end(exchange.wasCut ? "cut" : response.writableFinished ? "completed" : "aborted")
      )
      const reply = run.replyTo(exchange)
      if (reply instanceof Promise) void reply.then((reply) => send(response, exchange, reply))
      else send(response, exchange, reply)
    })
  })
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject)
    server.listen(0, "127.0.0.1", 4096, resolve)
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`

  return {
    url,
    baseUrl: `${url}/v1`,
    requests: run.requests,
    push: run.push,
    received: run.received,
    connections: () =>
      new Promise((resolve, reject) =>
        server.getConnections((error, open) => (error ? reject(error) : resolve(open)))
      ),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
  }
}
