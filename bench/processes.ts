/**
 * Owns the processes of a run: starts the model, the floor, the load and the servers, and ends those and no others.
 */
import { type ChildProcess, fork, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { startArguments } from "../test/support/startArguments.ts"
import { allOpen, type LoadJob, type LoadResult, type Pace } from "./messages.ts"

const repository = fileURLToPath(new URL("..", import.meta.url))

/** How long a process may take to start, and to end once asked to. */
const startMillis = 30_000
const endMillis = 8_000

/** What runs until the end of the benchmark. */
const running = new Set<ChildProcess>()
const folders: Array<string> = []

const isAlive = (child: ChildProcess) => child.exitCode === null && child.signalCode === null

const kept = (child: ChildProcess): ChildProcess => {
  running.add(child)
  child.once("exit", () => running.delete(child))
  return child
}

const end = async (child: ChildProcess): Promise<void> => {
  if (!isAlive(child)) return
  const ended = once(child, "exit")
  child.kill("SIGTERM")
  const timer = setTimeout(() => child.kill("SIGKILL"), endMillis)
  await ended
  clearTimeout(timer)
}

export const endAll = async (): Promise<void> => {
  await Promise.all(Array.from(running, end))
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
}

const pidOf = (child: ChildProcess): number => {
  if (child.pid === undefined) throw new Error("A process did not start")
  return child.pid
}

/** The next message of a child. Fails when it ends first, or takes too long. */
const answerOf = (child: ChildProcess, millis: number): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer)
      child.off("message", onMessage)
      child.off("exit", onExit)
    }
    const onMessage = (message: unknown) => {
      done()
      resolve(message)
    }
    const onExit = () => {
      done()
      reject(new Error(`${child.spawnargs.at(-1)} ended while it was waited for`))
    }
    const timer = setTimeout(() => {
      done()
      reject(new Error(`${child.spawnargs.at(-1)} gave no answer within ${millis} ms`))
    }, millis)
    child.once("message", onMessage)
    child.once("exit", onExit)
  })

const startScript = (file: URL, ...args: ReadonlyArray<string>): ChildProcess =>
  kept(fork(fileURLToPath(file), args, { stdio: ["ignore", "inherit", "inherit", "ipc"] }))

const portOf = (message: unknown): number => {
  if (typeof message === "object" && message !== null && "port" in message) return Number(message.port)
  throw new Error("A process told no port")
}

/** A process that is measured or takes part. */
export interface Running {
  readonly pid: number
  readonly port: number
}

export interface Model extends Running {
  readonly setPace: (pace: Pace) => Promise<void>
}

export const startModel = async (): Promise<Model> => {
  const child = startScript(new URL("./model.ts", import.meta.url))
  const port = portOf(await answerOf(child, startMillis))
  return {
    pid: pidOf(child),
    port,
    setPace: async (pace) => {
      // The run was broken off.
      if (!child.connected) return
      const answer = answerOf(child, 5_000)
      child.send(pace)
      await answer
    }
  }
}

export const startFloor = async (modelPort: number): Promise<Running> => {
  const child = startScript(new URL("./floor.ts", import.meta.url), String(modelPort))
  return { pid: pidOf(child), port: portOf(await answerOf(child, startMillis)) }
}

export interface Collector extends Running {
  /** How many bytes of spans came so far. */
  readonly received: () => Promise<number>
}

export const startCollector = async (): Promise<Collector> => {
  const child = startScript(new URL("./collector.ts", import.meta.url))
  const port = portOf(await answerOf(child, startMillis))
  return {
    pid: pidOf(child),
    port,
    received: async () => {
      const answer = answerOf(child, 5_000)
      child.send("received")
      return Number(await answer)
    }
  }
}

export interface Load {
  readonly pid: number
  /** `onOpen` is called once all streams of a `streams` job are open. */
  readonly run: <J extends LoadJob>(
    job: J,
    onOpen?: () => void
  ) => Promise<Extract<LoadResult, { kind: J["kind"] }>>
}

/** Longest a job may take: a stuck server must not hold the benchmark. */
const jobMillis = 60_000

export const startLoad = async (): Promise<Load> => {
  const child = startScript(new URL("./load.ts", import.meta.url))
  await answerOf(child, startMillis)
  return {
    pid: pidOf(child),
    run: async (job, onOpen) => {
      if (!child.connected) throw new Error("The load has ended")
      child.send(job)
      let answer = await answerOf(child, jobMillis)
      if (answer === allOpen) {
        const result = answerOf(child, jobMillis)
        onOpen?.()
        answer = await result
      }
      return answer as Extract<LoadResult, { kind: (typeof job)["kind"] }>
    }
  }
}

/** How much is kept of what a server says, in characters. */
const maxSaid = 4_000

export interface Server extends Running {
  /** How often it warned so far, and the end of what it said. */
  readonly warnings: () => { readonly count: number; readonly last: string }
}

/** The server itself. Without `databaseUrl` it runs on the embedded database, in a folder of its own. */
export const startServer = async (options: {
  readonly modelPort: number
  readonly databaseUrl: string | undefined
  readonly streams: number
  /** More settings, by their names in the environment. */
  readonly settings?: Readonly<Record<string, string>>
}): Promise<Server> => {
  const folder = mkdtempSync(join(tmpdir(), "voice-agent-bench-"))
  folders.push(folder)
  const { PATH = "", NODE_OPTIONS = "" } = process.env
  const child = kept(
    spawn(process.execPath, startArguments(), {
      cwd: repository,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        PATH,
        NODE_OPTIONS,
        HOST: "127.0.0.1",
        PORT: "0",
        DATA_DIR: folder,
        LLM_BASE_URL: `http://127.0.0.1:${options.modelPort}/v1`,
        LLM_MODEL: "bench",
        LOG_LEVEL: "Warn",
        MAX_CONCURRENT_TURNS: String(Math.max(2000, options.streams * 2)),
        ...(options.databaseUrl === undefined ? {} : { DATABASE_URL: options.databaseUrl }),
        ...options.settings
      }
    })
  )
  let said = ""
  let warnings = 0
  const port = await new Promise<number>((resolve, reject) => {
    const failed = (why: string) => () => reject(new Error(`The server ${why}:\n${said}`))
    const timer = setTimeout(failed(`did not start within ${startMillis} ms`), startMillis)
    child.once("exit", failed("ended"))
    const hear = (piece: Buffer) => {
      warnings += piece.toString().match(/ (?:WARN|ERROR) /g)?.length ?? 0
      said = (said + piece).slice(-maxSaid)
      const found = /http:\/\/127\.0\.0\.1:(\d+)\//.exec(said)?.[1]
      if (found === undefined) return
      clearTimeout(timer)
      resolve(Number(found))
    }
    child.stdout?.on("data", hear)
    child.stderr?.on("data", hear)
  })
  said = ""
  return { pid: pidOf(child), port, warnings: () => ({ count: warnings, last: said }) }
}
