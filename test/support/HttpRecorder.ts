/**
 * Owns a scripted HTTP upstream on loopback: it answers request after request as told and records what it was sent.
 *
 * Does not know what the answers mean; a test that expects a request the script has no answer for gets a 599.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Effect, Queue, type Scope } from "effect"

interface RecordedRequest {
  readonly method: string
  readonly path: string
  readonly query: Readonly<Record<string, string>>
  readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  readonly body: string
}

export type HttpReply =
  | { readonly _tag: "Json"; readonly status: number; readonly body: unknown }
  | { readonly _tag: "Text"; readonly status: number; readonly body: string }
  /** `bytes` of body in chunks, without a length announced. */
  | { readonly _tag: "Endless"; readonly bytes: number }
  /** Takes the request and never answers. */
  | { readonly _tag: "Hang" }
  /** Breaks the connection without an answer. */
  | { readonly _tag: "Reset" }

export const json = (body: unknown, status = 200): HttpReply => ({ _tag: "Json", status, body })
export const text = (body: string, status = 200): HttpReply => ({ _tag: "Text", status, body })
export const endless = (bytes: number): HttpReply => ({ _tag: "Endless", bytes })
export const hang: HttpReply = { _tag: "Hang" }
export const reset: HttpReply = { _tag: "Reset" }

export interface HttpRecorder {
  /** `http://127.0.0.1:port` */
  readonly url: string
  /** All so far, in order of arrival. */
  readonly requests: ReadonlyArray<RecordedRequest>
  /** Appends answers; each is given once. */
  readonly script: (...replies: ReadonlyArray<HttpReply>) => void
  /** Waits for a request that was not waited for yet. */
  readonly arrival: Effect.Effect<RecordedRequest>
  /** Waits until the client breaks a connection before it has its answer. */
  readonly abandoned: Effect.Effect<void>
}

const read = async (request: IncomingMessage): Promise<RecordedRequest> => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const url = new URL(request.url ?? "/", "http://loopback")
  return {
    method: request.method ?? "",
    path: url.pathname,
    query: Object.fromEntries(url.searchParams),
    headers: request.headers,
    body: Buffer.concat(chunks).toString("utf8")
  }
}

const answer = (response: ServerResponse, reply: HttpReply): void => {
  switch (reply._tag) {
    case "Json":
      response.writeHead(reply.status, { "content-type": "application/json" })
      response.end(JSON.stringify(reply.body))
      return
    case "Text":
      response.writeHead(reply.status, { "content-type": "text/plain" })
      response.end(reply.body)
      return
    case "Endless": {
      response.writeHead(200, { "content-type": "application/json" })
      const chunk = "x".repeat(64 * 1024)
      for (let sent = 0; sent < reply.bytes; sent += chunk.length) response.write(chunk)
      response.end()
      return
    }
    case "Reset":
      response.socket?.destroy()
      return
    case "Hang":
  }
}

export const makeHttpRecorder: Effect.Effect<HttpRecorder, never, Scope.Scope> = Effect.gen(function* () {
  const requests: Array<RecordedRequest> = []
  const replies: Array<HttpReply> = []
  const arrivals = yield* Queue.unbounded<RecordedRequest>()
  const abandonments = yield* Queue.unbounded<void>()
  const server = createServer((request, response) => {
    response.on("close", () => {
      if (!response.writableFinished) Queue.offerUnsafe(abandonments, undefined)
    })
    read(request).then(
      (recorded) => {
        requests.push(recorded)
        answer(response, replies.shift() ?? text("the script has no further answer", 599))
        Queue.offerUnsafe(arrivals, recorded)
      },
      () => undefined
    )
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        server.closeAllConnections()
      })
  )
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    script: (...more) => void replies.push(...more),
    arrival: Queue.take(arrivals),
    abandoned: Queue.take(abandonments)
  }
})
