/** Owns the list of the tools that come with the product. */
import { calculator } from "./Calculator.ts"
import { getTime } from "./GetTime.ts"
import { makeGetWeather, type OpenMeteoUrls } from "./GetWeather.ts"
import { makeWebSearch } from "./WebSearch.ts"

/** Where the tools' upstreams are, when not where they publicly are. */
export interface ToolUrls {
  readonly openMeteo?: OpenMeteoUrls
  /** Tavily's search. */
  readonly webSearch?: string
}

export const builtInWith = (urls: ToolUrls) =>
  [calculator, getTime, makeGetWeather(urls.openMeteo), makeWebSearch(urls.webSearch)] as const

/** `calculator`, `get_time`, `get_weather` and, when there is a key for it, `web_search`. */
export const builtIn = builtInWith({})
