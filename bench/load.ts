/**
 * Owns the load: a process that opens connections, asks for streams and measures what arrives.
 *
 * Reads raw sockets into one shared buffer and looks for markers only: a client that parsed HTTP and JSON would take
 * more of the two cores than what is measured. Every turn has a session of its own.
 */
import { connect, type Socket } from "node:net"
import {
  allOpen,
  endWithParent,
  type LoadJob,
  type LoadResult,
  micros,
  type Quantiles,
  type StreamsResult,
  stampDigits,
  type TurnsResult,
  tell
} from "./messages.ts"

const path = "/api/v1/chat/stream"
const sessionPrefix = `bench-${process.pid}-${Date.now().toString(36)}`
let sessions = 0

const requestBytes = (port: number): string => {
  const body = JSON.stringify({
    message: "Please count to fifty for me, slowly.",
    session_id: `${sessionPrefix}-${++sessions}`
  })
  return `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: ${body.length}\r\n\r\n${body}`
}

/** Enough of the last read to find a marker that two reads share. */
const overlap = 24
const shared = Buffer.allocUnsafe(256 * 1024)
const lastChunk = "0\r\n\r\n"
const endEvent = '"type":"end"'

interface Handlers {
  readonly onText: (text: string) => void
  readonly onClosed: (why: string) => void
}

/** A connection that hands over what it reads, preceded by the end of what it read before. */
const open = (port: number, { onClosed, onText }: Handlers): Socket => {
  let tail = ""
  const socket = connect({
    host: "127.0.0.1",
    port,
    noDelay: true,
    onread: {
      buffer: shared,
      callback: (length) => {
        const text = tail + shared.toString("latin1", 0, length)
        onText(text)
        tail = text.endsWith(lastChunk) ? "" : text.slice(-overlap)
        return true
      }
    }
  })
  socket.on("error", (error) => onClosed(error.message))
  socket.on("close", () => onClosed("the connection was closed"))
  return socket
}

const quantiles = (values: ReadonlyArray<number>): Quantiles => {
  const sorted = Float64Array.from(values).sort()
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  return { p50: at(0.5), p99: at(0.99), max: at(1) }
}

const cpuMillis = (since: NodeJS.CpuUsage): number => {
  const { system, user } = process.cpuUsage(since)
  return (system + user) / 1000
}

/** Answers up to here are kept for the report; the rest are counted by their absence. */
const maxProblems = 5

const runTurns = (job: Extract<LoadJob, { kind: "turns" }>): Promise<TurnsResult> =>
  new Promise((resolve) => {
    const cpu = process.cpuUsage()
    const began = micros()
    const firstDeltas: Array<number> = []
    const problems: Array<string> = []
    let asked = 0
    let done = 0
    let idle = 0

    const rest = () => {
      if (++idle < job.connections) return
      const millis = (micros() - began) / 1000
      resolve({
        kind: "turns",
        turns: done,
        millis,
        firstDelta: quantiles(firstDeltas),
        cpuMillis: cpuMillis(cpu),
        problems
      })
    }
    const worker = () => {
      let askedAt = 0
      let hasDelta = false
      let hasEnd = false
      let isOver = false
      const stop = (problem?: string) => {
        if (isOver) return
        isOver = true
        if (problem !== undefined && problems.length < maxProblems) problems.push(problem)
        socket.destroy()
        rest()
      }
      const ask = () => {
        if (asked >= job.turns || (micros() - began) / 1000 > job.millis) return stop()
        asked++
        hasDelta = false
        hasEnd = false
        askedAt = micros()
        socket.write(requestBytes(job.port), "latin1")
      }
      const socket = open(job.port, {
        onText: (text) => {
          if (!hasDelta && text.includes('"type":"delta"')) {
            hasDelta = true
            firstDeltas.push((micros() - askedAt) / 1000)
          }
          if (!hasEnd && text.includes(endEvent)) hasEnd = true
          if (!text.endsWith(lastChunk)) {
            if (!hasDelta && text.startsWith("HTTP/1.1 ") && !text.startsWith("200", 9)) {
              stop(text.slice(0, 300))
            }
            return
          }
          if (!hasDelta || !hasEnd) return stop(`A stream ended without its end: ${text.slice(-300)}`)
          done++
          ask()
        },
        onClosed: stop
      })
      socket.once("connect", ask)
    }
    for (let n = 0; n < job.connections; n++) worker()
  })

