import { readFileSync, writeFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Effect, Exit, Redacted, Stream } from "effect"
import { Cassette, type CassetteOptions, Reply, ScriptedModel, TestApp } from "voice-agent-api/testing"
import * as LlmOpenAi from "../../src/llm/openai/LlmOpenAi.ts"
import { announced, settings } from "../llm/OpenAiProvider.ts"
import { tempFolder } from "../support/ServerProcess.ts"

const key = "sk-periwinkle-0123456789"
const urlKey = "query-marigold-42"
const configured = "tulip-configured"

/** Asks through the product's own client, with credentials in a header and in the query. */
const ask = Effect.fnUntraced(function* (baseUrl: string, prompt: string) {
  const provider = yield* LlmOpenAi.make(
    settings({ baseUrl: `${baseUrl}?api_key=${urlKey}&version=2`, apiKey: Redacted.make(key) })
  )
  const model = yield* provider.languageModel({ model: "m" })
  return yield* model.streamText({ prompt, ...announced }).pipe(
    Stream.runCollect,
    Effect.map((parts) => parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join(""))
  )
})

const recording = Effect.fnUntraced(function* (prompts: ReadonlyArray<string>) {
  const file = join(yield* tempFolder(), "cassettes/tape.json")
  const event = (text: string) => `data: {"choices":[{"delta":{"content":${JSON.stringify(text)}}}]}\n\n`
  const upstream = yield* ScriptedModel.serve((_, n) => {
    // The key comes back in the answer, also across two chunks.
    const text = `${event(`re ${n}: your key is ${key},`)}${event(` so ${key} and ${configured}.`)}data: [DONE]\n\n`
    const middle = text.lastIndexOf(key) + 9
    return Reply.raw([text.slice(0, middle), text.slice(middle)])
  })
  const replies = yield* Effect.scoped(
    Effect.gen(function* () {
      const { baseUrl } = yield* Cassette.make({
        file,
        upstream: upstream.baseUrl,
        mode: "record",
        secrets: [configured]
      })
      return yield* Effect.forEach(prompts, (prompt) => ask(baseUrl, prompt))
    })
  )
  return { file, replies, upstream }
})

/** Replays, and answers how that ended. */
const replay = (options: Omit<CassetteOptions, "upstream">, prompts: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const { baseUrl } = yield* Cassette.make({
      upstream: "http://nobody.invalid",
      mode: "replay",
      ...options
    })
    return yield* Effect.forEach(prompts, (prompt) => Effect.exit(ask(baseUrl, prompt)))
  }).pipe(Effect.scoped, Effect.exit)

const problemOf = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : ""

/** An upstream that sends the next piece of its answer when it is told to. */
const pieceByPiece = (pieces: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    let at = 0
    let next = () => {}
    const server = createServer((_, response) => {
      next = () => {
        const piece = pieces[at++]
        if (piece === undefined) response.end()
        else response.write(piece)
      }
      next()
    })
    yield* Effect.acquireRelease(
      Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
      () => Effect.sync(() => server.close())
    )
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, next: () => next() }
  })

