/**
 * Owns the OpenAPI document as it is published: the contract of `api/Api.ts`, and what a schema of bodies can't say.
 */
import * as OpenApi from "effect/http-api/OpenApi"
import { Api } from "../api/Api.ts"
import { version } from "../version.ts"

const text = (description: string) => ({ description, schema: { type: "string" } })

const headers = {
  RequestId: text("The request's id: the caller's own, or minted."),
  Traceparent: text("W3C trace context; an incoming one is continued."),
  RetryAfter: { description: "Seconds to wait.", schema: { type: "integer" } },
  WwwAuthenticate: text("How to authenticate.")
}

const header = (name: keyof typeof headers) => ({ $ref: `#/components/headers/${name}` })

const withHeaders = (responses: Readonly<Record<string, object>>) =>
  Object.fromEntries(
    Object.entries(responses).map(([status, response]) => [
      status,
      // The WebSocket server answers the handshake, with headers of its own.
      status === "101"
        ? response
        : {
            ...response,
            headers: {
              "X-Request-Id": header("RequestId"),
              traceparent: header("Traceparent"),
              ...(status === "401" ? { "WWW-Authenticate": header("WwwAuthenticate") } : {}),
              ...(status === "503" ? { "Retry-After": header("RetryAfter") } : {})
            }
          }
    ])
  )

/** Ours have no `event:` field, so that `EventSource.onmessage` sees them all. */
const eventStream = {
  schema: {
    type: "object",
    description:
      "Server-Sent Events. A comment goes out at least every 15 s. The last event is `end`, `error` or `cancelled`.",
    properties: {
      id: { type: "string", description: "<turn id>:<sequence>" },
      data: {
        type: "string",
        contentMediaType: "application/json",
        contentSchema: { $ref: "#/components/schemas/ChatEvent" }
      }
    },
    required: ["id", "data"]
  }
}

const page = (operationId: string, summary: string, contentType: string) => ({
  get: {
    tags: ["pages"],
    operationId: `pages.${operationId}`,
    summary,
    parameters: [],
    security: [],
    responses: withHeaders({ 200: { description: summary, content: { [contentType]: {} } } })
  }
})

const pages = {
  "/": page("console", "The console", "text/html"),
  "/docs": page("docs", "The API reference", "text/html"),
  "/openapi.json": page("openapi", "This document", "application/json")
}

// biome-ignore lint/suspicious/noExplicitAny: the framework's own type for a document
const publish = (document: Record<string, any>) => {
  const { components, paths, ...rest } = JSON.parse(JSON.stringify(document), (key, value) => {
    if (key === "text/event-stream") return eventStream
    if (key === "responses") return withHeaders(value)
    // Unknown fields are ignored in requests, and responses may gain some.
    return key === "additionalProperties" && value === false ? undefined : value
  })
  return { ...rest, paths: { ...paths, ...pages }, components: { ...components, headers } }
}

export const publishedApi = Api.annotateMerge(OpenApi.annotations({ version, transform: publish }))
