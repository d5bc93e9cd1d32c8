import { assert, describe, it } from "@effect/vitest"
import type { Response } from "effect/ai"
import { encodeStream, Reply, type ScriptedToolCall, type ToolCallStyle } from "voice-agent-api/testing"
import { CompletionParts, wholeParts } from "../../../src/llm/openai/LlmOpenAiParts.ts"
import { SseReader } from "../../../src/net/SseReader.ts"

/** A generator of numbers in [0, 1) that repeats for a seed, so that a failure can be looked at again. */
const seeded = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

const splitAtRandom = <A extends { readonly length: number; slice(from: number, to: number): A }>(
  whole: A,
  random: () => number,
  most: number
): Array<A> => {
  const pieces: Array<A> = []
  for (let at = 0; at < whole.length; ) {
    const next = Math.min(whole.length, at + 1 + Math.floor(random() * most))
    pieces.push(whole.slice(at, next))
    at = next
  }
  return pieces
}

type Parts = Array<Response.StreamPartEncoded>

const read = (chunks: ReadonlyArray<Uint8Array | string>) => {
  const parts = new CompletionParts({ method: "streamText", model: "asked" })
  const taken: Array<Parts> = []
  for (const chunk of chunks) {
    parts.feed(typeof chunk === "string" ? Buffer.from(chunk) : chunk)
    const now = parts.take()
    if (now.length > 0) taken.push(now)
  }
  parts.end()
  const last = parts.take()
  if (last.length > 0) taken.push(last)
  return { taken, parts: taken.flat(), failure: parts.failure, isDone: parts.isDone }
}

const textOf = (parts: Parts) => parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join("")
const reasoningOf = (parts: Parts) =>
  parts.map((part) => (part.type === "reasoning-delta" ? part.delta : "")).join("")
const callsOf = (parts: Parts) =>
  parts.flatMap((part) => (part.type === "tool-call" ? [{ name: part.name, params: part.params }] : []))
const finishOf = (parts: Parts) => parts.find((part) => part.type === "finish")

const chunk = (delta: unknown, finishReason: string | null = null) =>
  `data: ${JSON.stringify({ id: "c", model: "m", choices: [{ index: 0, delta, finish_reason: finishReason }] })}\n\n`
const done = "data: [DONE]\n\n"

/** The bytes a scripted server would send. */
const bytesOf = (reply: ReturnType<typeof Reply.text>) => {
  const stream = encodeStream(reply, { request: 0, model: "m", includeUsage: true })
  const tokens = [...stream.tokens]
  return Buffer.from(stream.head + tokens.join("") + stream.tail(tokens.length))
}

describe("SseReader", () => {
  const events = (...chunks: Array<string | Uint8Array>) => {
    const found: Array<[string, string]> = []
    const reader = new SseReader((data, event) => found.push([data, event]))
    for (const piece of chunks) reader.feed(typeof piece === "string" ? Buffer.from(piece) : piece)
    reader.end()
    return found
  }

  it("takes CRLF, comments, a missing space, several data lines, names, and a missing last blank line", () => {
    assert.deepStrictEqual(events("data: a\r\n\r\ndata:b\r\n\r\n"), [
      ["a", ""],
      ["b", ""]
    ])
    assert.deepStrictEqual(events(": ping\n\n:\nid: 1\nretry: 5\ndata: a\n\n"), [["a", ""]])
    assert.deepStrictEqual(events("data: a\ndata: b\n\n"), [["a\nb", ""]])
    assert.deepStrictEqual(events("event: error\ndata: x\n\ndata: y\n\n"), [
      ["x", "error"],
      ["y", ""]
    ])
    assert.deepStrictEqual(events("data: a\n\ndata: last"), [
      ["a", ""],
      ["last", ""]
    ])
    assert.deepStrictEqual(events("\uFEFFdata: a\n\n"), [["a", ""]])
    assert.deepStrictEqual(events("data:  two spaces\n\n"), [[" two spaces", ""]])
  })

  it("gives the same events wherever the bytes are cut, CRLF and characters included", () => {
    const whole = Buffer.from('data: {"a":"héllo 🌍 你好"}\r\n\r\n: c\r\n\r\nevent: e\r\ndata: 好\r\n\r\n')
    const expected = events(whole)
    assert.strictEqual(expected.length, 2)
    for (let at = 1; at < whole.length; at++) {
      assert.deepStrictEqual(events(whole.subarray(0, at), whole.subarray(at)), expected, `cut at ${at}`)
    }
  })

  it("refuses an event without an end", () => {
    const reader = new SseReader(() => {})
    const piece = Buffer.alloc(1024 * 1024, "a")
    assert.throws(() => {
      for (let n = 0; n < 12; n++) reader.feed(piece)
    }, /longer than/)
  })
})

