/**
 * Owns which paths the server has and which methods they take, for saying why a request reached none of them.
 *
 * Does not route: the framework does.
 */
import * as HttpApi from "effect/http-api/HttpApi"
import { Api } from "../api/Api.ts"
import type { ProblemFields } from "./problemResponse.ts"

interface Route {
  readonly path: RegExp
  readonly methods: ReadonlyArray<string>
}

/** The framework answers `HEAD` by running `GET`; where that starts a turn, it must not. */
const methodsOf = (method: string, isStream: boolean): ReadonlyArray<string> =>
  method === "GET" && !isStream ? ["GET", "HEAD"] : [method]

/** Case does not matter to the router either. */
const pattern = (path: string) =>
  new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/:\w+/g, "[^/]+")}/?$`, "i")

const routes: ReadonlyArray<Route> = (() => {
  const found: Array<Route> = []
  HttpApi.reflect(Api, {
    onGroup: () => {},
    onEndpoint: ({ endpoint, successes }) => {
      // Streams are not among them, so what is left has no body.
      const isStream = [...successes.keys()].every((status) => status === 204)
      found.push({ path: pattern(endpoint.path), methods: methodsOf(endpoint.method, isStream) })
    }
  })
  for (const path of ["/", "/docs", "/openapi.json"]) {
    found.push({ path: pattern(path), methods: methodsOf("GET", false) })
  }
  return found
})()

const pathOf = (url: string) => url.split("?", 1)[0] ?? "/"

const methodsAt = (path: string) =>
  routes.filter((route) => route.path.test(path)).flatMap((route) => route.methods)

/** Whether the framework would run a `GET` for this `HEAD`, and must not. */
export const refusesHead = (method: string, url: string): boolean => {
  if (method !== "HEAD") return false
  const methods = methodsAt(pathOf(url))
  return methods.length > 0 && !methods.includes("HEAD")
}

const isDecodable = (path: string) => {
  try {
    decodeURIComponent(path)
    return true
  } catch {
    return false
  }
}

/** Why no endpoint answered for this. */
export const unroutable = (method: string, url: string): ProblemFields => {
  const path = pathOf(url)
  const methods = methodsAt(path)
  if (methods.length === 0) {
    return {
      status: 404,
      code: "NOT_FOUND",
      title: "There is nothing here",
      detail: `No endpoint has the path ${path.slice(0, 200)}.`
    }
  }
  if (!methods.includes(method)) {
    return {
      status: 405,
      code: "METHOD_NOT_ALLOWED",
      title: "The method is not allowed here",
      detail: `${path.slice(0, 200)} takes ${methods.join(", ")}.`,
      headers: { allow: methods.join(", ") }
    }
  }
  const message = isDecodable(path) ? "is too long" : "is not valid percent-encoded UTF-8"
  return {
    status: 400,
    code: "VALIDATION_ERROR",
    title: "The request is not valid",
    detail: `path: ${message}`,
    errors: [{ field: "path", message }]
  }
}

/** The router takes `;` for the end of the path, so that `a;b` would mean `a`. RFC 3986 has it as a part of the path. */
export const withSemicolons = (url: string): string => {
  const path = pathOf(url)
  return path.includes(";") ? path.replaceAll(";", "%3B") + url.slice(path.length) : url
}
