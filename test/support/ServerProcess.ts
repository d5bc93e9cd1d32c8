/**
 * Owns the server as a process of its own, started as an operator starts it, and what it says and how it ends.
 */
import { spawn } from "node:child_process"
import { cpSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Effect, type Scope } from "effect"

const root = fileURLToPath(new URL("../..", import.meta.url))

/** The version of Node that the package asks for, which need not be the one that runs the tests. */
const node = join(root, "node_modules/node/bin/node")

/** Node keeps the compiled sources there: half of a start is reading them. */
const compileCache = join(tmpdir(), "voice-agent-compile-cache")

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface ServerProcess {
  /** All it has written so far. */
  readonly stdout: () => string
  readonly stderr: () => string
  /** Waits for the banner. Answers `http://127.0.0.1:<port>`; dies when the process ends before. */
  readonly url: Effect.Effect<string>
  readonly kill: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Waits for the end. */
  readonly exit: Effect.Effect<Exit>
}

/** Starts `src/main.ts`. Its environment holds no settings but these. Killed with the scope. */
export const start = (
  settings: Readonly<Record<string, string>>
): Effect.Effect<ServerProcess, never, Scope.Scope> =>
  Effect.gen(function* () {
    const child = spawn(node, ["src/main.ts"], {
      cwd: root,
      env: { NODE_COMPILE_CACHE: compileCache, ...settings },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let stdout = ""
    let stderr = ""
    const ready = Promise.withResolvers<string>()
    const ended = Promise.withResolvers<Exit>()
    // Whoever waits for one of them is told by the other.
    ready.promise.catch(() => {})
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text
      const url = /API +(http:\/\/\S+)\/api\/v1/.exec(stdout)?.[1]
      if (url !== undefined) ready.resolve(url)
    })
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text
    })
    child.on("close", (code, signal) => {
      ready.reject(new Error(`The server ended: ${code ?? signal}\n${stdout}${stderr}`))
      ended.resolve({ code, signal })
    })
    yield* Effect.addFinalizer(() =>
      Effect.promise(() => {
        child.kill("SIGKILL")
        return ended.promise
      })
    )
    return {
      stdout: () => stdout,
      stderr: () => stderr,
      url: Effect.promise(() => ready.promise),
      kill: (signal) => Effect.sync(() => void child.kill(signal)),
      exit: Effect.promise(() => ended.promise)
    }
  })

/** A folder that is gone with the scope: empty, or a copy of `template`. */
export const tempFolder = (template?: string): Effect.Effect<string, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "voice-agent-test-"))
      if (template !== undefined) cpSync(template, folder, { recursive: true })
      return folder
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )
