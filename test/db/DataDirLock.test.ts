import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import * as readline from "node:readline"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as DataDirLock from "../../src/db/DataDirLock.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-lock-"))),
  (path) => Effect.sync(() => fs.rmSync(path, { recursive: true }))
)

/** What is in the directory while it is locked: one file, whose name says who holds it. */
const lockOf = (directory: string) => {
  const names = fs.readdirSync(directory)
  assert.strictEqual(names.length, 1, names.join(" "))
  return names[0] ?? ""
}

/** Leaves a lock behind as this process would, but for some fields. Answers its file. */
const leave = Effect.fnUntraced(function* (
  directory: string,
  change: { readonly pid?: number; readonly start?: string; readonly host?: string }
) {
  const own = yield* Effect.scoped(Effect.map(DataDirLock.acquire(directory), () => lockOf(directory)))
  const [stage, pid, start, host, token] = own.split(",")
  const fields = [stage, change.pid ?? pid, change.start ?? start, change.host ?? host, `${token}0`]
  const file = path.join(directory, fields.join(","))
  fs.writeFileSync(file, "")
  return file
})

const taken = (directory: string) => Effect.scoped(DataDirLock.acquire(directory))

/** The id of a process that has ended. */
const endedPid = () => spawnSync(process.execPath, ["--version"]).pid

const lockTaker = fileURLToPath(new URL("./LockTaker.ts", import.meta.url))

/** A `LockTaker.ts`, killed with the scope. */
const taker = (directory: string) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => spawn(process.execPath, [lockTaker, directory])),
      (child) => Effect.sync(() => child.kill("SIGKILL"))
    ),
    (child) => {
      const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      return {
        go: Effect.sync(() => child.stdin.write("go\n")),
        said: Effect.map(
          Effect.promise(() => lines.next()),
          ({ value }) => value
        )
      }
    }
  )

describe("the lock of a data directory", () => {
  it.effect("is held for the life of the scope, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* DataDirLock.acquire(directory)
          const error = yield* Effect.flip(taken(directory))
          assert.include(error.message, `${directory} cannot be used: process ${process.pid} is using it`)
        })
      )
      assert.deepStrictEqual(fs.readdirSync(directory), [])
      yield* taken(directory)
    })
  )

  it.live(
    "of a process that was killed goes to exactly one of many that start at once",
    () =>
      Effect.gen(function* () {
        const directory = yield* folder
        yield* leave(directory, { pid: endedPid() })
        const takers = yield* Effect.forEach(Array.from({ length: 6 }), () => taker(directory))
        for (const { said } of takers) assert.strictEqual(yield* said, "ready")
        for (const { go } of takers) yield* go
        const words = yield* Effect.forEach(takers, ({ said }) => said)
        assert.deepStrictEqual(words.sort(), ["refused", "refused", "refused", "refused", "refused", "taken"])
        assert.match(lockOf(directory), /^postgres\.lock,/)
      }),
    180_000
  )

  it.effect("of a process that was killed is taken over", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* leave(directory, { pid: endedPid() })
      yield* taken(directory)
    })
  )

  it.effect("of a process whose id another one has now is taken over", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* leave(directory, { start: "another-boot" })
      yield* taken(directory)
    })
  )

  it.effect("of a process that was killed while it tried is cleared away", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const file = yield* leave(directory, { pid: endedPid() })
      fs.renameSync(file, file.replace("postgres.lock,", "postgres.try,"))
      yield* taken(directory)
      assert.deepStrictEqual(fs.readdirSync(directory), [])
    })
  )

  it.effect("leaves the files of others alone", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const names = ["100%,of", "postgres.initializing", "postgres.lock"]
      for (const name of names) fs.writeFileSync(path.join(directory, name), "")
      yield* taken(directory)
      assert.deepStrictEqual(fs.readdirSync(directory).sort(), names)
    })
  )

  it.effect("of another host holds while it is fresh, since its processes cannot be seen from here", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const file = yield* leave(directory, { host: "elsewhere", pid: endedPid() })
      const error = yield* Effect.flip(taken(directory))
      assert.include(error.message, "on host elsewhere is using it")
      const minuteAgo = new Date(Date.now() - 60_000)
      fs.utimesSync(file, minuteAgo, minuteAgo)
      yield* taken(directory)
    })
  )

  it.effect("says what is wrong with a directory that cannot be written to", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* folder, "missing")
      const error = yield* Effect.flip(taken(directory))
      assert.strictEqual(error._tag, "DataDirLocked")
      assert.include(error.message, "ENOENT")
    })
  )
})
