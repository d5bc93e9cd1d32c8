/**
 * The fault run: 500 turns, over JSON, SSE and WebSocket, while one model call in five fails and the collector dies
 * half-way. Prints figures, and ends with code 1 if a promise was broken:
 * - every turn ends in exactly one of `end`, `error`, `cancelled`, as its client sees it, and so does history;
 * - at least 99 % succeed;
 * - memory at the end is within 10 % of the middle's.
 */
import { Effect } from "effect"
import { hold, type Told, type Way, ways } from "../failure/Told.ts"
import { ask, historyOf } from "../support/ChatClient.ts"
import { faults, type ModelReport } from "./FaultReport.ts"
import { startHelper, startServer } from "./Processes.ts"

/** Another number of turns, for a longer look: `npm run test:faults -- 5000`. */
const turns = Number(process.argv[2] ?? 500)
const concurrency = 16
const turnsOfASession = 5
/** A turn whose end is not told by then will not be told. */
const patience = "60 seconds"

interface Held {
  readonly way: Way
  readonly millis: number
  readonly told: Told | undefined
}

const median = (values: ReadonlyArray<number>) => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0
const quantile = (values: ReadonlyArray<number>, share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length * share)] ?? 0

const run = Effect.gen(function* () {
  const collector = yield* startHelper<string>("Collector.ts")
  const model = yield* startHelper<number>("FaultyModel.ts")
  const server = yield* startServer({
    LLM_BASE_URL: `http://127.0.0.1:${model.ready}/v1`,
    LLM_MODEL: "first",
    LLM_FALLBACK_MODELS: "second,third",
    LLM_FIRST_TOKEN_TIMEOUT: "2 seconds",
    LLM_RETRY_DELAY: "100 millis",
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.ready,
    ...(process.env.DATABASE_URL === undefined ? {} : { DATABASE_URL: process.env.DATABASE_URL })
  })

  /** Resident megabytes, by the number of turns that had ended. */
  const memory: Array<readonly [turn: number, megabytes: number]> = []
  const held: Array<Held> = []
  let spansBefore = 0

  const one = Effect.fnUntraced(function* (session: number, n: number) {
    const way = ways[(session + n) % ways.length] ?? "json"
    const began = performance.now()
    const told = yield* hold(server.url, way, {
      session_id: `faults-${session}`,
      message: n === 2 ? "What is 6 * 7?" : `Message ${n}, please answer at some length.`
    }).pipe(Effect.scoped, Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.undefined }))
    held.push({ way, millis: performance.now() - began, told })
    memory.push([held.length, server.residentMegabytes()])
    if (held.length === turns / 2) {
      spansBefore = yield* collector.ask<number>()
      yield* collector.kill
    }
  })
  const began = performance.now()
  yield* Effect.forEach(
    Array.from({ length: turns / turnsOfASession }, (_, session) => session),
    (session) =>
      Effect.forEach(
        Array.from({ length: turnsOfASession }, (_, n) => n),
        (n) => one(session, n),
        { discard: true }
      ),
    { concurrency, discard: true }
  )
  const seconds = (performance.now() - began) / 1000

  const endsWith = (end: Told["ends"][number]) =>
    held.filter(({ told }) => told?.ends.length === 1 && told.ends[0] === end).length
  const ended = { end: endsWith("end"), error: endsWith("error"), cancelled: endsWith("cancelled") }
  const around = (middle: number) =>
    median(memory.filter(([turn]) => Math.abs(turn - middle) <= 20).map(([, megabytes]) => megabytes))
  const [atMiddle, atEnd] = [around(turns / 2), around(turns - 20)]
  const tenths = Array.from({ length: 10 }, (_, n) => Math.round(around(((n + 0.5) * turns) / 10)))

  let asked = 0
  let answered = 0
  for (let session = 0; session < turns / turnsOfASession; session++) {
    for (const { metadata, role } of yield* historyOf(server.url, `faults-${session}`)) {
      if (role === "user") asked++
      else if (metadata?.status === undefined) answered++
    }
  }
  const report = yield* model.ask<ModelReport>()
  const { body: metrics } = yield* ask(`${server.url}/metrics`)
  const counted = (name: string, label = "") =>
    String(metrics)
      .split("\n")
      .filter((line) => line.startsWith(name) && line.includes(label))
      .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0)
  const faulty = faults.reduce((sum, fault) => sum + report.faults[fault], 0)
  // Without the time and the ids.
  const warned = Map.groupBy(server.warnings, (line) => line.replace(/^\S+ \w+ +/, "").replace(/ \w+=.*/, ""))
  const percent = (part: number, whole: number) => `${((100 * part) / whole).toFixed(1)} %`

  console.log(`
turns           ${held.length} in ${seconds.toFixed(1)} s, ${concurrency} at a time (${ways
    .map((way) => `${held.filter((one) => one.way === way).length} ${way}`)
    .join(", ")})
ends            ${ended.end} end, ${ended.error} error, ${ended.cancelled} cancelled, ${held.length - ended.end - ended.error - ended.cancelled} none or several
errors          ${held.flatMap(({ told, way }) => (told?.errorCode ? [`${told.errorCode} by ${way}: ${told.text}`] : [])).join("; ") || "none"}
succeeded       ${percent(ended.end, turns)}
took            p50 ${Math.round(
    quantile(
      held.map(({ millis }) => millis),
      0.5
    )
  )} ms, p99 ${Math.round(
    quantile(
      held.map(({ millis }) => millis),
      0.99
    )
  )} ms
history         ${asked} messages, ${answered} complete replies
model calls     ${report.calls}, of which ${faulty} failed (${percent(faulty, report.calls)}): ${faults.map((fault) => `${report.faults[fault]} ${fault}`).join(", ")}
policy          ${counted("llm_retries_total")} retries, ${counted("llm_fallbacks_total")} fallbacks, ${counted("llm_errors_total")} failed attempts, ${counted("llm_errors_total", 'mid_stream="true"')} of them in mid-stream
spans           ${spansBefore} collected before the collector died
memory          ${atMiddle.toFixed(0)} MB in the middle, ${atEnd.toFixed(0)} MB at the end (${percent(atEnd - atMiddle, atMiddle)}); by tenths of the run ${tenths.join(", ")}
warnings        ${[...warned].map(([text, lines]) => `${lines.length} × ${text}`).join("; ") || "none"}
`)

  const broken = [
    ended.end + ended.error + ended.cancelled === turns ? undefined : "a turn had no end, or several",
    ended.end >= 0.99 * turns ? undefined : "fewer than 99 % succeeded",
    asked === turns && answered === ended.end ? undefined : "history does not hold what clients were told",
    Math.abs(atEnd - atMiddle) <= 0.1 * atMiddle ? undefined : "memory is not within 10 % of the middle's",
    spansBefore > 0 ? undefined : "the collector got no spans while it lived"
  ].filter((promise) => promise !== undefined)
  for (const promise of broken) console.error(`Broken: ${promise}`)
  return broken.length === 0
})

process.exitCode = (await Effect.runPromise(Effect.scoped(run))) ? 0 : 1
