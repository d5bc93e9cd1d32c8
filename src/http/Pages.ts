/**
 * Owns what the server shows a browser outside the API: the console at `/`, the API reference at `/docs`.
 */
import { readFileSync } from "node:fs"
import { Effect, Layer, Scope } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import { publishedApi } from "./PublishedApi.ts"

const consolePage = readFileSync(new URL("../console/index.html", import.meta.url), "utf8")

const docsPath = "/docs"

/** Loaded when somebody looks at it: the page carries a script of 3 MB, which takes four times that in memory. */
const layerReference = HttpRouter.use((router) =>
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const config = yield* HttpRouter.RouterConfig
    const page = yield* Effect.cached(
      Effect.gen(function* () {
        const HttpApiScalar = yield* Effect.promise(() => import("effect/http-api/HttpApiScalar"))
        return yield* HttpRouter.toHttpEffect(
          HttpApiScalar.layer(publishedApi, { path: docsPath, scalar: { withDefaultFonts: false } })
        )
      }).pipe(Effect.provideService(HttpRouter.RouterConfig, config), Scope.provide(scope))
    )
    yield* router.add("GET", docsPath, Effect.flatten(page))
  })
)

export const layerPages = Layer.mergeAll(
  layerReference,
  HttpRouter.add("GET", "/", Effect.succeed(HttpServerResponse.html(consolePage)))
)
