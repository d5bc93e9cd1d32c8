/**
 * A process for `main.ts`: a model server of which one call in five fails, one way after another. Tells its port,
 * then, whenever it is asked, what it did so far.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Reply, type ScriptedReply } from "voice-agent-api/testing"
import { Exchange, type ScriptedRequestBody } from "../../src/testing/ScriptedRequest.ts"
import { send } from "../../src/testing/ScriptedSending.ts"
import { type Fault, faults, type ModelReport } from "./FaultReport.ts"

/** Of so many calls one fails, whichever of them it is. */
const oneIn = 5

/** How long nobody listens, after a call that was to be refused. */
const awayMillis = 60

/** Mulberry32: the same faults in each run, as far as the calls come in the same order. */
let seed = 20_260_730
const random = (): number => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

const counts = Object.fromEntries(faults.map((fault) => [fault, 0])) as Record<Fault, number>
let calls = 0
let faultyCall = 0

const wellReply = ({ messages }: ScriptedRequestBody): ScriptedReply => {
  const last = messages.at(-1)
  if (last?.role === "user" && String(last.content).includes("6 * 7"))
    return Reply.toolCalls([{ name: "calculator", arguments: { expression: "6 * 7" } }])
  return Reply.text(
    Array.from({ length: 30 }, (_, n) => `word${n} `),
    { delayMillis: 2 }
  )
}

const brokenAtStart = (kind: "cut" | "hang" | "malformed") =>
  Reply.text(["never "], { fault: { after: 0, kind } })

const faultyReply = (fault: Fault): ScriptedReply => {
  switch (fault) {
    case "429":
      return Reply.status(429, { retryAfter: 0 })
    case "500":
      return Reply.status(500)
    case "503":
      return Reply.status(503)
    case "cut":
    case "refused":
      return Reply.cut
    case "cut before text":
      return brokenAtStart("cut")
    case "hang":
      return Reply.hang
    case "hang before text":
      return brokenAtStart("hang")
    case "malformed":
      return brokenAtStart("malformed")
  }
}

const answer = (body: ScriptedRequestBody, request: IncomingMessage, response: ServerResponse) => {
  const exchange = new Exchange(calls++, request.url ?? "/", request.headers, body)
  response.on("close", () => exchange.end(response.writableFinished ? "completed" : "aborted"))
  if (exchange.index % oneIn === 0) faultyCall = exchange.index + Math.floor(random() * oneIn)
  const fault =
    exchange.index === faultyCall ? faults[Math.floor(exchange.index / oneIn) % faults.length] : undefined
  if (fault === undefined) return send(response, exchange, wellReply(body))
  counts[fault]++
  if (fault === "refused") {
    // Idle connections end with it, those at work go on.
    server.close()
    setTimeout(() => server.listen(port, "127.0.0.1"), awayMillis)
  }
  send(response, exchange, faultyReply(fault))
}

const server = createServer((request, response) => {
  const pieces: Array<Buffer> = []
  request.on("data", (piece: Buffer) => pieces.push(piece))
  request.on("end", () => answer(JSON.parse(Buffer.concat(pieces).toString()), request, response))
})
// Gone again before it listened.
server.on("error", () => setTimeout(() => server.listen(port, "127.0.0.1"), awayMillis))

let port = 0
process.on("message", () => process.send?.({ calls, faults: counts } satisfies ModelReport))
process.once("disconnect", () => process.exit(0))
server.listen(0, "127.0.0.1", () => {
  if (port !== 0) return
  port = (server.address() as AddressInfo).port
  process.send?.(port)
})
