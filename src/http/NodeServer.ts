/**
 * Owns the node server under the app, and what it answers by itself: to what is not HTTP, too large or too slow.
 */
import { createServer, type Server } from "node:http"
import type { Socket } from "node:net"
import { type ProblemFields, problemBody } from "./problemResponse.ts"
import { randomHex, traceparent } from "./RequestContext.ts"

/** A `GET` stream of 4000 characters, percent-encoded, is 36 KB of path alone. */
const maxHeaderSize = 64 * 1024

const problemOf = (code: string | undefined): ProblemFields => {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return {
        status: 431,
        code: "HEADERS_TOO_LARGE",
        title: "Request Header Fields Too Large",
        detail: `The request's address and headers may have at most ${maxHeaderSize / 1024} KiB.`
      }
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return {
        status: 408,
        code: "REQUEST_TIMEOUT",
        title: "Request Timeout",
        detail: "The request took too long to arrive."
      }
    default:
      return {
        status: 400,
        code: "VALIDATION_ERROR",
        title: "Bad Request",
        detail: "request: is not valid HTTP",
        errors: [{ field: "request", message: "is not valid HTTP" }]
      }
  }
}

const responseTo = (code: string | undefined): string => {
  const problem = problemOf(code)
  const ids = {
    requestId: `req_${randomHex(32)}`,
    traceId: randomHex(32),
    spanId: randomHex(16),
    sampled: false
  }
  const body = JSON.stringify(problemBody(problem, ids))
  return [
    `HTTP/1.1 ${problem.status} ${problem.title}`,
    "Content-Type: application/problem+json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    `X-Request-Id: ${ids.requestId}`,
    `traceparent: ${traceparent(ids)}`,
    "Connection: close",
    "",
    body
  ].join("\r\n")
}

export const makeNodeServer = (): Server => {
  const server = createServer({ maxHeaderSize })
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Socket) => {
    if (socket.writable) socket.end(responseTo(error.code), () => socket.destroy())
    else socket.destroy()
  })
  // What a client expects beyond `100-continue` can be ignored; node would answer 417, without a body.
  server.on("checkExpectation", (request, response) => void server.emit("request", request, response))
  return server
}
