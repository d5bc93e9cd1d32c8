/**
 * Owns the promise that one process at a time opens a data directory: PGlite checks nothing, and two would destroy it.
 *
 * Does not lock files of the operating system, which Node cannot: a lock file says who holds the directory, and whoever
 * comes next checks whether that process still lives. A holder killed with `kill -9` is recognised by its process id
 * and start time, so that neither its leftover file nor a reused id keeps the next start out.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { Effect, Schema, type Scope } from "effect"

/** Another process has the data directory open, or the lock cannot be written. */
export class DataDirLocked extends Schema.TaggedError<DataDirLocked>()("DataDirLocked", {
  directory: Schema.String,
  detail: Schema.String
}) {
  override get message() {
    return `The data directory ${this.directory} cannot be used: ${this.detail}`
  }
}

interface Holder {
  readonly pid: number
  /** When the process started, where the platform tells; see `startOf`. */
  readonly start: string
  readonly host: string
  /** Tells two locks of one process apart, and who goes first when several try at once. */
  readonly token: string
}

/**
 * All of a lock is in the name of an empty file, so that it comes and goes as one, and no two ever share one.
 * `postgres.try…` announces a process that wants the directory, `postgres.lock…` one that has it.
 */
type Stage = "try" | "lock"

const nameOf = (stage: Stage, { pid, start, host, token }: Holder): string =>
  [`postgres.${stage}`, pid, start, host, token].map(encodeURIComponent).join(",")

const parse = (name: string): { readonly stage: Stage; readonly holder: Holder } | undefined => {
  const [prefix, ...fields] = name.split(",")
  const stage = prefix === "postgres.try" ? "try" : prefix === "postgres.lock" ? "lock" : undefined
  if (stage === undefined || fields.length !== 4) return undefined
  const [pid = "", start = "", host = "", token = ""] = fields.map(decodeURIComponent)
  return { stage, holder: { pid: Number(pid), start, host, token } }
}

/** The holder touches its file this often, for those who cannot see its process: other machines and containers. */
const beatMillis = 2_000
const staleMillis = 10_000

/** How often a process looks, and how long, before it gives way to others that try at the same time. */
const rounds = 200
const roundMillis = 10

/** Takes the directory for the life of the scope. It must exist. */
export const acquire = (directory: string): Effect.Effect<void, DataDirLocked, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.suspend(() => take(directory)).pipe(
        Effect.catchDefect((error) =>
          Effect.fail(
            new DataDirLocked({ directory, detail: error instanceof Error ? error.message : String(error) })
          )
        )
      ),
      (release) => Effect.sync(release)
    )
  )

/**
 * Announces first and looks then, so that of two processes at least one sees the other. Of several that announce at
 * once the one with the lowest token stays and the others step back; whoever sees nobody else takes the lock.
 */
const take = Effect.fnUntraced(function* (directory: string) {
  const self: Holder = {
    pid: process.pid,
    start: startOf(process.pid) ?? "",
    host: os.hostname(),
    token: crypto.randomUUID()
  }
  const attempt = path.join(directory, nameOf("try", self))
  const lock = path.join(directory, nameOf("lock", self))
  const withdraw = () => fs.rmSync(attempt, { force: true })
  return yield* Effect.gen(function* () {
    for (let round = 0; round < rounds; round++) {
      fs.writeFileSync(attempt, "")
      const others = living(directory, self.token)
      const holder = others.find(({ stage }) => stage === "lock")
      if (holder !== undefined) return yield* new DataDirLocked({ directory, detail: inUse(holder) })
      if (others.length === 0) {
        fs.writeFileSync(lock, "")
        const timer = setInterval(() => touch(lock), beatMillis).unref()
        return () => {
          clearInterval(timer)
          fs.rmSync(lock, { force: true })
        }
      }
      if (others.some(({ holder }) => holder.token < self.token)) withdraw()
      yield* Effect.callback<void>((resume) => void setTimeout(() => resume(Effect.void), roundMillis))
    }
    return yield* new DataDirLocked({ directory, detail: "several processes are starting on it at once" })
  }).pipe(Effect.ensuring(Effect.sync(withdraw)))
})

interface Other {
  readonly stage: Stage
  readonly holder: Holder
  readonly isHere: boolean
}

/** What others have in the directory; what dead ones have left there is cleared away. */
const living = (directory: string, token: string): ReadonlyArray<Other> =>
  fs.readdirSync(directory).flatMap((name) => {
    const found = parse(name)
    if (found === undefined || found.holder.token === token) return []
    const file = path.join(directory, name)
    const isHere = found.holder.host === os.hostname()
    if (isHere ? isAlive(found.holder) : ageMillis(file) < staleMillis) return [{ ...found, isHere }]
    fs.rmSync(file, { force: true })
    return []
  })

const inUse = ({ holder: { pid, host }, isHere }: Other): string =>
  isHere
    ? `process ${pid} is using it. Stop that one, or set another DATA_DIR`
    : `process ${pid} on host ${host} is using it. If that one is gone, try again in ${staleMillis / 1000} seconds`

const ageMillis = (file: string): number => {
  const stat = fs.statSync(file, { throwIfNoEntry: false })
  return stat === undefined ? Number.POSITIVE_INFINITY : Date.now() - stat.mtimeMs
}

const isAlive = (holder: Holder): boolean => {
  try {
    process.kill(holder.pid, 0)
  } catch (error) {
    // EPERM: it lives, as another user.
    if (isCode(error, "ESRCH")) return false
  }
  const start = startOf(holder.pid)
  return start === undefined || holder.start === "" || start === holder.start
}

/** Where there is /proc: the boot, and the clock ticks from then to the start of the process. */
const startOf = (pid: number): string | undefined => {
  try {
    const boot = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    // The name, in parentheses, may hold spaces. After it comes field 3; the start time is field 22.
    const start = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]
    return start === undefined ? undefined : `${boot}/${start}`
  } catch {
    return undefined
  }
}

const touch = (file: string) => {
  const now = new Date()
  fs.utimes(file, now, now, () => {})
}

const isCode = (error: unknown, code: string): boolean =>
  error instanceof Error && "code" in error && error.code === code
