/**
 * Owns the refusals of the contract and the trying of requests that meet them.
 */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { assertProblem, assertServing, type Call, call, type ExpectedProblem } from "./Client.ts"

export const api = "/api/v1"

/** A request that names these fields, all of them. */
export const invalid = (...fields: ReadonlyArray<string>): ExpectedProblem => ({
  status: 400,
  code: "VALIDATION_ERROR",
  fields
})

/** A path under `/api/v1`, and the request if it is no plain `GET`. */
type Try = readonly [path: string, call?: Call]

/** Each is tried; after it the server has to be well. */
export const refuses = (expected: ExpectedProblem, ...tries: ReadonlyArray<Try>) =>
  Effect.gen(function* () {
    for (const [path, request] of tries) {
      assertProblem(yield* call(`${api}${path}`, request), expected)
      yield* assertServing
    }
  })

export const accepts = (...tries: ReadonlyArray<Try>) =>
  Effect.gen(function* () {
    for (const [path, request] of tries) {
      const answer = yield* call(`${api}${path}`, request)
      assert.strictEqual(answer.status, 200, answer.text)
    }
  })

export const long = (length: number) => "a".repeat(length)