describe("Cassette", () => {
  it.effect("records what a model answers and replays it, the model away, without secrets", () =>
    Effect.gen(function* () {
      const { file, replies, upstream } = yield* recording(["One?", "Two?"])
      assert.include(replies[0], `re 0: your key is ${key}`)
      assert.strictEqual(upstream.requests[0]?.headers.authorization, `Bearer ${key}`)
      assert.include(upstream.requests[0]?.path, urlKey)

      const text = readFileSync(file, "utf8")
      for (const secret of [
        key,
        key.slice(0, 9),
        key.slice(9),
        urlKey,
        configured,
        "authorization",
        "Bearer"
      ]) {
        assert.notInclude(text, secret)
      }
      const { exchanges } = JSON.parse(text)
      assert.lengthOf(exchanges, 2)
      assert.include(exchanges[0].request.path, "api_key=***&version=2")
      assert.deepStrictEqual(Object.keys(exchanges[0].response.headers), ["content-type"])

      const exit = yield* replay({ file, secrets: [configured] }, ["One?", "Two?"])
      assert.isTrue(Exit.isSuccess(exit), problemOf(exit))
      const played = Exit.isSuccess(exit)
        ? exit.value.map((each) => (Exit.isSuccess(each) ? each.value : ""))
        : []
      assert.deepStrictEqual(
        played,
        replies.map((reply) => reply.replaceAll(key, "***").replace(configured, "***"))
      )
      assert.lengthOf(upstream.requests, 2)
    })
  )

  it.effect("keeps the boundaries of chunks", () =>
    Effect.gen(function* () {
      const file = join(yield* tempFolder(), "tape.json")
      const pieces = ["data: {}\n\n", "data: 小", "明\n\n", "data: [DONE]\n\n"]
      const upstream = yield* pieceByPiece(pieces)
      /** Takes each piece before it lets the next one leave. */
      const read = (url: string, onPiece: () => void) =>
        Effect.promise(async () => {
          const response = await fetch(`${url}/chat/completions`, { method: "POST", body: '{"messages":[]}' })
          let text = ""
          for await (const piece of (response.body ?? new ReadableStream()).pipeThrough(
            new TextDecoderStream()
          )) {
            text += piece
            onPiece()
          }
          return text
        })
      const once = (mode: "record" | "replay", onPiece: () => void) =>
        Effect.scoped(
          Effect.flatMap(Cassette.make({ file, upstream: upstream.url, mode }), ({ baseUrl }) =>
            read(baseUrl, onPiece)
          )
        )
      assert.strictEqual(yield* once("record", upstream.next), pieces.join(""))
      assert.deepStrictEqual(JSON.parse(readFileSync(file, "utf8")).exchanges[0].response.chunks, pieces)
      assert.strictEqual(yield* once("replay", () => {}), pieces.join(""))
    })
  )

  it.effect("fails with what differs when a request no longer matches", () =>
    Effect.gen(function* () {
      const { file } = yield* recording(["One?"])
      const exit = yield* replay({ file }, ["Another?"])
      assert.include(
        problemOf(exit),
        `does not match what comes next in ${file}:
  request.body.messages[0].content
    recorded: "One?"
    got:      "Another?"`
      )
      assert.notInclude(problemOf(exit), urlKey)
      assert.include(problemOf(exit), "was not asked")
    })
  )

  it.effect("fails when an exchange is left over, when one is missing, and when there is no recording", () =>
    Effect.gen(function* () {
      const { file } = yield* recording(["One?", "Two?"])
      assert.include(problemOf(yield* replay({ file }, ["One?"])), "was not asked")
      assert.include(
        problemOf(yield* replay({ file }, ["One?", "Two?", "One?"])),
        "was asked once more than was recorded"
      )
      assert.include(problemOf(yield* replay({ file: `${file}.none` }, [])), "CASSETTE_MODE=record")
    })
  )

  it.effect("leaves out of the comparison what a test says", () =>
    Effect.gen(function* () {
      const { file } = yield* recording(["One?"])
      const tape = JSON.parse(readFileSync(file, "utf8"))
      tape.exchanges[0].request.body = { model: "m" }
      writeFileSync(file, JSON.stringify(tape))
      const normalize = (body: unknown) => ({ model: (body as { model: string }).model })
      const exit = yield* replay({ file, normalize }, ["Whatever?"])
      assert.isTrue(Exit.isSuccess(exit), problemOf(exit))
    })
  )

  it.effect("stands in for the model of an app, as CASSETTE_MODE says", () =>
    Effect.gen(function* () {
      const file = join(yield* tempFolder(), "tape.json")
      const upstream = yield* ScriptedModel.serve([Reply.text("Hello there.", { delayMillis: 0 })])
      const turn = (mode: string) =>
        Effect.gen(function* () {
          const cassette = yield* Cassette.make({ file, upstream: upstream.baseUrl })
          const app = yield* TestApp.make({
            provider: LlmOpenAi.layer,
            settings: { LLM_BASE_URL: cassette.baseUrl, LLM_MODEL: "m", LLM_API_KEY: key }
          })
          return [cassette.mode, (yield* app.turn("Hi")).reply]
        }).pipe(
          Effect.scoped,
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ CASSETTE_MODE: mode })))
        )
      assert.deepStrictEqual(yield* turn("record"), ["record", "Hello there."])
      assert.deepStrictEqual(yield* turn(""), ["replay", "Hello there."])
      assert.lengthOf(upstream.requests, 1)
    })
  )
})
