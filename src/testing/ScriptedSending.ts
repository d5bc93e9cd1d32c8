/**
 * Owns the sending of a scripted reply over HTTP, faults included.
 *
 * Does not choose the reply (`Script.ts` does) or listen (`ScriptedServer.ts` does).
 */
import type { ServerResponse } from "node:http"
import {
  encodeStream,
  encodeWhole,
  type RawReply,
  type ScriptedReply,
  type StreamReply
} from "./ScriptedReply.ts"
import type { Exchange } from "./ScriptedRequest.ts"

const sseHead = { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" }

export const sendJson = (
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {}
): void => {
  const isText = typeof body === "string"
  response.writeHead(status, { "content-type": isText ? "text/plain" : "application/json", ...headers })
  response.end(isText ? body : JSON.stringify(body))
}

const destroy = (response: ServerResponse, exchange: Exchange): void => {
  exchange.wasCut = true
  response.socket?.destroy()
}

/** Calls `run` after the delay, unless the exchange is over by then. */
const later = (response: ServerResponse, exchange: Exchange, millis: number, run: () => void): void => {
  const guarded = () => {
    if (exchange.outcome === undefined && !response.destroyed) run()
  }
  if (millis <= 0) setImmediate(guarded)
  else setTimeout(guarded, millis)
}

const sendStream = (response: ServerResponse, exchange: Exchange, reply: StreamReply): void => {
  const { delayMillis, fault } = reply
  const perWrite = reply.tokensPerWrite ?? 1
  const stream = encodeStream(reply, {
    request: exchange.index,
    model: exchange.body.model,
    includeUsage: exchange.body.stream_options?.include_usage === true
  })
  const tokens = stream.tokens[Symbol.iterator]()
  let faultAt = fault?.after ?? Number.POSITIVE_INFINITY

  /** Whether the stream is over. */
  const fail = (): boolean => {
    faultAt = Number.POSITIVE_INFINITY
    switch (fault?.kind) {
      case "malformed":
        response.write("data: {not json\n\n")
        return false
      case "error":
        response.end(
          `data: ${JSON.stringify({ error: { message: fault.message ?? "scripted error", type: "server_error" } })}\n\n`
        )
        return true
      case "end":
        response.end()
        return true
      case "cut":
        // What was written before has to leave first, or the client would see less than `after` tokens.
        response.write("", () => destroy(response, exchange))
        return true
      default:
        return true
    }
  }
  // Each token is due at its own time from the start, so that late timers don't add up.
  const start = performance.now()
  let writes = 0
  const step = (): void => {
    while (!response.destroyed) {
      if (exchange.tokensSent >= faultAt && fail()) return
      let text = ""
      for (let n = 0; n < perWrite && exchange.tokensSent < faultAt; n++) {
        const next = tokens.next()
        if (next.done === true) {
          response.end(text + stream.tail(exchange.tokensSent))
          return
        }
        text += next.value
        exchange.tokensSent++
      }
      response.write(text)
      if (delayMillis !== undefined) {
        writes++
        later(response, exchange, start + writes * delayMillis - performance.now(), step)
        return
      }
    }
  }
  response.writeHead(200, sseHead)
  response.write(stream.head)
  step()
}

const sendWhole = (response: ServerResponse, exchange: Exchange, reply: StreamReply): void => {
  switch (reply.fault?.kind) {
    case "hang":
      return
    case "cut":
      destroy(response, exchange)
      return
    case "malformed":
      sendJson(response, 200, "{not json", { "content-type": "application/json" })
      return
    case "error":
      sendJson(response, 500, { error: { message: reply.fault.message ?? "scripted error" } })
      return
    default: {
      const body = encodeWhole(reply, { request: exchange.index, model: exchange.body.model })
      sendJson(response, 200, body, { "content-type": "application/json" })
      return
    }
  }
}

const sendRaw = (response: ServerResponse, exchange: Exchange, reply: RawReply): void => {
  response.writeHead(200, { "content-type": reply.contentType })
  let at = 0
  const step = (): void => {
    const piece = reply.pieces[at++]
    if (piece !== undefined) {
      response.write(piece)
      later(response, exchange, 0, step)
    } else if (reply.ending === "end") response.end()
    else if (reply.ending === "cut") destroy(response, exchange)
  }
  response.flushHeaders()
  step()
}

/** Sends the reply, or whatever is left of it by the script. */
export const send = (response: ServerResponse, exchange: Exchange, reply: ScriptedReply): void => {
  switch (reply.kind) {
    case "hang":
      return
    case "cut":
      destroy(response, exchange)
      return
    case "status":
      sendJson(response, reply.status, reply.body, reply.headers)
      return
    case "raw":
      sendRaw(response, exchange, reply)
      return
    case "stream": {
      const answer = exchange.body.stream === true ? sendStream : sendWhole
      if (reply.headDelayMillis === undefined) answer(response, exchange, reply)
      else later(response, exchange, reply.headDelayMillis, () => answer(response, exchange, reply))
    }
  }
}
