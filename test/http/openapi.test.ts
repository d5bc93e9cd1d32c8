import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Reply } from "voice-agent-api/testing"
import * as TestServer from "../support/TestServer.ts"
import { call, type Json } from "./Client.ts"

/** Every address of the contract that is served, with its responses other than those all have. */
const contract: Readonly<Record<string, ReadonlyArray<number>>> = {
  "post /api/v1/chat": [],
  "post /api/v1/chat/stream": [],
  "get /api/v1/chat/stream": [],
  "get /api/v1/chat/history/{session_id}": [],
  "get /api/v1/chat/ws": [426],
  "get /ws": [426],
  "post /api/v1/session": [],
  "get /api/v1/session/{id}": [404],
  "delete /api/v1/session/{id}": [404],
  "get /api/v1/session/{id}/history": [404],
  "post /api/v1/conversation/message": [],
  "get /api/v1/tools": [],
  "get /api/v1/tools/schemas": [],
  "post /api/v1/tools/execute/{name}": [404, 422],
  "get /api/v1/mcp/tools": [],
  "get /api/v1/mcp/tools/{name}": [404],
  "get /api/v1/mcp/schemas": [],
  "get /api/v1/mcp/status": [],
  "post /api/v1/mcp/execute": [404, 422],
  "post /api/v1/mcp/execute/batch": [],
  "get /api/v1/health": [],
  "get /api/v1/health/live": [],
  "get /api/v1/health/ready": [],
  "get /api/v1/info": [],
  "get /metrics": []
}

const pages = ["get /", "get /docs", "get /openapi.json"]

const everywhere = [400, 413, 415, 500, 503]

const streams = ["post /api/v1/chat", "post /api/v1/chat/stream", "get /api/v1/chat/stream"]

interface Operation {
  readonly name: string
  readonly path: string
  readonly spec: Json
}

const operationsOf = (document: Json): ReadonlyArray<Operation> =>
  Object.entries<Json>(document.paths).flatMap(([path, item]) =>
    Object.entries<Json>(item).map(([method, spec]) => ({ name: `${method} ${path}`, path, spec }))
  )

/** Every `$ref` in the document. */
const refsIn = (value: Json): ReadonlyArray<string> =>
  typeof value !== "object" || value === null
    ? []
    : Object.entries(value).flatMap(([key, member]) =>
        key === "$ref" && typeof member === "string" ? [member] : refsIn(member)
      )

const resolve = (document: Json, ref: string): Json =>
  ref
    .slice("#/".length)
    .split("/")
    .reduce((value, key) => value?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], document)

const server = TestServer.layer(() => Reply.text("Hello there."))

