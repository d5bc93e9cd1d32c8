/**
 * Owns the tool `web_search`: a search of the web by Tavily. Offered only when there is a key for it.
 *
 * Format: https://docs.tavily.com/documentation/api-reference/endpoint/search.
 */
import { Effect, Schema } from "effect"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import { AppConfig } from "../../Config.ts"
import { defineTool, ToolFailed, withDefault } from "../ToolDefinition.ts"
import { ToolHttp } from "../ToolHttp.ts"

const searchUrl = "https://api.tavily.com/search"
/** Characters of one result's text. Tavily sends up to some thousands. */
const maxSnippet = 1000

const Found = Schema.Struct({
  answer: Schema.optionalKey(Schema.NullOr(Schema.String)),
  results: Schema.Array(
    Schema.Struct({
      title: Schema.String,
      url: Schema.String,
      content: Schema.String,
      score: Schema.optionalKey(Schema.NullOr(Schema.Finite)),
      /** Only with news. */
      published_date: Schema.optionalKey(Schema.NullOr(Schema.String))
    })
  )
})

const shortened = (text: string) =>
  text.length <= maxSnippet ? text : `${text.slice(0, maxSnippet - 1).toWellFormed()}…`

export const makeWebSearch = (url: string = searchUrl) =>
  defineTool({
    name: "web_search",
    description:
      "Searches the web. Use it for news, for facts that change, and for what you don't know. Cite the URLs you rely on.",
    parameters: Schema.Struct({
      query: Schema.String.check(
        Schema.isPattern(/\S/u, { message: "Expected some text" }),
        Schema.isMaxLength(400)
      ).annotate({
        description: "What to search for, in a few words or a question"
      }),
      num_results: withDefault(
        Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10 })).annotate({
          description: "How many results to return, 1 to 10"
        }),
        5
      )
    }),
    success: Schema.Struct({
      query: Schema.String,
      /** Tavily's own short answer, drawn from the results. */
      ai_answer: Schema.NullOr(Schema.String),
      results: Schema.Array(
        Schema.Struct({
          title: Schema.String,
          snippet: Schema.String,
          url: Schema.String,
          /** How well it fits, 0 to 1. */
          score: Schema.NullOr(Schema.Finite),
          published_date: Schema.NullOr(Schema.String)
        })
      ),
      total_results: Schema.Int
    }),
    handler: Effect.fnUntraced(function* ({ num_results, query }) {
      const { tavilyApiKey } = yield* AppConfig
      const http = yield* ToolHttp
      if (tavilyApiKey === undefined) {
        return yield* new ToolFailed({ message: "Web search is not configured.", reason: "unavailable" })
      }
      const found = yield* http.json(
        HttpClientRequest.post(url).pipe(
          HttpClientRequest.bearerToken(tavilyApiKey),
          HttpClientRequest.bodyJsonUnsafe({
            query,
            max_results: num_results,
            search_depth: "basic",
            include_answer: true
          })
        ),
        Found
      )
      const results = found.results.slice(0, num_results).map((result) => ({
        title: result.title,
        snippet: shortened(result.content),
        url: result.url,
        score: result.score ?? null,
        published_date: result.published_date ?? null
      }))
      return { query, ai_answer: found.answer ?? null, results, total_results: results.length }
    }),
    // A search costs, but changes nothing: asking again after a failure is safe.
    isIdempotent: true,
    isOffered: Effect.map(AppConfig, ({ tavilyApiKey }) => tavilyApiKey !== undefined)
  })
