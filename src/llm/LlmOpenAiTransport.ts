/**
 * Owns the HTTP connections to the model server: a `fetch` over `node:http` for the `openai` package, with keep-alive,
 * a limit on connecting, and bodies that stay Node streams. A WHATWG stream costs several promises per chunk and
 * some 20 KB per response; this is the hot path.
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
import { ConnectTimeout } from "./ConnectTimeout.ts"

/** Longest error or non-streamed body that is read. */
const maxBodyBytes = 32 * 1024 * 1024

/** A response whose body is a Node stream: read `incoming`, or `text()` or `json()`, once. `body` is always null. */
export class NodeResponse extends Response {
  readonly incoming: IncomingMessage

  constructor(incoming: IncomingMessage) {
    const headers: Array<[string, string]> = []
    for (let n = 0; n + 1 < incoming.rawHeaders.length; n += 2) {
      headers.push([incoming.rawHeaders[n] ?? "", incoming.rawHeaders[n + 1] ?? ""])
    }
    const status = incoming.statusCode ?? 0
    super(null, { status: status >= 200 && status <= 599 ? status : 502, headers })
    this.incoming = incoming
  }

  override readonly text = async (): Promise<string> => {
    const pieces: Array<Buffer> = []
    let size = 0
    for await (const piece of this.incoming) {
      pieces.push(piece)
      size += piece.length
      if (size > maxBodyBytes) throw new Error(`The response is longer than ${maxBodyBytes} bytes`)
    }
    return Buffer.concat(pieces).toString("utf8")
  }

  // biome-ignore lint/suspicious/noExplicitAny: as the class it extends has it
  override readonly json = async (): Promise<any> => JSON.parse(await this.text())
}

export interface Transport {
  /** Only what the `openai` package asks of `fetch`: a URL, a method, headers, a text body and a signal. */
  readonly fetch: (input: string | URL | Request, init?: RequestInit) => Promise<Response>
  /** Closes the connections that are idle. */
  readonly close: () => void
}

/**
 * A transport with its own pool of connections. A connection may take `connectMillis`, TLS included; the answer may take
 * as long as it wants, since the policy bounds that.
 */
export const makeTransport = (options: { readonly connectMillis: number }): Transport => {
  // Idle connections cost memory at both ends; the last used is the likeliest to be alive still.
  const pool = { keepAlive: true, maxFreeSockets: 256, scheduling: "lifo", noDelay: true } as const
  const http = new HttpAgent(pool)
  const https = new HttpsAgent(pool)

  const send = (url: URL, init: RequestInit): Promise<NodeResponse> =>
    new Promise((resolve, reject) => {
      const signal = init.signal ?? undefined
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      const body = typeof init.body === "string" ? Buffer.from(init.body) : undefined
      if (init.body !== undefined && init.body !== null && body === undefined) {
        reject(new TypeError("Only text bodies are sent by this transport"))
        return
      }
      const headers: Record<string, string> = {}
      new Headers(init.headers).forEach((value, name) => {
        headers[name] = value
      })
      if (body !== undefined) headers["content-length"] = String(body.length)
      const isTls = url.protocol === "https:"
      const request: ClientRequest = (isTls ? httpsRequest : httpRequest)(url, {
        method: init.method ?? "GET",
        headers,
        agent: isTls ? https : http
      })
      let isAnswered = false
      // Stays until the exchange is over: aborting also ends a body that nobody has begun to read.
      const abort = () => request.destroy(signal?.reason)
      signal?.addEventListener("abort", abort, { once: true })

      request.once("socket", (socket) =>
        limitConnecting(socket, isTls, options.connectMillis, () =>
          request.destroy(new ConnectTimeout(url.host, options.connectMillis))
        )
      )
      request.once("response", (incoming) => {
        isAnswered = true
        try {
          resolve(new NodeResponse(incoming))
        } catch (cause) {
          // Headers that no `Headers` takes.
          incoming.destroy()
          reject(cause)
        }
      })
      // Also after the response: a connection that breaks then must not become an uncaught error.
      request.on("error", (error: NodeJS.ErrnoException) => {
        // The server closed an idle connection just as it was picked: nothing of the request was processed.
        const isStale = request.reusedSocket && (error.code === "ECONNRESET" || error.code === "EPIPE")
        if (isStale && !isAnswered && signal?.aborted !== true) resolve(send(url, init))
        else reject(error)
      })
      request.once("close", () => signal?.removeEventListener("abort", abort))
      request.end(body)
    })

  return {
    fetch: (input, init = {}) => send(new URL(input instanceof Request ? input.url : input), init),
    close: () => {
      http.destroy()
      https.destroy()
    }
  }
}

const limitConnecting = (socket: Socket, isTls: boolean, millis: number, onLate: () => void): void => {
  if (!socket.connecting) return
  const timer = setTimeout(onLate, millis)
  const clear = () => clearTimeout(timer)
  socket.once(isTls ? "secureConnect" : "connect", clear)
  socket.once("close", clear)
}