describe("CompletionParts", () => {
  it("merges what one network chunk brings", () => {
    const { taken } = read([
      chunk({ content: "a" }) + chunk({ content: "b" }),
      chunk({ content: "c" }),
      chunk({}, "stop") + done
    ])
    assert.deepStrictEqual(
      taken.map((parts) => parts.map((part) => part.type)),
      [["response-metadata", "text-start", "text-delta"], ["text-delta"], ["text-end", "finish"]]
    )
    assert.deepInclude(taken[0]?.[2], { type: "text-delta", delta: "ab" })
  })

  it("says first who answers: the server's name for the model, or the one asked for", () => {
    assert.deepInclude(read([chunk({ content: "a" }, "stop"), done]).parts[0], {
      type: "response-metadata",
      modelId: "m"
    })
    const nameless = `data: ${JSON.stringify({ choices: [{ delta: { content: "a" }, finish_reason: "stop" }] })}\n\n`
    assert.deepInclude(read([nameless, done]).parts[0], { type: "response-metadata", modelId: "asked" })
  })

  it("gives the same reply wherever the bytes are cut", () => {
    const reply = Reply.toolCalls(
      [
        { name: "a", arguments: { city: "München", n: 1 } },
        { name: "b", arguments: { q: "你好 🌍" } }
      ],
      { text: ["Grüße ", "aus ", "東京 ", "🗼"], reasoning: ["hmm ", "嗯"], pieces: 5, interleaved: true }
    )
    const bytes = bytesOf(reply)
    for (let seed = 0; seed < 300; seed++) {
      const random = seeded(seed)
      const { failure, parts } = read(splitAtRandom(bytes, random, seed % 2 === 0 ? 4 : 200))
      assert.isUndefined(failure)
      assert.strictEqual(textOf(parts), "Grüße aus 東京 🗼", `seed ${seed}`)
      assert.strictEqual(reasoningOf(parts), "hmm 嗯", `seed ${seed}`)
      assert.deepStrictEqual(
        callsOf(parts),
        [
          { name: "a", params: { city: "München", n: 1 } },
          { name: "b", params: { q: "你好 🌍" } }
        ],
        `seed ${seed}`
      )
      assert.deepInclude(finishOf(parts), { reason: "tool-calls" })
    }
  })

  it("puts tool calls together, however they are cut and numbered", () => {
    const values = ["x", 'a "quoted" {brace}', "你好", "", "line\nend", "}{", "\\"]
    for (let seed = 0; seed < 500; seed++) {
      const random = seeded(seed)
      const pick = <A>(items: ReadonlyArray<A>): A => items[Math.floor(random() * items.length)] as A
      const calls = Array.from(
        { length: 1 + Math.floor(random() * 3) },
        (_, n): ScriptedToolCall => ({
          name: pick(["alpha", "beta", "gamma"]),
          arguments: { [`k${n}`]: pick(values), nested: { list: [1, pick(values)] } }
        })
      )
      const index = random() < 0.5
      const style: ToolCallStyle = {
        index,
        ids: pick(["first", "every", "none"]),
        nameApart: random() < 0.5,
        interleaved: index && random() < 0.5,
        pieces: (json) => splitAtRandom(json, random, 1 + Math.floor(random() * 20))
      }
      const { failure, parts } = read([bytesOf(Reply.toolCalls(calls, style))])
      const note = `seed ${seed} ${JSON.stringify(style)}`
      assert.isUndefined(failure, note)
      assert.deepStrictEqual(
        callsOf(parts),
        calls.map((call) => ({ name: call.name, params: call.arguments })),
        note
      )
      const ids = parts.flatMap((part) => (part.type === "tool-call" ? [part.id] : []))
      assert.strictEqual(new Set(ids).size, calls.length, note)
      assert.isTrue(
        ids.every((id) => id !== ""),
        note
      )
      // What was announced in pieces adds up to the call.
      for (const [n, id] of ids.entries()) {
        const announced = parts.map((part) =>
          part.type === "tool-params-delta" && part.id === id ? part.delta : ""
        )
        const whole = announced.join("")
        if (whole !== "") assert.deepStrictEqual(JSON.parse(whole), calls[n]?.arguments, note)
      }
    }
  })

  const toolDelta = (call: unknown) => chunk({ tool_calls: [call] })

  it("tells calls apart on servers that number them all 0, and keeps one whose ids change", () => {
    const sameIndex = read([
      toolDelta({ index: 0, id: "a", function: { name: "f", arguments: '{"n":1}' } }),
      toolDelta({ index: 0, id: "b", function: { name: "f", arguments: '{"n":2}' } }),
      chunk({}, "tool_calls")
    ])
    assert.deepStrictEqual(callsOf(sameIndex.parts), [
      { name: "f", params: { n: 1 } },
      { name: "f", params: { n: 2 } }
    ])
    const changingIds = read([
      toolDelta({ index: 0, id: "r1", function: { name: "f", arguments: '{"n"' } }),
      toolDelta({ index: 0, id: "r2", function: { arguments: ":1" } }),
      toolDelta({ id: "r3", function: { arguments: "}" } }),
      chunk({}, "tool_calls")
    ])
    assert.deepStrictEqual(callsOf(changingIds.parts), [{ name: "f", params: { n: 1 } }])
  })

  it("begins another call at a new name after complete or no arguments, with neither index nor id", () => {
    const { parts } = read([
      toolDelta({ function: { name: "noargs", arguments: "" } }),
      toolDelta({ function: { name: "f", arguments: '{"n"' } }),
      toolDelta({ function: { name: "f", arguments: ":1}" } }),
      toolDelta({ function: { name: "f", arguments: '{"n":2}' } }),
      chunk({}, "stop")
    ])
    assert.deepStrictEqual(callsOf(parts), [
      { name: "noargs", params: {} },
      { name: "f", params: { n: 1 } },
      { name: "f", params: { n: 2 } }
    ])
    // A server that says `stop` after tool calls means the calls.
    assert.deepInclude(finishOf(parts), { reason: "tool-calls" })
  })

  it("passes arguments that are no JSON, or dangerous, as the text they came as", () => {
    const { parts } = read([
      bytesOf(
        Reply.toolCalls([
          { name: "f", arguments: '{"n": 1' },
          { name: "g", arguments: '{"__proto__":{"x":1}}' },
          { name: "h", arguments: "" }
        ])
      )
    ])
    assert.deepStrictEqual(callsOf(parts), [
      { name: "f", params: '{"n": 1' },
      { name: "g", params: '{"__proto__":{"x":1}}' },
      { name: "h", params: {} }
    ])
  })

  it("keeps reasoning out of the text, under either name", () => {
    const { parts } = read([
      chunk({ reasoning_content: "let me " }),
      chunk({ reasoning: "think" }),
      chunk({ content: "Hi" }),
      chunk({}, "stop"),
      done
    ])
    assert.strictEqual(textOf(parts), "Hi")
    assert.strictEqual(reasoningOf(parts), "let me think")
    assert.deepStrictEqual(
      parts.map((part) => part.type),
      [
        "response-metadata",
        "reasoning-start",
        "reasoning-delta",
        "reasoning-delta",
        "reasoning-end",
        "text-start",
        "text-delta",
        "text-end",
        "finish"
      ]
    )
  })

  it("reads usage wherever it stands, and does without", () => {
    const usage = {
      prompt_tokens: 100,
      completion_tokens: 30,
      prompt_tokens_details: { cached_tokens: 40 },
      completion_tokens_details: { reasoning_tokens: 10 }
    }
    const apart = read([
      chunk({ content: "a" }, "stop"),
      `data: ${JSON.stringify({ choices: [], usage })}\n\n`,
      done
    ])
    assert.deepStrictEqual(finishOf(apart.parts), {
      type: "finish",
      reason: "stop",
      usage: {
        inputTokens: { uncached: 60, total: 100, cacheRead: 40, cacheWrite: undefined },
        outputTokens: { total: 30, text: 20, reasoning: 10 }
      }
    })
    const none = read([chunk({ content: "a" }, "stop"), done])
    assert.deepNestedInclude(finishOf(none.parts), { "usage.inputTokens.total": undefined })
    const odd = read([
      chunk({ content: "a" }, "stop"),
      'data: {"choices":[],"usage":{"prompt_tokens":1.5,"completion_tokens":"3"}}\n\n',
      done
    ])
    assert.isUndefined(odd.failure)
    assert.deepNestedInclude(finishOf(odd.parts), {
      "usage.inputTokens.total": undefined,
      "usage.outputTokens.total": undefined
    })
  })

  it("maps finish reasons", () => {
    const reasonOf = (reason: string) => {
      const finish = finishOf(read([chunk({ content: "a" }, reason), done]).parts)
      return finish?.type === "finish" ? finish.reason : undefined
    }
    assert.deepStrictEqual(
      ["stop", "length", "content_filter", "tool_calls", "eos", "whatever"].map(reasonOf),
      ["stop", "length", "content-filter", "tool-calls", "stop", "other"]
    )
  })

  it("needs a finish reason or [DONE], not both; without either the stream was cut", () => {
    const noDone = read([chunk({ content: "a" }, "stop")])
    assert.isUndefined(noDone.failure)
    assert.deepInclude(finishOf(noDone.parts), { reason: "stop" })
    const noReason = read([chunk({ content: "a" }), done])
    assert.isUndefined(noReason.failure)
    assert.deepInclude(finishOf(noReason.parts), { reason: "unknown" })
    const cut = read([chunk({ content: "a" })])
    assert.strictEqual(cut.failure?.reason._tag, "NetworkError")
    assert.strictEqual(textOf(cut.parts), "a")
    assert.isUndefined(finishOf(cut.parts))
    assert.strictEqual(read([]).failure?.reason._tag, "NetworkError")
  })

  it("ignores what follows [DONE]", () => {
    const { failure, parts } = read([
      `${chunk({ content: "a" }, "stop")}${done}data: {not json\n\n`,
      chunk({ content: "b" })
    ])
    assert.isUndefined(failure)
    assert.strictEqual(textOf(parts), "a")
    assert.strictEqual(parts.filter((part) => part.type === "finish").length, 1)
  })

  it("fails for a chunk that is no JSON, after what came before it", () => {
    const { failure, parts } = read([
      `${chunk({ content: "a" })}data: {not json\n\n${chunk({ content: "b" }, "stop")}`
    ])
    assert.strictEqual(failure?.reason._tag, "InvalidResponseError")
    assert.strictEqual(textOf(parts), "a")
    assert.strictEqual(read(["data: 42\n\n"]).failure?.reason._tag, "InvalidResponseError")
  })

  it("fails for an error in the middle, as what its code says", () => {
    const tagOf = (data: string) => read([chunk({ content: "a" }), data]).failure?.reason._tag
    assert.strictEqual(
      tagOf('data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'),
      "InternalProviderError"
    )
    assert.strictEqual(tagOf('data: {"error":{"message":"slow down","code":429}}\n\n'), "RateLimitError")
    assert.strictEqual(
      tagOf('data: {"error":{"message":"slow down","code":"rate_limit_exceeded"}}\n\n'),
      "RateLimitError"
    )
    assert.strictEqual(tagOf('data: {"error":"just text"}\n\n'), "InternalProviderError")
    assert.strictEqual(tagOf('event: error\ndata: {"message":"bad","status":400}\n\n'), "InvalidRequestError")
  })

  it("reads an answer that did not stream", () => {
    const parts = new CompletionParts({ method: "generateText", model: "asked" })
    parts.whole({
      id: "c",
      model: "m",
      choices: [
        {
          message: {
            content: "Hi",
            reasoning_content: "hm",
            tool_calls: [{ id: "t", function: { name: "f", arguments: '{"n":1}' } }]
          },
          finish_reason: "tool_calls"
        }
      ],
      usage: { prompt_tokens: 1, completion_tokens: 2 }
    })
    assert.isUndefined(parts.failure)
    assert.deepStrictEqual(
      wholeParts(parts.take()).map((part) => part.type),
      ["response-metadata", "reasoning", "text", "tool-call", "finish"]
    )
    const empty = new CompletionParts({ method: "generateText", model: "asked" })
    empty.whole({ choices: [] })
    assert.strictEqual(empty.failure?.reason._tag, "InvalidResponseError")
  })
})
