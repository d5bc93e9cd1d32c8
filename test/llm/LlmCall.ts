/**
 * What the tests of the model policy share: calls over a scripted provider, run by the test's clock.
 */
import { assert } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Stream } from "effect"
import { Prompt, type Response } from "effect/ai"
import { CircuitBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"
import { Llm, LlmProvider, type LlmRequest, LlmUnavailable } from "../../src/llm/Llm.ts"
import type * as LlmPolicy from "../../src/llm/LlmPolicy.ts"
import { type Answer, partsProvider } from "./PartsProvider.ts"

export const timeouts = {
  firstToken: Duration.seconds(30),
  betweenTokens: Duration.seconds(30),
  total: Duration.seconds(120)
}

export const makeLlm = (
  provider: LlmProvider["Service"],
  options: { readonly fallbackModels?: ReadonlyArray<string>; readonly breaker?: LlmPolicy.LlmBreaker } = {}
) =>
  Llm.make({ fallbackModels: [], timeouts, ...options }).pipe(
    Effect.provideService(LlmProvider, provider),
    Effect.provide(CircuitBreaker.layerStoreMemory())
  )

export const start = Effect.fnUntraced(function* (
  script: Readonly<Record<string, ReadonlyArray<Answer>>>,
  options?: Parameters<typeof makeLlm>[1]
) {
  const { asked, provider } = partsProvider(script)
  return { asked, llm: yield* makeLlm(provider, options) }
})

export const request = (given: Partial<LlmRequest> = {}): LlmRequest => ({
  prompt: Prompt.make("hi"),
  toolkit: undefined,
  variant: "default",
  override: {},
  ...given
})

export type Parts = ReadonlyArray<Response.AnyPart>
export const textOf = (parts: Parts) =>
  parts.map((part) => (part.type === "text-delta" ? part.delta : "")).join("")
export const modelOf = (parts: Parts) => parts.find((part) => part.type === "response-metadata")?.modelId

/** Runs a call in the background; `parts` fills while it runs. */
export const call = Effect.fnUntraced(function* (llm: Llm["Service"], given?: Partial<LlmRequest>) {
  const parts: Array<Response.AnyPart> = []
  const fiber = yield* llm.stream(request(given)).pipe(
    Stream.runForEach((part) => Effect.sync(() => void parts.push(part))),
    Effect.forkChild
  )
  // The clock waits for the fibers it wakes, but not for those that have only begun: let these come to their first wait.
  yield* Effect.repeat(Effect.yieldNow, { times: 50 })
  return { parts, fiber }
})

/** Runs a call for as long as it can take. */
export const complete = Effect.fnUntraced(function* (llm: Llm["Service"], given?: Partial<LlmRequest>) {
  const { fiber, parts } = yield* call(llm, given)
  yield* TestClock.adjust("130 seconds")
  const exit = yield* Fiber.await(fiber)
  return { parts, exit }
})

export const failureOf = (exit: Exit.Exit<void, LlmUnavailable>): LlmUnavailable => {
  const error = Exit.isFailure(exit)
    ? exit.cause.reasons.find((part) => part._tag === "Fail")?.error
    : undefined
  assert.instanceOf(error, LlmUnavailable)
  return error
}

export const waits = (asked: ReadonlyArray<{ readonly atMillis: number }>) =>
  asked.slice(1).map((entry, n) => entry.atMillis - (asked[n]?.atMillis ?? 0))

export const assertWithin = (value: number | undefined, least: number, most: number) => {
  assert.isAtLeast(value ?? Number.NaN, least)
  assert.isAtMost(value ?? Number.NaN, most)
}
