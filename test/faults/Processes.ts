/**
 * Owns the processes of the fault run: starts them, asks them, ends them with the scope.
 */
import { type ChildProcess, fork, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, type Scope } from "effect"
import { startArguments } from "../support/startArguments.ts"

const folder = import.meta.dirname
const repository = join(folder, "../..")

const end = (child: ChildProcess) =>
  Effect.promise(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, "exit")
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000)
    child.kill("SIGTERM")
    await ended
    clearTimeout(timer)
  })

export interface Helper<Told> {
  /** What it told when it was ready. */
  readonly ready: Told
  readonly ask: <A>() => Effect.Effect<A>
  /** Ends it as a crash does. */
  readonly kill: Effect.Effect<void>
}

/** One of the scripts beside this file. */
export const startHelper = <Told>(script: string): Effect.Effect<Helper<Told>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() => fork(join(folder, script), { stdio: ["ignore", "inherit", "inherit", "ipc"] })),
      end
    )
    const heard = Effect.promise(async () => (await once(child, "message"))[0])
    return {
      ready: yield* heard,
      ask: () =>
        Effect.suspend(() => {
          child.send("report")
          return heard
        }),
      kill: Effect.promise(async () => {
        const ended = once(child, "exit")
        child.kill("SIGKILL")
        await ended
      })
    }
  })

export interface ServerProcess {
  readonly url: string
  /** Resident memory, in MB. */
  readonly residentMegabytes: () => number
  /** Lines of its log that warn or worse. */
  readonly warnings: ReadonlyArray<string>
}

/** The server itself, on the database at `databaseUrl` or an embedded one of its own. */
export const startServer = (
  settings: Readonly<Record<string, string>>
): Effect.Effect<ServerProcess, never, Scope.Scope> =>
  Effect.gen(function* () {
    const dataDir = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "voice-agent-faults-"))),
      (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
    )
    const { NODE_OPTIONS = "", PATH = "" } = process.env
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, startArguments(), {
          cwd: repository,
          stdio: ["ignore", "pipe", "pipe"],
          env: { PATH, NODE_OPTIONS, PORT: "0", DATA_DIR: dataDir, LOG_LEVEL: "Warn", ...settings }
        })
      ),
      end
    )
    const warnings: Array<string> = []
    const url = yield* Effect.callback<string>((resume) => {
      let said = ""
      const hear = (piece: Buffer) => {
        const text = piece.toString()
        warnings.push(...text.split("\n").filter((line) => / (?:WARN|ERROR|FATAL) /.test(line)))
        if (said === undefined) return
        said += text
        const found = /(http:\/\/127\.0\.0\.1:\d+)\//.exec(said)?.[1]
        if (found !== undefined) resume(Effect.succeed(found))
      }
      child.stdout.on("data", hear)
      child.stderr.on("data", hear)
      child.once("exit", () => resume(Effect.die(new Error(`The server ended:\n${said}`))))
    })
    return {
      url,
      residentMegabytes: () => {
        const status = readFileSync(`/proc/${child.pid}/status`, "utf8")
        return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024
      },
      warnings
    }
  })
