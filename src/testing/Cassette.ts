/**
 * Owns the recording of a real model's HTTP exchanges, once, and their replay: a server on loopback that passes
 * requests on and writes down what came of them, or answers from what was written down.
 *
 * Does not keep credentials: of headers only what tells the kind of a response, of bodies and queries what is left when
 * they are blotted out. Messages are kept; they are what is recorded.
 *
 * @example
 * const cassette = yield* Cassette.make({ file: "test/cassettes/greeting.json", upstream: "https://api.openai.com/v1" })
 * // point LLM_BASE_URL at cassette.baseUrl …
 */
import * as fs from "node:fs"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import * as path from "node:path"
import { StringDecoder } from "node:string_decoder"
import { Config, Effect, Schema, type Scope } from "effect"
import {
  differences,
  type Exchange,
  keptHeaders,
  secretsOf,
  stripQuery,
  Tape,
  type TapeRequest,
  withoutSecrets
} from "./CassetteTape.ts"

export type CassetteMode = "replay" | "record"

export interface CassetteOptions {
  /** JSON. Written over when recording. */
  readonly file: string
  /** The base URL that is recorded, such as `https://api.openai.com/v1`. */
  readonly upstream: string
  /** Default: what `CASSETTE_MODE` says, or else `replay`. */
  readonly mode?: CassetteMode
  /** Texts that must not be kept, besides the credentials that requests carry. */
  readonly secrets?: ReadonlyArray<string>
  /** What of a request's body counts: leave out what is different each time. It is given a JSON value. */
  readonly normalize?: (body: unknown) => unknown
}

export interface Cassette {
  readonly mode: CassetteMode
  /** What `LLM_BASE_URL` wants. */
  readonly baseUrl: string
  /** Dies, and says why, when a request did not match or an exchange was not asked for. The end of the scope does too. */
  readonly check: Effect.Effect<void>
}

const readBody = async (request: IncomingMessage): Promise<string> => {
  const pieces: Array<Buffer> = []
  for await (const piece of request) pieces.push(piece)
  return Buffer.concat(pieces).toString()
}

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** Of the connection, or made anew. */
const notPassedOn = new Set(["host", "connection", "content-length", "transfer-encoding", "accept-encoding"])

const refuse = (response: ServerResponse, status: number, message: string) => {
  response.writeHead(status, { "content-type": "application/json" })
  response.end(JSON.stringify({ error: { message, type: "cassette" } }))
}

interface Asked {
  readonly request: TapeRequest
  readonly raw: { readonly path: string; readonly body: string; readonly headers: IncomingMessage["headers"] }
  readonly secrets: ReadonlyArray<string>
}

/** Passes a request on. Answers the exchange. */
const record = async (upstream: string, asked: Asked, response: ServerResponse): Promise<Exchange> => {
  const abort = new AbortController()
  response.once("close", () => abort.abort())
  const headers = Object.entries(asked.raw.headers).flatMap(
    ([name, value]): Array<[string, string]> =>
      typeof value === "string" && !notPassedOn.has(name) ? [[name, value]] : []
  )
  const { method } = asked.request
  const answer = await fetch(upstream.replace(/\/$/, "") + asked.raw.path, {
    method,
    headers: [...headers, ["accept-encoding", "identity"]],
    ...(asked.raw.body === "" ? {} : { body: asked.raw.body }),
    signal: abort.signal
  })
  const kept = Object.fromEntries(
    keptHeaders.flatMap((name) => {
      const value = answer.headers.get(name)
      return value === null ? [] : [[name, value]]
    })
  )
  response.writeHead(answer.status, kept)
  const decoder = new StringDecoder("utf8")
  const chunks: Array<string> = []
  let complete = true
  try {
    for await (const chunk of answer.body ?? []) {
      response.write(chunk)
      const text = decoder.write(Buffer.from(chunk))
      if (text !== "") chunks.push(text)
    }
  } catch (error) {
    if (!abort.signal.aborted) throw error
    complete = false
  }
  response.end()
  return { request: asked.request, response: { status: answer.status, headers: kept, chunks, complete } }
}

