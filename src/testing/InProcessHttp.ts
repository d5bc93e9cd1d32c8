/**
 * Owns an HTTP server without a socket: the app is served as a function from a web `Request` to a `Response`. Bodies
 * stream, and a request that is aborted is told to the app, as over a connection.
 *
 * Does not upgrade: WebSockets need a server.
 */
import { Readable } from "node:stream"
import { Effect, Layer, type Scope } from "effect"
import { HttpBody, HttpEffect, HttpServer, type HttpServerRequest, HttpServerResponse } from "effect/http"
import { NetAddress } from "effect/net"

export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>

/** Where relative URLs are; nobody listens there. */
export const baseUrl = "http://in.process"

/**
 * A Node stream as a web stream. `Response` takes one as it is, but to cancel that waits for its next chunk, which may
 * never come.
 */
const withWebBody = (response: HttpServerResponse.HttpServerResponse) =>
  response.body._tag === "Raw" && response.body.body instanceof Readable
    ? HttpServerResponse.setBody(
        response,
        HttpBody.raw(Readable.toWeb(response.body.body), { contentType: response.body.contentType })
      )
    : response

/** A server for one app, and how to ask it. A path is enough of a URL. */
export const make = () => {
  const ready = Promise.withResolvers<(request: Request) => Promise<Response>>()
  const server = HttpServer.make({
    address: NetAddress.unixPathAddress("in-process"),
    serve: (app, middleware) =>
      Effect.contextWith((context) =>
        Effect.sync(() => {
          const handle = HttpEffect.toWebHandlerWith<
            never,
            HttpServerRequest.HttpServerRequest | Scope.Scope
          >(context)
          ready.resolve(handle(Effect.map(app, withWebBody), middleware))
        })
      )
  })
  const fetch: Fetch = async (input, init) => {
    const handle = await ready.promise
    return handle(new Request(input instanceof Request ? input : new URL(input, baseUrl), init))
  }
  return { fetch, layer: Layer.merge(Layer.succeed(HttpServer.HttpServer, server), HttpServer.layerServices) }
}