layer(server, { excludeTestServices: true })("the OpenAPI document", (it) => {
  const document = Effect.map(call("/openapi.json"), ({ body }) => body)

  it.effect("has the form of OpenAPI 3.1", () =>
    Effect.gen(function* () {
      const answer = yield* call("/openapi.json")
      assert.strictEqual(answer.headers.get("content-type"), "application/json")
      const { components, info, openapi, paths } = answer.body
      assert.match(openapi, /^3\.1\.\d+$/)
      assert.isNotEmpty(info.title)
      assert.strictEqual(info.version, (yield* call("/api/v1/info")).body.version)
      for (const path of Object.keys(paths)) assert.match(path, /^\/[^:]*$/)
      for (const name of Object.values<object>(components).flatMap(Object.keys)) {
        assert.match(name, /^[a-zA-Z0-9._-]+$/)
      }
      const operations = operationsOf(answer.body)
      const ids = operations.map(({ spec }) => spec.operationId)
      assert.strictEqual(new Set(ids).size, operations.length)
      for (const { name, path, spec } of operations) {
        const inPath = spec.parameters.filter((parameter: Json) => parameter.in === "path")
        assert.deepStrictEqual(
          inPath.map((parameter: Json) => `{${parameter.name}}`),
          path.match(/\{\w+\}/g) ?? [],
          name
        )
        assert.isTrue(
          inPath.every((parameter: Json) => parameter.required === true && parameter.schema),
          name
        )
        assert.isNotEmpty(spec.responses, name)
        for (const [status, response] of Object.entries<Json>(spec.responses)) {
          assert.match(status, /^[1-5]\d\d$/, name)
          assert.isNotEmpty(response.description, name)
        }
      }
    })
  )

  it.effect("refers to nothing that is not in it", () =>
    Effect.gen(function* () {
      const whole = yield* document
      const refs = new Set(refsIn(whole))
      assert.isNotEmpty(refs)
      for (const ref of refs) {
        assert.isTrue(ref.startsWith("#/"), ref)
        assert.isDefined(resolve(whole, ref), ref)
      }
    })
  )

  it.effect("lists every address of the contract, and its pages", () =>
    Effect.gen(function* () {
      const names = operationsOf(yield* document).map(({ name }) => name)
      assert.includeMembers(names, [...Object.keys(contract), ...pages])
    })
  )

  it.effect("describes every error as a problem, and the headers of every response", () =>
    Effect.gen(function* () {
      const whole = yield* document
      for (const { name, spec } of operationsOf(whole)) {
        for (const [status, response] of Object.entries<Json>(spec.responses)) {
          if (status === "101") continue
          assert.containsAllKeys(response.headers, ["X-Request-Id", "traceparent"], name)
          assert.strictEqual("WWW-Authenticate" in response.headers, status === "401", name)
          assert.strictEqual("Retry-After" in response.headers, status === "503", name)
        }
        const own = contract[name]
        if (own === undefined) continue
        const isOpen = name.startsWith("get /api/v1/health")
        for (const status of [...everywhere, ...own, ...(isOpen ? [] : [401])]) {
          const { content } = spec.responses[status]
          const problem = resolve(whole, content["application/problem+json"].schema.$ref)
          assert.containsAllKeys(
            problem.properties,
            ["type", "title", "status", "detail", "error_code", "request_id", "trace_id"],
            `${name} ${status}`
          )
          assert.deepStrictEqual(problem.properties.status.enum, [status], name)
        }
        assert.deepStrictEqual(spec.security, isOpen ? [] : [{ apiKey: [] }], name)
      }
      assert.deepStrictEqual(whole.components.securitySchemes.apiKey, {
        type: "apiKey",
        name: "X-API-Key",
        in: "header"
      })
    })
  )

  it.effect("describes streams as they are: events as JSON, without an event field", () =>
    Effect.gen(function* () {
      const whole = yield* document
      for (const { name, spec } of operationsOf(whole)) {
        const stream = spec.responses[200]?.content["text/event-stream"]
        assert.strictEqual(stream !== undefined, streams.includes(name), name)
        if (stream === undefined) continue
        assert.deepStrictEqual(Object.keys(stream.schema.properties), ["id", "data"])
        const event = resolve(whole, stream.schema.properties.data.contentSchema.$ref)
        const types = JSON.stringify(event.anyOf.map(({ $ref }: Json) => resolve(whole, $ref)))
        for (const type of [
          "start",
          "delta",
          "tool_calls",
          "end",
          "error",
          "cancelled",
          "workflow_complete"
        ]) {
          assert.include(types, `["${type}"]`)
        }
      }
    })
  )

  it.effect("describes the frames of WebSockets, and that unknown fields are fine", () =>
    Effect.gen(function* () {
      const whole = yield* document
      assert.containsAllKeys(whole.components.schemas, ["ChatFrame", "ControlFrame", "ChatEvent"])
      for (const name of ["get /ws", "get /api/v1/chat/ws"]) {
        const operation = operationsOf(whole).find((candidate) => candidate.name === name)
        assert.include(operation?.spec.description, "ChatFrame")
        assert.property(operation?.spec.responses, "101")
      }
      assert.notInclude(JSON.stringify(whole), `"additionalProperties":false`)
    })
  )

  it.effect("is what the reference shows", () =>
    Effect.gen(function* () {
      const { text } = yield* call("/docs")
      for (const name of Object.keys(contract)) assert.include(text, `"${name.split(" ")[1]}"`)
    })
  )
})
