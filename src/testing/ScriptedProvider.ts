/**
 * Owns a scripted model in this process: `effect/ai` language models that answer from a script without a socket. Delays
 * pass by the clock of the fiber that asks, so by `TestClock` where there is one.
 *
 * A request is put into OpenAI's form, and a reply read back from it, by the code that does so for real servers: a
 * script means the same here as over HTTP. What that code learns from refusals of a field is not done here.
 */
import { type Array as Arr, Cause, Clock, Effect, type Pull, Stream } from "effect"
import { type AiError, LanguageModel, type Response } from "effect/ai"
import { toCodecOpenAI } from "effect/ai/OpenAiStructuredOutput"
import { APIError } from "openai/error"
import { LlmProvider, type ModelSettings } from "../llm/Llm.ts"
import { failureOfThrown, openAiError } from "../llm/openai/LlmOpenAiError.ts"
import { CompletionParts, wholeParts } from "../llm/openai/LlmOpenAiParts.ts"
import { toBody, toLimits } from "../llm/openai/LlmOpenAiRequest.ts"
import type { ScriptRun } from "./Script.ts"
import {
  encodeStream,
  encodeWhole,
  type ScriptedReply,
  type StatusReply,
  type StreamReply
} from "./ScriptedReply.ts"
import type { Exchange, ScriptedRequestBody } from "./ScriptedRequest.ts"

const path = "/v1/chat/completions"
const url = `http://scripted${path}`

const quirks = { noStreamOptions: false, noTemperature: false, maxCompletionTokens: false }

/** What a reply does next. When there is nothing next, its body has ended. */
type Step =
  | { readonly kind: "bytes"; readonly bytes: string | Uint8Array }
  | { readonly kind: "wait"; readonly millis: number }
  | { readonly kind: "hang" | "cut" }

type Parts = Arr.NonEmptyReadonlyArray<Response.StreamPartEncoded>

const isNonEmpty = (
  parts: Array<Response.StreamPartEncoded>
): parts is Arr.NonEmptyArray<(typeof parts)[0]> => parts.length > 0

const bytes = (text: string | Uint8Array): Step => ({ kind: "bytes", bytes: text })

function* stepsOfStream(reply: StreamReply, exchange: Exchange): Generator<Step> {
  const { delayMillis, fault, tokensPerWrite = 1 } = reply
  const stream = encodeStream(reply, {
    request: exchange.index,
    model: exchange.body.model,
    includeUsage: exchange.body.stream_options?.include_usage === true
  })
  const tokens = stream.tokens[Symbol.iterator]()
  let faultAt = fault?.after ?? Number.POSITIVE_INFINITY
  yield bytes(stream.head)
  for (;;) {
    if (fault !== undefined && exchange.tokensSent >= faultAt) {
      faultAt = Number.POSITIVE_INFINITY
      if (fault.kind === "end") return
      if (fault.kind === "hang" || fault.kind === "cut") yield { kind: fault.kind }
      if (fault.kind === "malformed") yield bytes("data: {not json\n\n")
      if (fault.kind === "error") {
        const error = { message: fault.message ?? "scripted error", type: "server_error" }
        yield bytes(`data: ${JSON.stringify({ error })}\n\n`)
        return
      }
    }
    const token = tokens.next()
    if (token.done === true) {
      yield bytes(stream.tail(exchange.tokensSent))
      return
    }
    yield bytes(token.value)
    exchange.tokensSent++
    if (delayMillis !== undefined && exchange.tokensSent % tokensPerWrite === 0) {
      yield { kind: "wait", millis: delayMillis }
    }
  }
}

function* stepsOf(reply: Exclude<ScriptedReply, StatusReply>, exchange: Exchange): Generator<Step> {
  switch (reply.kind) {
    case "hang":
    case "cut":
      yield { kind: reply.kind }
      return
    case "raw":
      for (const piece of reply.pieces) yield bytes(piece)
      if (reply.ending !== "end") yield { kind: reply.ending }
      return
    case "stream":
      yield* stepsOfStream(reply, exchange)
  }
}

/** 0 is a turn of the event loop. */
const wait = (millis: number): Effect.Effect<void> => (millis <= 0 ? Effect.yieldNow : Effect.sleep(millis))

const broken = (method: string, exchange: Exchange): AiError.AiError => {
  exchange.wasCut = true
  const cause = new Error("The scripted model cut the connection")
  return openAiError(method, failureOfThrown(cause, url, 0))
}

const refused = (method: string, { body, headers, status }: StatusReply) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const isText = typeof body === "string"
    const error = APIError.generate(
      status,
      isText || typeof body !== "object" || body === null ? undefined : body,
      isText ? body : undefined,
      new Headers(headers)
    )
    return Effect.fail(openAiError(method, failureOfThrown(error, url, now)))
  })

