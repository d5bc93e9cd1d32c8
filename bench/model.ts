/**
 * Owns the scripted model: a process that answers every chat completion with a stream of tokens, without thinking.
 *
 * Speaks just enough HTTP over raw sockets to stay cheap: it shares two cores with what is measured.
 */
import { createServer, type Socket } from "node:net"
import {
  endWithParent,
  micros,
  type Pace,
  slowEndMillis,
  slowTokenMillis,
  stamp,
  tell,
  tokensPerTurn
} from "./messages.ts"

const head =
  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"

const httpChunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`

const completion = (choices: string, rest = "") =>
  httpChunk(
    `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":[${choices}]${rest}}\n\n`
  )

const token = (text: string) =>
  completion(`{"index":0,"delta":{"content":${JSON.stringify(text)}},"finish_reason":null}`)

const opening = Buffer.from(
  head + completion(`{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}`)
)
const tokens = Array.from({ length: tokensPerTurn }, (_, n) => Buffer.from(token(` word${n}`)))
const closing = Buffer.from(
  completion(`{"index":0,"delta":{},"finish_reason":"stop"}`) +
    completion("", `,"usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150}`) +
    httpChunk("data: [DONE]\n\n") +
    "0\r\n\r\n"
)

let pace: Pace = "burst"

const burst = (socket: Socket) => {
  socket.cork()
  socket.write(opening)
  for (const each of tokens) socket.write(each)
  socket.write(closing)
  socket.uncork()
}

const apart = (socket: Socket) => {
  let next = 0
  const step = () => {
    if (socket.destroyed) return
    const each = tokens[next++]
    socket.write(each ?? closing)
    if (each !== undefined) setImmediate(step)
  }
  socket.write(opening)
  setImmediate(step)
}

interface SlowStream {
  readonly socket: Socket
  left: number
}

/** One timer for all streams, started with the first, with a slot for each millisecond of the interval: a stream keeps the slot it began in. */
const slots = Array.from({ length: slowTokenMillis }, () => new Set<SlowStream>())
let slotsDone = 0
let ticker: NodeJS.Timeout | undefined

const tick = () => {
  const now = Math.floor(micros() / 1000)
  for (; slotsDone < now; slotsDone++) {
    const slot = slots[slotsDone % slowTokenMillis]
    for (const stream of slot ?? []) {
      const { socket } = stream
      if (!socket.destroyed && stream.left-- > 0) {
        socket.write(token(stamp(micros())), "latin1")
        continue
      }
      slot?.delete(stream)
      if (!socket.destroyed) socket.write(closing)
    }
  }
}

const slow = (socket: Socket) => {
  socket.write(opening)
  const now = Math.floor(micros() / 1000)
  if (ticker === undefined) {
    slotsDone = now
    ticker = setInterval(tick, 1)
  }
  slots[(now + slowTokenMillis - 1) % slowTokenMillis]?.add({ socket, left: Number.POSITIVE_INFINITY })
}

const answer = (socket: Socket) => {
  switch (pace) {
    case "burst":
      return burst(socket)
    case "apart":
      return apart(socket)
    case "slow":
      return slow(socket)
  }
}

const server = createServer({ noDelay: true }, (socket) => {
  let received: Buffer = Buffer.alloc(0)
  socket.on("error", () => socket.destroy())
  socket.on("data", (piece) => {
    received = received.length === 0 ? piece : Buffer.concat([received, piece])
    const headEnd = received.indexOf("\r\n\r\n")
    if (headEnd === -1) return
    const length = /\r\ncontent-length: *(\d+)/i.exec(received.toString("latin1", 0, headEnd + 2))?.[1]
    if (received.length < headEnd + 4 + Number(length ?? 0)) return
    // One request at a time on a connection: nobody here pipelines.
    received = Buffer.alloc(0)
    answer(socket)
  })
})

process.on("message", (message: Pace) => {
  if (pace === "slow") {
    for (const stream of slots.flatMap((slot) => Array.from(slot))) {
      stream.left = Math.floor((Math.random() * slowEndMillis) / slowTokenMillis)
    }
  }
  pace = message
  tell("ok")
})
endWithParent()
server.listen(0, "127.0.0.1", 4096, () => {
  const address = server.address()
  tell({ port: typeof address === "object" ? address?.port : undefined })
})
