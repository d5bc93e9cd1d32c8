import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import { ask, eventually, historyOf, openStream } from "../support/ChatClient.ts"
import * as ServerProcess from "../support/ServerProcess.ts"
import { schemaUrl } from "../support/schemaUrl.ts"
import * as TestDb from "../support/TestDb.ts"

const startOn = (databaseUrl: string, baseUrl: string) =>
  ServerProcess.start({
    PORT: "0",
    DATABASE_URL: databaseUrl,
    LLM_BASE_URL: baseUrl,
    LLM_MODEL: "scripted",
    LOG_LEVEL: "None"
  })

const url = TestDb.serverUrl

describe.skipIf(url === undefined)("two processes on one PostgreSQL (TEST_DATABASE_URL)", () => {
  it.live("neither loses nor repeats a turn of the same session, nor runs two at once", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel.serve((body) =>
        Reply.text(["re: ", String(body.messages.at(-1)?.content)], { headDelayMillis: 30 })
      )
      const schema = yield* schemaUrl(url ?? "", "test")
      const first = yield* startOn(schema, model.baseUrl)
      const urls = [yield* first.url, yield* (yield* startOn(schema, model.baseUrl)).url]
      const messages = Array.from({ length: 12 }, (_, n) => `shared ${n}`)
      const replies = yield* Effect.forEach(
        messages,
        (message, n) => ask(`${urls[n % 2]}/api/v1/chat`, { message, session_id: "shared" }),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        replies.map(({ body }) => body.response),
        messages.map((message) => `re: ${message}`)
      )
      const history = yield* historyOf(urls[1] ?? "", "shared")
      assert.strictEqual(new Set(history.map(({ content }) => content)).size, 24)
      for (let n = 0; n < 24; n += 2) {
        assert.strictEqual(history[n + 1]?.content, `re: ${history[n]?.content}`)
      }
      // Each request tells all that was said before it, so none overlapped another.
      assert.deepStrictEqual(
        model.requests.map(({ body }) => body.messages.filter(({ role }) => role !== "system").length),
        messages.map((_, n) => 2 * n + 1)
      )
    })
  )

  it.live("the turn of a process that is killed is ended by the other, once, and the session goes on", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedModel.serve([
        Reply.text(["Half", " of it"], { fault: { after: 1, kind: "hang" } }),
        Reply.text("Here I am.")
      ])
      const schema = yield* schemaUrl(url ?? "", "test")
      const dying = yield* startOn(schema, model.baseUrl)
      const stream = yield* openStream(`${yield* dying.url}/api/v1/chat/stream`, {
        message: "Are you there?",
        session_id: "orphan"
      })
      yield* stream.until("delta")
      const other = yield* (yield* startOn(schema, model.baseUrl)).url
      yield* dying.kill("SIGKILL")
      yield* dying.exit
      const { body } = yield* ask(`${other}/api/v1/chat`, { message: "Hello?", session_id: "orphan" })
      assert.strictEqual(body.response, "Here I am.")
      assert.deepStrictEqual(
        (yield* historyOf(other, "orphan")).map(({ content, role }) => [role, content]),
        [
          ["user", "Are you there?"],
          ["user", "Hello?"],
          ["assistant", "Here I am."]
        ]
      )
      assert.strictEqual(model.requests.length, 2)
      yield* eventually(ask(`${other}/api/v1/health`), ({ status }) => status === 200)
    })
  )
})