const play = async (
  { response: { chunks, complete, headers, status } }: Exchange,
  response: ServerResponse
) => {
  response.writeHead(status, headers)
  for (const chunk of chunks) {
    response.write(chunk)
    // A turn of the event loop each, so that they leave, and mostly arrive, one by one.
    await new Promise((resolve) => setImmediate(resolve))
  }
  // What the client broke off when it was recorded, it breaks off now.
  if (complete) response.end()
}

const named = ({ method, path }: TapeRequest) => `${method} ${path}`

const noRecording = (file: string) =>
  new Error(
    `There is no recording in ${file}. Make one: CASSETTE_MODE=record, with the credentials of the model`
  )

const load = (file: string): Array<Exchange> => {
  if (!fs.existsSync(file)) throw noRecording(file)
  return [...Schema.decodeSync(Tape)(fs.readFileSync(file, "utf8")).exchanges]
}

const save = (file: string, exchanges: ReadonlyArray<Exchange>) => {
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, `${JSON.stringify({ version: 1, exchanges }, null, 2)}\n`)
}

const modeOf = (given: CassetteMode | undefined): Effect.Effect<CassetteMode> =>
  given !== undefined
    ? Effect.succeed(given)
    : Config.Literals(["replay", "record"], "CASSETTE_MODE").pipe(Config.withDefault("replay"), Effect.orDie)

export const Cassette = {
  /** Plays or records until the scope closes. */
  make: Effect.fnUntraced(function* (
    options: CassetteOptions
  ): Effect.fn.Return<Cassette, never, Scope.Scope> {
    const { file, normalize = (body) => body, upstream } = options
    const mode = yield* modeOf(options.mode)
    const waiting = mode === "replay" ? load(file) : []
    const recorded: Array<Exchange> = []
    const problems: Array<string> = []

    const askedOf = async (request: IncomingMessage): Promise<Asked> => {
      const raw = {
        path: (request.url ?? "/").replace(/^\/v1(?=\/|\?|$)/, ""),
        body: await readBody(request),
        headers: request.headers
      }
      const query = stripQuery(raw.path)
      const secrets = [...(options.secrets ?? []), ...secretsOf(request.headers), ...query.secrets]
      return {
        raw,
        secrets,
        request: { method: request.method ?? "GET", path: query.path, body: normalize(parse(raw.body)) }
      }
    }

    const replay = ({ request, secrets }: Asked, response: ServerResponse) => {
      const clean = withoutSecrets(
        { request, response: { status: 0, headers: {}, chunks: [], complete: true } },
        secrets
      ).request
      const at = waiting.findIndex((exchange) => differences(exchange.request, clean, "").length === 0)
      const [found] = at === -1 ? [] : waiting.splice(at, 1)
      if (found !== undefined) return play(found, response)
      const [next] = waiting
      const problem =
        next === undefined
          ? `${named(clean)} was asked once more than was recorded in ${file}`
          : [
              `${named(clean)} does not match what comes next in ${file}:`,
              ...differences(next.request, clean, "request")
            ].join("\n")
      problems.push(problem)
      refuse(response, 400, problem)
    }

    const server = createServer((request, response) => {
      const answer = async () => {
        const asked = await askedOf(request)
        if (mode === "replay") await replay(asked, response)
        else recorded.push(withoutSecrets(await record(upstream, asked, response), asked.secrets))
      }
      answer().catch((error) => {
        // The client went away before there was an answer.
        if (response.destroyed) return
        problems.push(`${request.method} ${stripQuery(request.url ?? "").path}: ${error}`)
        if (response.headersSent) response.destroy()
        else refuse(response, 502, String(error))
      })
    })

    const check = Effect.suspend(() => {
      const left = waiting.map((exchange) => `${named(exchange.request)} is in ${file} and was not asked`)
      const all = [...problems, ...left]
      return all.length === 0 ? Effect.void : Effect.die(new Error(all.join("\n")))
    })

    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
      (_, exit) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          server.closeAllConnections()
        }).pipe(
          Effect.andThen(
            Effect.sync(() => mode === "record" && problems.length === 0 && save(file, recorded))
          ),
          // What failed already says why.
          Effect.andThen(exit._tag === "Success" ? check : Effect.void)
        )
    )
    return { mode, baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, check }
  })
} as const
