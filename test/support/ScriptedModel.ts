/**
 * Owns a scripted OpenAI-compatible server on the loopback interface: it answers from a script and records what it was
 * asked and how each exchange ended.
 *
 * Does not understand prompts: whoever writes the script decides every answer. What it can answer: `Reply`.
 *
 * @example
 * const model = yield* ScriptedModel.make([Reply.status(503), Reply.text(["Hel", "lo"])])
 * // point LLM_BASE_URL at model.baseUrl …
 * assert.strictEqual(model.requests.length, 2)
 */
import { createServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Context, Effect, Layer, type Scope } from "effect"
import {
  Exchange,
  type ScriptedRequest,
  type ScriptedRequestBody,
  send,
  sendJson
} from "./ScriptedModelExchange.ts"
import type { ScriptedReply } from "./ScriptedModelReply.ts"

export type {
  ScriptedMessage,
  ScriptedRequest,
  ScriptedRequestBody
} from "./ScriptedModelExchange.ts"
export * from "./ScriptedModelReply.ts"

/** Decides each answer. `index` counts requests from 0. */
export type ReplyFunction = (
  body: ScriptedRequestBody,
  index: number,
  request: ScriptedRequest
) => ScriptedReply | Promise<ScriptedReply>

/** Replies in order, or a function. A list that has run out answers 400 and says so. */
export type Script = ReadonlyArray<ScriptedReply> | ReplyFunction

export interface ScriptedModelOptions {
  /** Requests to remember; the oldest are forgotten. Lower it for long benchmarks. Default: all. */
  readonly keepRequests?: number
  /** What `/v1/models` lists. Default `["scripted"]`. */
  readonly models?: ReadonlyArray<string>
}

export interface ScriptedServer {
  /** `http://127.0.0.1:<port>`. */
  readonly url: string
  /** `url` with `/v1`: what `LLM_BASE_URL` wants. */
  readonly baseUrl: string
  /** Chat-completions requests in order of arrival, within `keepRequests`. */
  readonly requests: ReadonlyArray<ScriptedRequest>
  /** Appends replies to the list; they are used before the function of the script, if there is one. */
  readonly push: (...replies: ReadonlyArray<ScriptedReply>) => void
  /** The request number `index` (from 0), at once or as soon as it arrives. */
  readonly received: (index: number) => Promise<ScriptedRequest>
  /** Connections open at this moment. */
  readonly connections: () => Promise<number>
  /** Destroys every connection and stops listening. */
  readonly close: () => Promise<void>
}

/** Starts a server; `ScriptedModel.make` does the same within a scope. */
export const startScriptedModel = async (
  script: Script = [],
  options: ScriptedModelOptions = {}
): Promise<ScriptedServer> => {
  const queue: Array<ScriptedReply> = typeof script === "function" ? [] : [...script]
  const decide: ReplyFunction = (body, index, request) => {
    const queued = queue.shift()
    if (queued !== undefined) return queued
    if (typeof script === "function") return script(body, index, request)
    return {
      kind: "status",
      status: 400,
      headers: {},
      body: { error: { message: `The script has no reply for request ${index}`, type: "script_exhausted" } }
    }
  }
  const requests: Array<Exchange> = []
  const waiting = new Map<number, PromiseWithResolvers<ScriptedRequest>>()
  const keep = options.keepRequests ?? Number.POSITIVE_INFINITY
  let count = 0

  const answer = async (response: ServerResponse, exchange: Exchange) => {
    try {
      const reply = decide(exchange.body, exchange.index, exchange)
      send(response, exchange, reply instanceof Promise ? await reply : reply)
    } catch (error) {
      sendJson(response, 400, { error: { message: `The script failed: ${error}`, type: "script_failed" } })
    }
  }

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
      const exchange = new Exchange(count++, path, request.headers, body)
      requests.push(exchange)
      if (requests.length > keep) requests.shift()
      response.on("close", () =>
        exchange.end(exchange.wasCut ? "cut" : response.writableFinished ? "completed" : "aborted")
      )
      waiting.get(exchange.index)?.resolve(exchange)
      waiting.delete(exchange.index)
      void answer(response, exchange)
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
    requests,
    push: (...replies) => void queue.push(...replies),
    received: (index) => {
      const known = requests.find((request) => request.index === index)
      if (known !== undefined) return Promise.resolve(known)
      const entry = waiting.get(index) ?? Promise.withResolvers<ScriptedRequest>()
      waiting.set(index, entry)
      return entry.promise
    },
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

/** The server as a service, for tests that share one through a layer. */
export class ScriptedModel extends Context.Service<ScriptedModel, ScriptedServer>()(
  "voice-agent/test/ScriptedModel"
) {
  /** Runs until the scope closes. */
  static make(
    script: Script = [],
    options?: ScriptedModelOptions
  ): Effect.Effect<ScriptedServer, never, Scope.Scope> {
    return Effect.acquireRelease(
      Effect.promise(() => startScriptedModel(script, options)),
      (server) => Effect.promise(() => server.close())
    )
  }

  static layer(script: Script = [], options?: ScriptedModelOptions): Layer.Layer<ScriptedModel> {
    return Layer.effect(ScriptedModel, ScriptedModel.make(script, options))
  }
}