const runStreams = (job: Extract<LoadJob, { kind: "streams" }>): Promise<StreamsResult> =>
  new Promise((resolve) => {
    const cpu = process.cpuUsage()
    const began = micros()
    const lateness: Array<number> = []
    const arrivals: Array<number> = []
    const problems: Array<string> = []
    let opened = 0
    let opening = 0
    let isOpen = 0
    let openAtOnce = 0
    let fullFrom = Number.POSITIVE_INFINITY
    let fullUntil = Number.POSITIVE_INFINITY
    let over = 0

    const close = (problem?: string) => {
      if (problem !== undefined && problems.length < maxProblems) problems.push(problem)
      if (problem !== undefined) full()
      if (++over < opened || fullFrom === Number.POSITIVE_INFINITY) return
      clearTimeout(giveUp)
      resolve({
        kind: "streams",
        openAtOnce,
        tokens: lateness.length,
        openingMillis: (fullFrom - began) / 1000,
        millis: (micros() - began) / 1000,
        lateness: quantiles(lateness),
        latenessAllOpen: quantiles(
          lateness.filter((_, n) => {
            const at = arrivals[n] ?? 0
            return at >= fullFrom && at <= fullUntil
          })
        ),
        cpuMillis: cpuMillis(cpu),
        problems
      })
    }
    const full = () => {
      if (fullFrom !== Number.POSITIVE_INFINITY) return
      fullFrom = micros()
      tell(allOpen)
    }
    // A server that can't take them all is measured with those it took.
    const giveUp = setTimeout(full, job.openMillis)
    const openMore = () => {
      while (opened < job.streams && opening < job.opening && fullFrom === Number.POSITIVE_INFINITY) {
        opened++
        opening++
        stream()
      }
    }
    const stream = () => {
      let isOver = false
      let tokens = 0
      /** The last event: it holds the whole reply once more. */
      let ending: string | undefined
      /** How much of a text was in the one before. */
      let seen = 0
      const began = () => {
        opening--
        openAtOnce = Math.max(openAtOnce, ++isOpen)
        if (isOpen === job.streams) full()
        else openMore()
      }
      const stop = (problem?: string) => {
        if (isOver) return
        isOver = true
        socket.destroy()
        if (tokens === 0) opening--
        if (ending === undefined) leave()
        close(problem)
      }
      const leave = () => {
        if (tokens > 0) isOpen--
        fullUntil = Math.min(fullUntil, micros())
      }
      const socket = open(job.port, {
        onText: (text) => {
          if (isOver) return
          const now = micros()
          const end = ending === undefined ? text.indexOf(endEvent) : 0
          const until = end === -1 ? text.length : end
          for (let at = text.indexOf("@"); at !== -1 && at < until; at = text.indexOf("@", at + 1)) {
            const semicolon = at + 1 + stampDigits
            if (semicolon < seen || text.charCodeAt(semicolon) !== 59) continue
            lateness.push((now - Number(text.slice(at + 1, semicolon))) / 1000)
            arrivals.push(now)
            if (++tokens === 1) began()
          }
          if (ending !== undefined) ending += text.slice(seen)
          else if (end !== -1) {
            leave()
            ending = text.slice(end)
          }
          seen = Math.min(overlap, text.length)
          if (tokens === 0 && text.startsWith("HTTP/1.1 ") && !text.startsWith("200", 9)) {
            stop(text.slice(0, 300))
          } else if (text.endsWith(lastChunk)) {
            const said = ending?.match(/@\d+;/g)?.length ?? 0
            // One that was still to begin when all were ended has nothing to say.
            const isWhole = said === tokens && (said > 0 || fullFrom < now)
            stop(isWhole ? undefined : `${tokens} tokens of ${said}: ${text.slice(-300)}`)
          }
        },
        onClosed: stop
      })
      socket.write(requestBytes(job.port), "latin1")
    }
    openMore()
  })

process.on("message", (job: LoadJob) => {
  const result: Promise<LoadResult> = job.kind === "turns" ? runTurns(job) : runStreams(job)
  result.then(tell)
})
endWithParent()
tell("ok")
