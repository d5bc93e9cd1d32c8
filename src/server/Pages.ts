/**
 * Owns what the server shows a browser outside the API: the console at `/`, the API reference at `/docs`.
 */
import { readFileSync } from "node:fs"
import { Effect, Layer } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { HttpApiScalar } from "effect/http-api"
import { publishedApi } from "./PublishedApi.ts"

const consolePage = readFileSync(new URL("../console/index.html", import.meta.url), "utf8")

export const layerPages = Layer.mergeAll(
  HttpApiScalar.layer(publishedApi, { path: "/docs", scalar: { withDefaultFonts: false } }),
  HttpRouter.add("GET", "/", Effect.succeed(HttpServerResponse.html(consolePage)))
)
