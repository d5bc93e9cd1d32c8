import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import type { Prompt } from "effect/ai"
import { buildPrompt, estimateTokens, type TurnRecord } from "../../src/agent/Prompt.ts"
import { Transcript } from "../../src/agent/Transcript.ts"

/** One turn as it happened up to where it was interrupted. */
const Happened = Schema.Struct({
  user: Schema.String.check(Schema.isBetweenLength(1, 200)),
  steps: Schema.Array(
    Schema.Struct({
      text: Schema.String.check(Schema.isMaxLength(60)),
      /** Which of the step's calls had finished; the others were interrupted. */
      finished: Schema.Array(Schema.Boolean).check(Schema.isMaxLength(4))
    })
  ).check(Schema.isMaxLength(7)),
  last: Schema.String.check(Schema.isMaxLength(60))
})

let minted = 0

const happen = ({ user, steps, last }: typeof Happened.Type): TurnRecord => {
  const transcript = new Transcript(user, "m")
  steps.forEach(({ text, finished }, step) => {
    transcript.add({ type: "text", text })
    const calls = finished.map(() => ({
      id: `call_${minted++}`,
      name: "calculator",
      arguments: '{"expression":"1+1"}'
    }))
    transcript.add({ type: "step_finished", step, calls })
    const result = { content: '{"result":2}', success: true, error: null, durationMillis: 1 }
    calls.forEach((call, position) => {
      if (finished[position]) transcript.add({ type: "tool_finished", step, position, call, result })
    })
  })
  transcript.add({ type: "text", text: last })
  return transcript.record
}

/** What is wrong with a prompt, as a model's server would see it. */
const faultOf = (prompt: Prompt.Prompt): string | undefined => {
  const [system, ...messages] = prompt.content
  if (system?.role !== "system") return "no system prompt"
  if (messages[0]?.role !== "user") return "does not begin with the user"
  let open: ReadonlyArray<string> = []
  for (const [i, message] of messages.entries()) {
    if (message.role === "tool") {
      const results = message.content.map((part) => (part.type === "tool-result" ? part.id : ""))
      if (results.join() !== open.join()) return `results ${results} for calls ${open}`
      open = []
      continue
    }
    if (open.length > 0) return `calls ${open} without results`
    if (message.role === "user" && messages[i - 1]?.role === "user") return "two user messages in a row"
    if (message.role === "assistant") {
      open = message.content.flatMap((part) => (part.type === "tool-call" ? [part.id] : []))
      if (message.content.length === 0) return "an empty assistant message"
    }
  }
  return open.length > 0 ? `calls ${open} without results` : undefined
}

describe("buildPrompt", () => {
  it.prop(
    "is valid whatever was interrupted, and whatever the budget leaves out",
    {
      history: Schema.Array(Happened).check(Schema.isMaxLength(6)),
      current: Happened,
      budget: Schema.Int.check(Schema.isBetween({ minimum: 100, maximum: 3000 }))
    },
    ({ history, current, budget }) => {
      const prompt = buildPrompt(history.map(happen), { ...happen({ ...current, last: "" }) }, budget)
      assert.isUndefined(faultOf(prompt))
    },
    { arbitrary: { runs: 300 } }
  )

  const turn = (n: number): TurnRecord => ({ user: `question ${n}`, reply: `answer ${n}`, calls: [] })

  it("leaves out whole turns, oldest first, and never the message to be answered", () => {
    const history = Array.from({ length: 50 }, (_, n) => turn(n))
    const texts = (budget: number) => JSON.stringify(buildPrompt(history, turn(99), budget))
    assert.include(texts(100_000), "question 0")
    const some = texts(500)
    assert.notInclude(some, "question 0")
    assert.include(some, "question 49")
    assert.include(some, "answer 49")
    const none = texts(0)
    assert.notInclude(none, "answer 49")
    assert.include(none, "question 99")
  })

  it("keeps each call at its place in the reply", () => {
    const prompt = buildPrompt(
      [
        {
          user: "2+2?",
          reply: "Let me see. Four.",
          calls: [
            {
              step: 0,
              id: "c1",
              name: "calculator",
              arguments: '{"expression":"2+2"}',
              textOffset: 12,
              result: '{"result":4}',
              success: true,
              durationMillis: 1
            }
          ]
        }
      ],
      turn(1),
      8000
    )
    assert.deepStrictEqual(
      prompt.content
        .slice(1, 5)
        .map((message) => [
          message.role,
          typeof message.content === "string"
            ? []
            : message.content.map((part) => ("text" in part ? part.text : part.type))
        ]),
      [
        ["user", ["2+2?"]],
        ["assistant", ["Let me see. ", "tool-call"]],
        ["tool", ["tool-result"]],
        ["assistant", ["Four."]]
      ]
    )
  })

  it("joins a message that got no reply to the next one", () => {
    const prompt = buildPrompt([turn(0), { user: "lost", reply: "", calls: [] }], turn(2), 8000)
    assert.isUndefined(faultOf(prompt))
    assert.include(JSON.stringify(prompt.content.at(-2)), "lost\\n\\nquestion 2")
  })

  it("counts English at about four characters a token and Chinese at about one", () => {
    assert.closeTo(estimateTokens("a".repeat(400)), 100, 20)
    assert.closeTo(estimateTokens("名".repeat(100)), 100, 20)
  })
})
