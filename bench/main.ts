/**
 * Owns the benchmark: what is measured, in which order, and against which targets. `npm run bench -- --help` tells how.
 *
 * Ends with 1 only when something broke: a target that is missed is told, not an error.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { parseArgs } from "node:util"
import { type BenchSchema, makeSchema } from "./database.ts"
import { busyMillis, cpuMillisOf, residentMebibytes } from "./machine.ts"
import { slowEndMillis } from "./messages.ts"
import {
  endAll,
  type Load,
  type Model,
  type Running,
  startCollector,
  startFloor,
  startLoad,
  startModel,
  startServer
} from "./processes.ts"
import { report, type StreamsMeasured, type Target, type TurnsMeasured } from "./report.ts"

const help = `npm run bench [-- options]

  --quick          two short rounds, for a look
  --turns N        turns of a round (default 1500); a round ends after 2.5 s in any case
  --rounds N       rounds for each target (default 4)
  --streams N      slow streams open at once (default 1000; 0: leaves that phase out)
  --only NAMES     of embedded,postgres,telemetry (default: all)

Each option may come from the environment too: BENCH_QUICK=1, BENCH_TURNS, BENCH_ROUNDS, BENCH_STREAMS, BENCH_ONLY.
DATABASE_URL: the Postgres to measure on, in a schema of its own. Without it: the embedded database alone.

telemetry: two more servers, on Postgres where it is given. "silent" makes no spans and nobody reads its metrics;
"traced" exports every span by OTLP to a collector, and its metrics are read once a second.`

/** What does not fit into this is left out and named. */
const runMillis = 225_000
/** Whatever hangs, the run ends. */
const maxRunMillis = 240_000
const connections = 16
const roundMillis = 2_500

/** V8 takes that long to compile what is hot. */
const warmUp = { turns: 2500, millis: 10_000 }

/** How long all slow streams stay open, and how many may wait for their first token while they are opened. */
const slowMillis = 6_000
const opening = 32
const openMillis = 12_000

const readOptions = () => {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean" },
      turns: { type: "string" },
      rounds: { type: "string" },
      streams: { type: "string" },
      only: { type: "string" },
      help: { type: "boolean" }
    }
  })
  const { BENCH_ONLY, BENCH_QUICK, BENCH_ROUNDS, BENCH_STREAMS, BENCH_TURNS, DATABASE_URL } = process.env
  const number = (name: string, given: string | undefined, fallback: number, max: number) => {
    const value = given === undefined || given === "" ? fallback : Number(given)
    if (Number.isInteger(value) && value >= 0 && value <= max) return value
    throw new Error(`${name}: expected a whole number up to ${max}, got ${given}`)
  }
  const quick = values.quick ?? (BENCH_QUICK ?? "") !== ""
  return {
    help: values.help ?? false,
    turns: Math.max(connections, number("turns", values.turns ?? BENCH_TURNS, quick ? 400 : 1500, 20_000)),
    rounds: Math.max(1, number("rounds", values.rounds ?? BENCH_ROUNDS, quick ? 2 : 4, 10)),
    streams: number("streams", values.streams ?? BENCH_STREAMS, 1000, 5000),
    only: (values.only ?? BENCH_ONLY ?? "embedded,postgres,telemetry").split(","),
    slowMillis: quick ? 3_000 : slowMillis,
    warmUp: quick ? { turns: 400, millis: 3_000 } : warmUp,
    databaseUrl: DATABASE_URL === "" ? undefined : DATABASE_URL
  }
}

