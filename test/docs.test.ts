import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), "utf8")

/** Lines without indentation and blank lines: a snippet may be moved to the left. */
const plain = (text: string) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .join("\n")

const snippets = [...read("docs/TESTING.md").matchAll(/(?:<!-- (\S+) -->\n)?```ts\n([\s\S]*?)```/g)]

describe("docs/TESTING.md", () => {
  it("has snippets", () => assert.isAbove(snippets.length, 5))

  for (const [n, [, path = "", code = ""]] of snippets.entries()) {
    it(`snippet ${n + 1} is part of ${path}`, () => {
      assert.match(path, /^examples\/.*\.ts$/)
      assert.include(plain(read(path)), plain(code))
    })
  }
})
