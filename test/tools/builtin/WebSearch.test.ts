import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Logger } from "effect"
import { FetchHttpClient } from "effect/http"
import { AppConfig } from "../../../src/Config.ts"
import { Tools } from "../../../src/tools/Tools.ts"
import { type HttpRecorder, json, makeHttpRecorder, text } from "../../support/HttpRecorder.ts"
import { record } from "../RecordingTracer.ts"

const configured = (environment: Record<string, string>) =>
  AppConfig.layer.pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(environment))))

const layer = (
  upstream: HttpRecorder,
  environment: Record<string, string> = { TAVILY_API_KEY: "tvly-secret" }
) =>
  Tools.layerWith({ webSearch: `${upstream.url}/search` }).pipe(
    Layer.provide([configured(environment), FetchHttpClient.layer])
  )

// As https://docs.tavily.com/documentation/api-reference/endpoint/search gives it.
const found = {
  query: "tallest building",
  follow_up_questions: null,
  answer: "The Burj Khalifa.",
  images: [],
  results: [
    {
      title: "Burj Khalifa",
      url: "https://example.com/burj",
      content: "828 metres. ".repeat(200),
      score: 0.98,
      raw_content: null
    },
    {
      title: "News",
      url: "https://example.com/news",
      content: "A taller one is planned.",
      score: 0.5,
      published_date: "Sat, 21 Nov 2026 08:00:00 GMT"
    }
  ],
  response_time: "1.67"
}

describe("web_search", () => {
  it.effect("asks Tavily and answers in the contract's shape", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(json(found))
      const { data, error } = yield* Effect.flatMap(Tools, (tools) =>
        tools.execute("web_search", { query: "tallest building", num_results: 3 })
      ).pipe(Effect.provide(layer(upstream)))
      assert.isNull(error)
      assert.deepStrictEqual(data, {
        query: "tallest building",
        ai_answer: "The Burj Khalifa.",
        results: [
          {
            title: "Burj Khalifa",
            snippet: `${"828 metres. ".repeat(200).slice(0, 999)}…`,
            url: "https://example.com/burj",
            score: 0.98,
            published_date: null
          },
          {
            title: "News",
            snippet: "A taller one is planned.",
            url: "https://example.com/news",
            score: 0.5,
            published_date: "Sat, 21 Nov 2026 08:00:00 GMT"
          }
        ],
        total_results: 2
      })
      const [request] = upstream.requests
      assert.deepInclude(request, { method: "POST", path: "/search" })
      assert.deepInclude(request?.headers, {
        authorization: "Bearer tvly-secret",
        "content-type": "application/json"
      })
      assert.deepStrictEqual(JSON.parse(request?.body ?? ""), {
        query: "tallest building",
        max_results: 3,
        search_depth: "basic",
        include_answer: true
      })
    })
  )

  it.effect("asks for five results when none are asked for, and takes no more than asked", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(
        json({ results: Array(9).fill({ title: "t", url: "u", content: "c", score: null }), answer: null })
      )
      const { data } = yield* Effect.flatMap(Tools, (tools) =>
        tools.execute("web_search", { query: "q" })
      ).pipe(Effect.provide(layer(upstream)))
      assert.deepInclude(data, { ai_answer: null, total_results: 5 })
      assert.deepInclude(JSON.parse(upstream.requests[0]?.body ?? ""), { max_results: 5 })
    })
  )

  it.effect("checks the number of results", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      const tools = yield* Effect.provide(Tools, layer(upstream))
      for (const num_results of [0, 11, 2.5, "3"]) {
        const error = yield* Effect.flip(tools.execute("web_search", { query: "q", num_results }))
        assert.match(error.message, /^num_results: /u)
      }
      assert.lengthOf(upstream.requests, 0)
    })
  )

  it.effect("is offered only when there is a key", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      const names = (environment: Record<string, string>) =>
        Effect.map(Effect.provide(Tools, layer(upstream, environment)), ({ list }) =>
          list.map(({ name }) => name)
        )
      assert.deepStrictEqual(yield* names({}), ["calculator", "get_time", "get_weather"])
      assert.deepStrictEqual(yield* names({ TAVILY_API_KEY: "k" }), [
        "calculator",
        "get_time",
        "get_weather",
        "web_search"
      ])
    })
  )

  it.effect("never tells the key or the query, whatever goes wrong", () =>
    Effect.gen(function* () {
      const upstream = yield* makeHttpRecorder
      upstream.script(
        json({ detail: { error: "Unauthorized tvly-secret" } }, 401),
        text("no JSON, tvly-secret")
      )
      const told: Array<string> = []
      const logger = Logger.make((entry) => void told.push(inspect(entry, { depth: 12 })))
      const { spans } = yield* record(
        Effect.gen(function* () {
          const tools = yield* Tools
          for (let asked = 0; asked < 2; asked++) {
            const result = yield* tools.call("web_search", { query: "private-matter" })
            assert.isFalse(result.success)
            told.push(JSON.stringify(result))
          }
        }).pipe(Effect.provide([layer(upstream), Logger.layer([logger])]))
      )
      assert.include(told.join(), "refused the credentials")
      assert.notInclude(told.join(), "tvly-secret")
      const everything = spans.map((span) => span.everything).join()
      assert.notInclude(everything, "tvly-secret")
      assert.notInclude(everything, "private-matter")
    })
  )
})
