import { readdirSync, readFileSync } from "node:fs"
import path from "node:path"
import { assert, describe, it } from "@effect/vitest"

const root = path.join(import.meta.dirname, "../src")

/** The folders of src from the ground up; files that lie in src itself stand for themselves. Each may import what stands before it. */
const floors = [
  "version.ts",
  "api",
  "net",
  "Config.ts",
  "observability",
  "db",
  "traces",
  "llm",
  "llm/offline",
  "llm/openai",
  "tools",
  "tools/builtin",
  "sessions",
  "agent",
  "turns",
  "operations",
  "http",
  "Server.ts",
  "testing",
  "launch.ts",
  "index.ts",
  "main.ts",
  "start.js"
]

/** Steps up that are meant. */
const allowed = new Set([
  // The port's default layer offers the tools that come with it.
  "tools -> tools/builtin"
])

const sources = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((file) =>
  /\.(ts|js)$/.test(file)
)

const roomOf = (file: string) => {
  const folder = path.dirname(file)
  return folder === "." ? file : folder
}

const importsOf = (file: string) =>
  Array.from(
    readFileSync(path.join(root, file), "utf8").matchAll(/(?:\bfrom|\bimport\(|^import)\s*"(\.[^"]+)"/gm),
    ([, target = ""]) => path.normalize(path.join(path.dirname(file), target))
  )

describe("the sources", () => {
  it("have every folder on a floor", () => {
    const rooms = new Set(sources.map(roomOf))
    assert.deepStrictEqual([...rooms].sort(), [...floors].sort())
  })

  it("import downwards only", () => {
    const upward = sources.flatMap((file) =>
      importsOf(file).flatMap((target) => {
        const [from, to] = [roomOf(file), roomOf(target)]
        return floors.indexOf(from) < floors.indexOf(to) && !allowed.has(`${from} -> ${to}`)
          ? [`${file} imports ${target}`]
          : []
      })
    )
    assert.deepStrictEqual(upward, [])
  })

  it("are found to import something, so that this looks at them at all", () => {
    assert.include(importsOf("Server.ts"), "turns/Turns.ts")
  })
})