const options = (() => {
  try {
    return readOptions()
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : error}\n\n${help}`)
    process.exit(1)
  }
})()

interface Measured extends Running {
  readonly name: Target["name"]
}

const measureTurns = async (
  load: Load,
  model: Model,
  target: Measured,
  bounds: { readonly turns: number; readonly millis: number }
): Promise<TurnsMeasured> => {
  const before = [cpuMillisOf(target.pid), cpuMillisOf(model.pid), busyMillis()] as const
  const result = await load.run({ kind: "turns", port: target.port, connections, ...bounds })
  if (result.problems.length > 0) throw new Error(result.problems.join("\n"))
  const own = cpuMillisOf(target.pid) - before[0]
  const models = cpuMillisOf(model.pid) - before[1]
  const all = busyMillis() - before[2]
  return {
    turnsPerSecond: (result.turns / result.millis) * 1000,
    firstDelta: result.firstDelta,
    cpuPerTurn: own / result.turns,
    clientCpuPerTurn: result.cpuMillis / result.turns,
    modelCpuPerTurn: models / result.turns,
    otherCpuPerTurn: Math.max(0, all - own - models - result.cpuMillis) / result.turns
  }
}

const measureStreams = async (load: Load, model: Model, target: Measured): Promise<StreamsMeasured> => {
  // What the phase before left to do is not this one's.
  await sleep(1000)
  await model.setPace("slow")
  const residentBefore = residentMebibytes(target.pid)
  const cpu = cpuMillisOf(target.pid)
  let residentPeak = residentBefore
  const sampling = setInterval(() => {
    residentPeak = Math.max(residentPeak, residentMebibytes(target.pid))
  }, 100)
  try {
    const result = await load.run(
      { kind: "streams", port: target.port, streams: options.streams, opening, openMillis },
      () => setTimeout(() => void model.setPace("burst"), options.slowMillis)
    )
    if (result.problems.length > 0) throw new Error(result.problems.join("\n"))
    return {
      ...result,
      residentBefore,
      residentPeak,
      cpuShare: (cpuMillisOf(target.pid) - cpu) / result.millis,
      clientCpuShare: result.cpuMillis / result.millis
    }
  } finally {
    clearInterval(sampling)
    await model.setPace("burst")
  }
}

interface Progress {
  readonly targets: Array<Target>
  /** What broke. Who did is left out from then on; the others go on. */
  readonly problems: Array<string>
  /** For what there was no time. */
  readonly leftOut: Array<string>
  /** Whether what was measured is what is said. */
  readonly checks: Array<() => Promise<void>>
  schema: BenchSchema | undefined
  isStopping: boolean
}

/** As Prometheus would. */
const readMetrics = async (port: number, problems: Array<string>): Promise<void> => {
  try {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
    if (!text.includes("process_uptime_seconds")) throw new Error("they are not there")
  } catch (cause) {
    problems.push(`The metrics: ${cause instanceof Error ? cause.message : cause}`)
  }
}

const run = async (progress: Progress): Promise<void> => {
  const { leftOut, problems, targets } = progress
  const { databaseUrl, rounds, streams } = options
  const model = await startModel()
  const load = await startLoad()
  const measured: Array<Measured> = [{ name: "floor", ...(await startFloor(model.port)) }]
  if (options.only.includes("embedded")) {
    const started = await startServer({ modelPort: model.port, databaseUrl: undefined, streams })
    measured.push({ name: "embedded", ...started })
  }
  if (databaseUrl !== undefined) progress.schema = await makeSchema(databaseUrl)
  if (progress.schema !== undefined && options.only.includes("postgres")) {
    const started = await startServer({ modelPort: model.port, databaseUrl: progress.schema.url, streams })
    measured.push({ name: "postgres", ...started })
  }
  if (options.only.includes("telemetry")) {
    const where = { modelPort: model.port, databaseUrl: progress.schema?.url, streams }
    const silent = { OTEL_SDK_DISABLED: "true", TRACE_STORE: "off" }
    measured.push({ name: "silent", ...(await startServer({ ...where, settings: silent })) })
    const collector = await startCollector()
    const traced = await startServer({
      ...where,
      settings: { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.port}`, TRACE_STORE: "off" }
    })
    measured.push({ name: "traced", ...traced })
    progress.checks.push(async () => {
      if ((await collector.received()) === 0) throw new Error("No span came to the collector")
    })
    setInterval(() => {
      if (!progress.isStopping) void readMetrics(traced.port, problems)
    }, 1000).unref()
  }
  for (const { name } of measured) targets.push({ name, burst: [], apart: [], slow: undefined })

  const broken = new Set<string>()
  /** `millis`: how long one may take at most. */
  const onEach = async (
    phase: string,
    millis: number,
    measure: (each: Measured, target: Target) => Promise<void>,
    order: ReadonlyArray<Measured> = measured
  ) => {
    for (const each of order) {
      const target = targets.find(({ name }) => name === each.name)
      if (target === undefined || broken.has(each.name) || progress.isStopping) continue
      if (performance.now() + millis > runMillis) {
        leftOut.push(`${phase}, ${each.name}`)
        continue
      }
      try {
        await measure(each, target)
      } catch (cause) {
        if (progress.isStopping) return
        broken.add(each.name)
        problems.push(`${phase}, ${each.name}: ${cause instanceof Error ? cause.message : cause}`)
      }
    }
  }

  console.error(`Warming up: ${measured.map(({ name }) => name).join(", ")} …`)
  await onEach("warming up", 0, async (each) => {
    await measureTurns(load, model, each, options.warmUp)
  })
  for (const pace of ["burst", "apart"] as const) {
    await model.setPace(pace)
    for (let round = 1; round <= rounds; round++) {
      console.error(
        `Turns, tokens ${pace === "burst" ? "in one burst" : "one by one"}: ${round} of ${rounds} …`
      )
      await onEach(`round ${round} of turns`, roundMillis, async (each, target) => {
        const bounds = { turns: options.turns, millis: roundMillis }
        target[pace].push(await measureTurns(load, model, each, bounds))
      })
    }
  }
  if (streams > 0) {
    // What matters most comes first, in case there is no time for all.
    await onEach(
      "slow streams",
      openMillis + options.slowMillis + slowEndMillis,
      async (each, target) => {
        console.error(`${streams} slow streams: ${each.name} …`)
        target.slow = await measureStreams(load, model, each)
      },
      measured.filter(({ name }) => name !== "silent" && name !== "traced").toReversed()
    )
  }
  for (const check of progress.checks) await check()
}

const main = async (): Promise<void> => {
  if (options.help) return console.log(help)
  const progress: Progress = {
    targets: [],
    problems: [],
    leftOut: [],
    checks: [],
    schema: undefined,
    isStopping: false
  }
  const stop = async (why?: string) => {
    if (progress.isStopping) return
    progress.isStopping = true
    if (why !== undefined) progress.problems.push(why)
    if (progress.targets.some(({ burst }) => burst.length > 0)) {
      const { rounds, streams, turns } = options
      const seconds = performance.now() / 1000
      const { leftOut, targets } = progress
      console.log(report(targets, { connections, turns, rounds, streams, seconds, leftOut }))
    }
    await endAll()
    await progress.schema
      ?.drop()
      .catch((cause) => progress.problems.push(`The schema could not be dropped: ${cause}`))
    for (const problem of progress.problems) console.error(`The benchmark broke. ${problem}`)
    process.exit(progress.problems.length > 0 ? 1 : 0)
  }
  setTimeout(() => void stop("It took too long"), maxRunMillis)
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => void stop(`It was ended by ${signal}`))
  }
  try {
    await run(progress)
    await stop()
  } catch (error) {
    await stop(error instanceof Error ? error.message : String(error))
  }
}

await main()
