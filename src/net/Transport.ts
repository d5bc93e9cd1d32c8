/**
 * Owns the HTTP connections to the model server: one POST over `node:http`, with keep-alive, a limit on connecting, and
 * an answer that stays a Node stream. `fetch` costs several promises per chunk and some 20 KB per answer; this is the
 * hot path.
 *
 * Does not know what is asked or answered. Proxies are not used, redirects are not followed.
 */
import {
  type ClientRequest,
  Agent as HttpAgent,
  request as httpRequest,
  type IncomingMessage
} from "node:http"
import { Agent as HttpsAgent, request as httpsRequest } from "node:https"
import type { Socket } from "node:net"
import { urlToHttpOptions } from "node:url"
import { Effect } from "effect"
import { ConnectTimeout } from "./ConnectTimeout.ts"

/** Longest body that is read whole. */
const maxBodyBytes = 32 * 1024 * 1024

export interface Transport {
  /**
   * Sends the body, and answers once the head of the response is there, whatever its status. Interrupting it takes the
   * request back; what becomes of the response is the caller's affair. Fails with what broke the connection.
   */
  readonly post: (
    headers: Readonly<Record<string, string>>,
    body: string
  ) => Effect.Effect<IncomingMessage, unknown>
  /** Closes the connections that are idle. */
  readonly close: () => void
}

/**
 * A transport to one URL with its own pool of connections. A connection may take `connectMillis`, TLS included; the
 * answer may take as long as it wants, since the policy bounds that.
 */
export const makeTransport = (url: URL, options: { readonly connectMillis: number }): Transport => {
  const isTls = url.protocol === "https:"
  // Idle connections cost memory at both ends; the last used is the likeliest to be alive still.
  const pool = { keepAlive: true, maxFreeSockets: 256, scheduling: "lifo", noDelay: true } as const
  const agent = isTls ? new HttpsAgent(pool) : new HttpAgent(pool)
  const target = { ...urlToHttpOptions(url), method: "POST", agent }
  const makeRequest = isTls ? httpsRequest : httpRequest

  const post: Transport["post"] = (headers, body) =>
    Effect.callback((resume) => {
      const bytes = Buffer.from(body)
      let request: ClientRequest
      const send = () => {
        request = makeRequest({ ...target, headers: { ...headers, "content-length": String(bytes.length) } })
        let isAnswered = false
        request.once("socket", (socket) =>
          limitConnecting(socket, isTls, options.connectMillis, () =>
            request.destroy(new ConnectTimeout(url.host, options.connectMillis))
          )
        )
        request.once("response", (incoming) => {
          isAnswered = true
          resume(Effect.succeed(incoming))
        })
        // Also after the response: a connection that breaks then must not become an uncaught error.
        request.on("error", (error: NodeJS.ErrnoException) => {
          if (isAnswered) return
          // Nearly always the server closed an idle connection just as it was picked. If it did begin to answer, asking a
          // model once more does no harm.
          const isStale = request.reusedSocket && (error.code === "ECONNRESET" || error.code === "EPIPE")
          if (isStale) send()
          else resume(Effect.fail(error))
        })
        request.end(bytes)
      }
      send()
      return Effect.sync(() => {
        request.removeAllListeners("error").on("error", () => {})
        request.destroy()
      })
    })

  return { post, close: () => agent.destroy() }
}

/** The rest of an answer as text. Rejects when it breaks off, or is longer than 32 MiB. */
export const readText = async (incoming: IncomingMessage): Promise<string> => {
  const pieces: Array<Buffer> = []
  let size = 0
  for await (const piece of incoming) {
    pieces.push(piece)
    size += piece.length
    if (size > maxBodyBytes) throw new Error(`The response is longer than ${maxBodyBytes} bytes`)
  }
  return Buffer.concat(pieces).toString("utf8")
}

const limitConnecting = (socket: Socket, isTls: boolean, millis: number, onLate: () => void): void => {
  if (!socket.connecting) return
  const timer = setTimeout(onLate, millis)
  const clear = () => clearTimeout(timer)
  socket.once(isTls ? "secureConnect" : "connect", clear)
  socket.once("close", clear)
}
