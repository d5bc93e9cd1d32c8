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

const Holder = Schema.fromJsonString(
  Schema.Struct({
    pid: Schema.Int,
    /** When the process started, where the platform tells; see `startOf`. */
    start: Schema.String,
    host: Schema.String,
    /** Tells two locks of one process apart. */
    token: Schema.String
  })
)
type Holder = typeof Holder.Type
const decodeHolder = Schema.decodeUnknownOption(Holder)
const encodeHolder = Schema.encodeSync(Holder)

/** The holder touches its file this often, for those who cannot see its process: other machines and containers. */
const beatMillis = 2_000
const staleMillis = 10_000

/** Takes the directory for the life of the scope. It must exist. */
export const acquire = (directory: string): Effect.Effect<void, DataDirLocked, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.try({
        try: () => take(directory),
        catch: (error) =>
          error instanceof DataDirLocked
            ? error
            : new DataDirLocked({ directory, detail: error instanceof Error ? error.message : String(error) })
      }),
      (release) => Effect.sync(release)
    )
  )

const take = (directory: string): (() => void) => {
  const file = path.join(directory, "postgres.lock")
  const self: Holder = {
    pid: process.pid,
    start: startOf(process.pid) ?? "",
    host: os.hostname(),
    token: crypto.randomUUID()
  }
  // A file is made elsewhere and linked into place, so that nobody reads half of it.
  const draft = `${file}.${self.token}`
  fs.writeFileSync(draft, encodeHolder(self))
  try {
    // Two or more may find the same stale file at once: all but one lose the race for the link and look again.
    for (let round = 0; round < 10; round++) {
      if (link(draft, file)) {
        const timer = setInterval(() => touch(file), beatMillis).unref()
        return () => {
          clearInterval(timer)
          if (read(file)?.holder?.token === self.token) fs.rmSync(file, { force: true })
        }
      }
      const found = read(file)
      if (found === undefined) continue
      const reason = aliveBecause(found)
      if (reason !== undefined) throw new DataDirLocked({ directory, detail: reason })
      discard(file, found.text)
    }
    throw new DataDirLocked({ directory, detail: "several processes are starting on it at once" })
  } finally {
    fs.rmSync(draft, { force: true })
  }
}

const link = (from: string, to: string): boolean => {
  try {
    fs.linkSync(from, to)
    return true
  } catch (error) {
    if (isCode(error, "EEXIST")) return false
    if (!hasNoLinks.some((code) => isCode(error, code))) throw error
  }
  try {
    fs.copyFileSync(from, to, fs.constants.COPYFILE_EXCL)
    return true
  } catch (error) {
    if (isCode(error, "EEXIST")) return false
    throw error
  }
}

/** What file systems without hard links answer: some network shares, and mounts of a container's host. */
const hasNoLinks = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"]

interface Found {
  readonly text: string
  /** `undefined`: not a lock file of ours, or damaged. */
  readonly holder: Holder | undefined
  readonly ageMillis: number
}

const read = (file: string): Found | undefined => {
  try {
    const text = fs.readFileSync(file, "utf8")
    const holder = decodeHolder(text)
    return {
      text,
      holder: holder._tag === "Some" ? holder.value : undefined,
      ageMillis: Date.now() - fs.statSync(file).mtimeMs
    }
  } catch (error) {
    if (isCode(error, "ENOENT")) return undefined
    throw error
  }
}

const aliveBecause = ({ ageMillis, holder }: Found): string | undefined => {
  if (holder === undefined) return undefined
  if (holder.host === os.hostname()) {
    return isAlive(holder)
      ? `process ${holder.pid} is using it. Stop that one, or set another DATA_DIR`
      : undefined
  }
  return ageMillis < staleMillis
    ? `process ${holder.pid} on host ${holder.host} is using it. If that one is gone, try again in ${staleMillis / 1000} seconds`
    : undefined
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

/** Takes a stale file away, and only that: a lock that another process has put there meanwhile goes back. */
const discard = (file: string, text: string) => {
  const aside = `${file}.${crypto.randomUUID()}`
  try {
    fs.renameSync(file, aside)
  } catch (error) {
    if (isCode(error, "ENOENT")) return
    throw error
  }
  if (fs.readFileSync(aside, "utf8") !== text) link(aside, file)
  fs.rmSync(aside)
}

const touch = (file: string) => {
  const now = new Date()
  fs.utimes(file, now, now, () => {})
}

const isCode = (error: unknown, code: string): boolean =>
  error instanceof Error && "code" in error && error.code === code