/** The parts of a streamed reply. Parts between two waits come together. */
const readStream = (
  reply: Exclude<ScriptedReply, StatusReply>,
  exchange: Exchange
): Pull.Pull<Parts, AiError.AiError> => {
  const method = "streamText"
  const parts = new CompletionParts({ method, model: exchange.body.model })
  const steps = stepsOf(reply, exchange)
  let held: Step | undefined
  const act = (step: Exclude<Step, { readonly kind: "bytes" }>): Pull.Pull<Parts, AiError.AiError> => {
    switch (step.kind) {
      case "wait":
        return Effect.andThen(wait(step.millis), pull)
      case "hang":
        return Effect.never
      case "cut":
        return Effect.suspend(() => Effect.fail(broken(method, exchange)))
    }
  }
  const pull: Pull.Pull<Parts, AiError.AiError> = Effect.suspend(() => {
    const ready: Array<Response.StreamPartEncoded> = []
    for (;;) {
      ready.push(...parts.take())
      if (parts.failure !== undefined || parts.isDone) {
        if (parts.isDone) exchange.end("completed")
        if (isNonEmpty(ready)) return Effect.succeed(ready)
        return parts.failure === undefined ? Cause.done() : Effect.fail(parts.failure)
      }
      const next = held === undefined ? steps.next() : { done: false as const, value: held }
      held = undefined
      if (next.done === true) {
        exchange.end("completed")
        parts.end()
      } else if (next.value.kind === "bytes") {
        parts.feed(Buffer.from(next.value.bytes))
      } else {
        if (!isNonEmpty(ready)) return act(next.value)
        held = next.value
        return Effect.succeed(ready)
      }
    }
  })
  return pull
}

/** A reply to a request that does not stream. */
const readWhole = (
  reply: Exclude<ScriptedReply, StatusReply>,
  exchange: Exchange
): Effect.Effect<Array<Response.PartEncoded>, AiError.AiError> =>
  Effect.suspend(() => {
    const method = "generateText"
    const kind = reply.kind === "stream" ? reply.fault?.kind : reply.kind
    if (kind === "hang") return Effect.never
    if (kind === "cut") return Effect.fail(broken(method, exchange))
    const parts = new CompletionParts({ method, model: exchange.body.model })
    if (reply.kind === "stream" && kind === undefined) {
      parts.whole(JSON.parse(encodeWhole(reply, { request: exchange.index, model: exchange.body.model })))
    } else parts.whole({ error: { message: "scripted error" } })
    exchange.end("completed")
    return parts.failure === undefined ? Effect.succeed(wholeParts(parts.take())) : Effect.fail(parts.failure)
  })

/** A provider whose models answer from the run of a script. */
export const makeScriptedProvider = (
  run: ScriptRun,
  models: Partial<LlmProvider["Service"]["models"]> = {}
): LlmProvider["Service"] => {
  const open = Effect.fnUntraced(function* (
    method: string,
    options: LanguageModel.ProviderOptions,
    settings: ModelSettings,
    stream: boolean
  ) {
    const body = yield* Effect.mapError(toBody(options, settings), (reason) => openAiError(method, reason))
    const sent = {
      ...body,
      ...toLimits(settings, quirks),
      stream,
      ...(stream ? { stream_options: { include_usage: true } } : {})
    }
    // As it would arrive: no field that is undefined, and nothing shared with the one who asks.
    const received: ScriptedRequestBody = JSON.parse(JSON.stringify(sent))
    const exchange = yield* Effect.acquireRelease(
      Effect.map(Clock.currentTimeMillis, (now) => run.accept(path, {}, received, now)),
      (exchange) => Effect.sync(() => exchange.end(exchange.wasCut ? "cut" : "aborted"))
    )
    const decided = run.replyTo(exchange)
    const reply = decided instanceof Promise ? yield* Effect.promise(() => decided) : decided
    if (reply.kind === "status") {
      exchange.end("completed")
      return yield* refused(method, reply)
    }
    if (reply.kind === "stream" && reply.headDelayMillis !== undefined) yield* wait(reply.headDelayMillis)
    return { reply, exchange }
  })

  return LlmProvider.of({
    name: "scripted",
    models: { default: "scripted", fast: "scripted", creative: "scripted", ...models },
    isOffline: false,
    languageModel: (settings) =>
      LanguageModel.make({
        streamText: (options) =>
          Stream.unwrap(
            Effect.map(open("streamText", options, settings, true), ({ exchange, reply }) =>
              Stream.fromPull(Effect.succeed(readStream(reply, exchange)))
            )
          ),
        generateText: (options) =>
          Effect.scoped(
            Effect.flatMap(open("generateText", options, settings, false), ({ exchange, reply }) =>
              readWhole(reply, exchange)
            )
          ),
        codecTransformer: toCodecOpenAI
      })
  })
}
