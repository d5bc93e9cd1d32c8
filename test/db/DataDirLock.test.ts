import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as DataDirLock from "../../src/db/DataDirLock.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-lock-"))),
  (path) => Effect.sync(() => fs.rmSync(path, { recursive: true }))
)

const lockFile = (directory: string) => path.join(directory, "postgres.lock")

/** The lock as this process writes it, then changed. */
const leave = Effect.fnUntraced(function* (directory: string, change: object) {
  const own = yield* Effect.scoped(
    Effect.map(DataDirLock.acquire(directory), () => JSON.parse(fs.readFileSync(lockFile(directory), "utf8")))
  )
  fs.writeFileSync(lockFile(directory), JSON.stringify({ ...own, token: "another", ...change }))
})

const taken = (directory: string) => Effect.scoped(DataDirLock.acquire(directory))

/** The id of a process that has ended. */
const endedPid = () => spawnSync(process.execPath, ["--version"]).pid

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

  it.effect("goes to exactly one of many", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* leave(directory, { pid: endedPid() })
      const exits = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => Effect.exit(DataDirLock.acquire(directory)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(exits.filter((exit) => exit._tag === "Success").length, 1)
      assert.deepStrictEqual(fs.readdirSync(directory), ["postgres.lock"])
    })
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
      yield* leave(directory, { start: "another boot/1" })
      yield* taken(directory)
    })
  )

  it.effect("that is damaged is taken over", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      for (const text of ["", "{", `{"pid":"1"}`]) {
        fs.writeFileSync(lockFile(directory), text)
        yield* taken(directory)
      }
    })
  )

  it.effect("of another host holds while it is fresh, since its processes cannot be seen from here", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* leave(directory, { host: "elsewhere", pid: endedPid() })
      const error = yield* Effect.flip(taken(directory))
      assert.include(error.message, "on host elsewhere is using it")
      const minuteAgo = new Date(Date.now() - 60_000)
      fs.utimesSync(lockFile(directory), minuteAgo, minuteAgo)
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
