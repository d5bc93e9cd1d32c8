import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as readline from "node:readline"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { thorough } from "../support/thorough.ts"

/** What one life of `Writer.ts` said, up to its end. */
interface Life {
  readonly found: ReadonlyArray<number>
  readonly committed: ReadonlyArray<number>
  readonly errors: string
}

const writer = fileURLToPath(new URL("./Writer.ts", import.meta.url))

/** Starts a writer and signals it once it has committed `commits` numbers. Resolves once it has ended. */
const live = (dataDir: string, signal: NodeJS.Signals, commits: number) =>
  Effect.callback<Life>((resume) => {
    const child: ChildProcess = spawn(process.execPath, [writer, dataDir], {
      stdio: ["ignore", "pipe", "pipe"]
    })
    let found: ReadonlyArray<number> = []
    const committed: Array<number> = []
    let errors = ""
    child.stderr?.on("data", (chunk) => {
      errors += chunk
    })
    if (child.stdout !== null) {
      readline.createInterface({ input: child.stdout }).on("line", (line) => {
        const [word, value = ""] = line.split(" ")
        if (word === "found") found = JSON.parse(value)
        if (word === "committed") committed.push(Number(value))
        if (committed.length === commits) child.kill(signal)
      })
    }
    child.on("close", () => resume(Effect.succeed({ found, committed, errors })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-kill-"))),
  (path) => Effect.sync(() => fs.rmSync(path, { recursive: true }))
)

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1)

/** DB_SHUTDOWNED of `pg_control.h`, which follows the system identifier and two versions. */
const shutDown = 1
const state = (dataDir: string) =>
  fs.readFileSync(path.join(dataDir, "postgres/global/pg_control")).readUInt32LE(16)

describe("the embedded database", () => {
  it.live(
    "keeps every transaction it has acknowledged, and no half of one, through kill -9",
    () =>
      Effect.gen(function* () {
        const dataDir = yield* folder
        let acknowledged = 0
        for (const commits of thorough ? [1, 60, 7, 250, 33, 120, 2, 90] : [60, 1, 7]) {
          const life = yield* live(dataDir, "SIGKILL", commits)
          assert.isAtLeast(life.committed.length, commits, life.errors)
          // The one that was committed while the last life was killed may be there or not; all before it must be.
          assert.isAtLeast(life.found.length, acknowledged)
          assert.isAtMost(life.found.length, acknowledged + 1)
          assert.deepStrictEqual(life.found, upTo(life.found.length))
          assert.notStrictEqual(state(dataDir), shutDown)
          acknowledged = life.committed.at(-1) ?? 0
        }
      }),
    180_000
  )

  it.live(
    "is left clean by SIGTERM",
    () =>
      Effect.gen(function* () {
        const dataDir = yield* folder
        const life = yield* live(dataDir, "SIGTERM", 5)
        assert.isAtLeast(life.committed.length, 5, life.errors)
        assert.strictEqual(state(dataDir), shutDown)
        assert.deepStrictEqual(fs.readdirSync(dataDir), ["postgres"])
        assert.isFalse(fs.existsSync(path.join(dataDir, "postgres/postmaster.pid")))
      }),
    180_000
  )
})
