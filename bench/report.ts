/**
 * Owns how what was measured is read: medians over rounds, the table, and the targets.
 */
import { cpus } from "node:os"
import { type Quantiles, slowTokenMillis, tokensPerTurn } from "./messages.ts"

/** One round. CPU in milliseconds a turn. */
export interface TurnsMeasured {
  readonly turnsPerSecond: number
  readonly firstDelta: Quantiles
  readonly cpuPerTurn: number
  readonly clientCpuPerTurn: number
  readonly modelCpuPerTurn: number
  /** Of all else on the machine: Postgres, and whoever disturbs. */
  readonly otherCpuPerTurn: number
}

/** Memory in MiB, CPU in cores. */
export interface StreamsMeasured {
  readonly openAtOnce: number
  /** Until all were open. */
  readonly openingMillis: number
  readonly residentBefore: number
  readonly residentPeak: number
  readonly lateness: Quantiles
  readonly latenessAllOpen: Quantiles
  readonly cpuShare: number
  readonly clientCpuShare: number
}

export interface Target {
  readonly name: "floor" | "embedded" | "postgres" | "silent" | "traced"
  readonly burst: Array<TurnsMeasured>
  readonly apart: Array<TurnsMeasured>
  slow: StreamsMeasured | undefined
}

const minShareOfFloor = 0.25
/** Of the throughput without telemetry. */
const minShareTraced = 0.8
const maxResident = 300
const maxLateness = 100

const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

const shown = (value: number | undefined, digits: number): string =>
  value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits)

const both = (p50: number, p99: number, digits: number) => `${shown(p50, digits)} / ${shown(p99, digits)}`

/** Round by round, since neighbours share the machine's mood. */
const shareOf = (whole: ReadonlyArray<TurnsMeasured>, own: ReadonlyArray<TurnsMeasured>): number =>
  median(own.map((round, n) => round.turnsPerSecond / (whole[n]?.turnsPerSecond ?? Number.NaN)))

type Row = readonly [label: string, ...cells: ReadonlyArray<string>]

const turnRows = (targets: ReadonlyArray<Target>, pace: "burst" | "apart"): Array<Row> => {
  const row = (label: string, cell: (rounds: ReadonlyArray<TurnsMeasured>) => string): Row => [
    label,
    ...targets.map((target) => cell(target[pace]))
  ]
  const of = (rounds: ReadonlyArray<TurnsMeasured>, field: (round: TurnsMeasured) => number) =>
    median(rounds.map(field))
  const floor = targets[0]?.[pace] ?? []
  return [
    row("turns/s", (rounds) =>
      shown(
        of(rounds, (round) => round.turnsPerSecond),
        0
      )
    ),
    row("of the floor", (rounds) => shown(shareOf(floor, rounds), 2)),
    row("first delta p50 / p99, ms", (rounds) =>
      both(
        of(rounds, (round) => round.firstDelta.p50),
        of(rounds, (round) => round.firstDelta.p99),
        1
      )
    ),
    row("its CPU, ms a turn", (rounds) =>
      shown(
        of(rounds, (round) => round.cpuPerTurn),
        2
      )
    ),
    row("client / model CPU, ms a turn", (rounds) =>
      both(
        of(rounds, (round) => round.clientCpuPerTurn),
        of(rounds, (round) => round.modelCpuPerTurn),
        2
      )
    ),
    row("other CPU, ms a turn", (rounds) =>
      shown(
        of(rounds, (round) => round.otherCpuPerTurn),
        2
      )
    )
  ]
}

const slowRows = (targets: ReadonlyArray<Target>): Array<Row> => {
  const row = (label: string, cell: (slow: StreamsMeasured) => string): Row => [
    label,
    ...targets.map(({ slow }) => (slow === undefined ? "–" : cell(slow)))
  ]
  return [
    row("most open at once", (slow) => shown(slow.openAtOnce, 0)),
    row("opened in, s", (slow) => shown(slow.openingMillis / 1000, 1)),
    row("resident before / peak, MiB", (slow) => both(slow.residentBefore, slow.residentPeak, 0)),
    row("lateness p50 / p99, ms", (slow) => both(slow.lateness.p50, slow.lateness.p99, 1)),
    row("… while all are open", (slow) => both(slow.latenessAllOpen.p50, slow.latenessAllOpen.p99, 1)),
    row("latest token, ms", (slow) => shown(slow.lateness.max, 1)),
    row("its / client CPU, cores", (slow) => both(slow.cpuShare, slow.clientCpuShare, 2))
  ]
}

const table = (sections: ReadonlyArray<readonly [title: string, rows: ReadonlyArray<Row>]>): string => {
  const rows = sections.flatMap(([, rows]) => rows)
  const width = Math.max(...rows.map(([label]) => label.length)) + 4
  const columns = Math.max(
    ...rows.map((row) => row.slice(1).reduce((most, { length }) => Math.max(most, length), 0))
  )
  const line = ([label, ...cells]: Row) =>
    label.padEnd(width) + cells.map((cell) => cell.padStart(columns + 3)).join("")
  return sections
    .map(([title, rows]) => [title, ...rows.map((row) => line([`  ${row[0]}`, ...row.slice(1)]))].join("\n"))
    .join("\n\n")
}

const verdict = (what: string, isMet: boolean | undefined, detail: string): string =>
  `  ${isMet === undefined ? "not measured" : isMet ? "met" : "MISSED"}: ${what} (${detail})`

const verdicts = (targets: ReadonlyArray<Target>, streams: number): ReadonlyArray<string> => {
  const floor = targets.find(({ name }) => name === "floor")
  const postgres = targets.find(({ name }) => name === "postgres")
  const lines: Array<string> = []
  for (const pace of ["burst", "apart"] as const) {
    const share = postgres && floor ? shareOf(floor[pace], postgres[pace]) : undefined
    lines.push(
      verdict(
        `at least ${minShareOfFloor} of the floor on Postgres, ${paceNames[pace]}`,
        share === undefined ? undefined : share >= minShareOfFloor,
        share === undefined ? "it takes DATABASE_URL" : shown(share, 2)
      )
    )
  }
  const silent = targets.find(({ name }) => name === "silent")
  const traced = targets.find(({ name }) => name === "traced")
  if (silent && traced) {
    for (const pace of ["burst", "apart"] as const) {
      const share = shareOf(silent[pace], traced[pace])
      lines.push(
        verdict(
          `traced, at least ${minShareTraced} of silent, ${paceNames[pace]}`,
          Number.isNaN(share) ? undefined : share >= minShareTraced,
          shown(share, 2)
        )
      )
    }
  }
  for (const { name, slow } of targets) {
    if (name !== "embedded" && name !== "postgres") continue
    const isFull = slow !== undefined && slow.openAtOnce >= streams
    const open = slow === undefined ? "" : `, ${slow.openAtOnce} of ${streams} open`
    lines.push(
      verdict(
        `the slow streams within ${maxResident} MiB, ${name}`,
        slow && !Number.isNaN(slow.residentPeak) ? isFull && slow.residentPeak < maxResident : undefined,
        `${shown(slow?.residentPeak, 0)} MiB${open}`
      ),
      verdict(
        `no token later than ${maxLateness} ms at p99, ${name}`,
        slow && isFull && slow.lateness.p99 <= maxLateness,
        `${shown(slow?.lateness.p99, 1)} ms${open}`
      )
    )
  }
  return lines
}

const paceNames = { burst: "tokens in one burst", apart: "tokens one by one" } as const

export const report = (
  targets: ReadonlyArray<Target>,
  run: {
    readonly connections: number
    readonly turns: number
    readonly rounds: number
    readonly streams: number
    readonly seconds: number
    /** For what there was no time. */
    readonly leftOut: ReadonlyArray<string>
  }
): string => {
  const heading = `${run.connections} connections, ${tokensPerTurn} tokens a turn`
  const names: Row = ["", ...targets.map(({ name }) => name)]
  const sections: Array<readonly [string, ReadonlyArray<Row>]> = [
    [`${heading}, ${paceNames.burst}`, [names, ...turnRows(targets, "burst")]],
    [`${heading}, ${paceNames.apart}`, [names, ...turnRows(targets, "apart")]]
  ]
  if (run.streams > 0) {
    sections.push([
      `${run.streams} slow streams, ${1000 / slowTokenMillis} tokens/s each`,
      [names, ...slowRows(targets)]
    ])
  }
  return [
    "",
    table(sections),
    "",
    "Targets",
    ...verdicts(targets, run.streams),
    ...run.leftOut.map((what) => `  left out, for lack of time: ${what}`),
    "",
    `Medians of ${run.rounds} rounds of up to ${run.turns} turns, floor and servers in turn; ${cpus().length} cores, Node ${process.versions.node}, ${run.seconds.toFixed(0)} s in all.`,
    ""
  ].join("\n")
}
