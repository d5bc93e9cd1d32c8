import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { contentOf } from "../../src/tools/ToolContent.ts"
import { Tools } from "../../src/tools/Tools.ts"
import { probe } from "./Probe.ts"

describe("the content for a model", () => {
  const article = { title: "T", body: "word ".repeat(5000) }

  it("is the JSON itself while it fits", () => {
    assert.strictEqual(contentOf({ a: [1, "é"] }, 200), '{"a":[1,"é"]}')
  })

  it("cuts long strings first, and says how much is missing", () => {
    const content = contentOf({ results: Array(4).fill(article), total: 4 }, 8000)
    assert.isAtMost(content.length, 8000)
    const data = JSON.parse(content)
    assert.lengthOf(data.results, 4)
    assert.strictEqual(data.total, 4)
    assert.match(data.results[3].body, /^word .*… \[cut: 24000 more characters\]$/u)
  })

  it("then leaves out the ends of lists and objects", () => {
    const content = contentOf(
      { rows: Array.from({ length: 3000 }, (_, id) => ({ id, name: `row ${id}` })) },
      8000
    )
    assert.isAtMost(content.length, 8000)
    const { rows } = JSON.parse(content)
    assert.deepStrictEqual(rows[0], { id: 0, name: "row 0" })
    assert.match(rows.at(-1), /^\[cut: \d+ more\]$/u)
    const wide = contentOf(
      Object.fromEntries(Array.from({ length: 3000 }, (_, id) => [`key ${id}`, id])),
      8000
    )
    assert.match(JSON.parse(wide)["[cut]"], /^\d+ more$/u)
  })

  it("is the beginning as text when nothing else helps", () => {
    const bush = (depth: number): Schema.Json => (depth === 0 ? "leaf" : Array(4).fill(bush(depth - 1)))
    const content = contentOf(bush(7), 300)
    assert.isAtMost(content.length, 300)
    assert.match(JSON.parse(content).cut, /^\[\[\[.*… \[\d+ more characters\]$/u)
  })

  it.prop(
    "is valid JSON within the limit, whatever the data",
    {
      data: Schema.Json,
      limit: Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 9000 })),
      copies: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 500 }))
    },
    ({ copies, data, limit }) => {
      for (const value of [data, Array(copies).fill(data), '\u0001"\\😀'.repeat(copies * 9)]) {
        const content = contentOf(value, limit)
        assert.isAtMost(content.length, limit)
        assert.isTrue(content.isWellFormed())
        JSON.parse(content)
      }
    }
  )

  it.effect("is bounded at 8,000 characters, while people get everything", () =>
    Effect.gen(function* () {
      const tools = yield* Tools
      const result = yield* tools.call("probe", {})
      assert.isAtMost(result.content.length, 8000)
      assert.deepStrictEqual(result.data, { ...article })
    }).pipe(Effect.provide(probe(() => Effect.succeed(article))))
  )
})
