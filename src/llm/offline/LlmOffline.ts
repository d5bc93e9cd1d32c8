/**
 * Owns the offline model: a small rule-based `LanguageModel` that answers without a key or a network, and really calls
 * the tools it is offered, so that the whole path of a turn can be tried and tested.
 *
 * Does not pretend to be more: it says what it is. It keeps nothing either; all it remembers stands in the prompt.
 */
import { Effect, Layer, Stream } from "effect"
import type { Prompt, Response } from "effect/ai"
import * as LanguageModel from "effect/ai/LanguageModel"
import { LlmProvider } from "../Llm.ts"
import {
  sayAnswer,
  sayHelp,
  sayMissing,
  sayNoted,
  sayNotOffered,
  sayRecall,
  sayThanks,
  type ToolAnswer
} from "./LlmOfflineReply.ts"
import {
  type Facts,
  isGreeting,
  isThanks,
  type Language,
  languageOf,
  learn,
  recallsOf,
  type Wish,
  wishesOf
} from "./LlmOfflineRules.ts"

const modelName = "offline"

/** What the prompt says: the question that is open, what was known before it, and what the tools answered to it. */
interface Situation {
  readonly question: string
  readonly before: Facts
  readonly answers: ReadonlyArray<ToolAnswer>
}

/** As much of a message as the rules look at: some of them take time by the square of its length. */
const maxLength = 1000

const textOf = (message: Prompt.UserMessage): string =>
  message.content
    .map((part) => (part.type === "text" ? part.text : ""))
    .join("")
    .slice(0, 4 * maxLength)
    .replace(/\s+/g, (space) => (space.includes("\n") ? "\n" : " "))
    .slice(0, maxLength)

const situationOf = (prompt: Prompt.Prompt): Situation => {
  const before: Facts = { about: new Map(), remembered: [] }
  let question: string | undefined
  let answers: Array<ToolAnswer> = []
  for (const message of prompt.content) {
    if (message.role === "user") {
      if (question !== undefined) learn(before, question)
      question = textOf(message)
      answers = []
    } else if (message.role === "tool" || message.role === "assistant") {
      for (const part of message.content) if (part.type === "tool-result") answers.push(part)
    }
  }
  return { question: question ?? "", before, answers }
}

interface Answer {
  readonly text: string
  readonly calls: ReadonlyArray<Wish>
}

const copyOf = (facts: Facts): Facts => ({ about: new Map(facts.about), remembered: [...facts.remembered] })

/** What is said of the question itself, apart from what tools answer. */
const sayMemory = ({ before, question }: Situation, language: Language): Array<string> => {
  const now = copyOf(before)
  learn(now, question)
  const recalls = recallsOf(question)
  if (recalls.length > 0) return recalls.map((recall) => sayRecall(recall, now, language))
  const name = now.about.get("name")
  if (name !== undefined && name !== before.about.get("name")) return [sayNoted(name, language)]
  const isTold =
    now.remembered.length > before.remembered.length ||
    Array.from(now.about).some(([about, value]) => before.about.get(about) !== value)
  return isTold ? [sayNoted(undefined, language)] : []
}

/** Decides the answer to a prompt, given the names of the tools on offer. */
export const answer = (prompt: Prompt.Prompt, offered: ReadonlySet<string>): Answer => {
  const situation = situationOf(prompt)
  const { answers, before, question } = situation
  const language = languageOf(question)
  const memory = sayMemory(situation, language)
  const join = (sentences: ReadonlyArray<string>) => sentences.join(language === "zh" ? "" : " ")
  if (answers.length > 0) {
    return { text: join([...answers.map((result) => sayAnswer(result, language)), ...memory]), calls: [] }
  }
  const wishes = wishesOf(question, language)
  const calls = wishes.filter((wish) => wish.args !== undefined && offered.has(wish.tool))
  const said = [
    ...wishes.flatMap((wish) =>
      !offered.has(wish.tool)
        ? [sayNotOffered(wish.tool, language)]
        : wish.args === undefined
          ? [sayMissing(language)]
          : []
    ),
    ...memory
  ]
  // What can be said without the tools comes with their answers.
  if (calls.length > 0) return { text: "", calls }
  if (said.length > 0) return { text: join(said), calls: [] }
  if (isThanks(question)) return { text: sayThanks(language), calls: [] }
  const greet = isGreeting(question)
  return { text: sayHelp({ offered, greet, name: before.about.get("name") }, language), calls: [] }
}

/** A text in the pieces it is streamed in: a word with the space before it, or two Chinese characters. */
export const wordsOf = (text: string): ReadonlyArray<string> =>
  text.match(/\s*(?:\p{Script=Han}{1,2}[，。！？、：；）”]*|[^\s\p{Script=Han}]+)|\s+$/gu) ?? []

const answerTo = (options: LanguageModel.ProviderOptions): Answer =>
  answer(options.prompt, new Set(options.toolChoice === "none" ? [] : options.tools.map((tool) => tool.name)))

const metadata = { type: "response-metadata", modelId: modelName } as const

const callParts = (calls: ReadonlyArray<Wish>): Array<Response.ToolCallPartEncoded> =>
  calls.map((call) => ({
    type: "tool-call",
    id: `call_${crypto.randomUUID().replaceAll("-", "")}`,
    name: call.tool,
    params: call.args ?? {}
  }))

/** No tokens are used, and none are made up. */
const finish = (calls: ReadonlyArray<Wish>): Response.FinishPartEncoded => ({
  type: "finish",
  reason: calls.length > 0 ? "tool-calls" : "stop",
  usage: {
    inputTokens: { uncached: undefined, total: undefined, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: undefined, text: undefined, reasoning: undefined }
  }
})

const streamParts = ({ calls, text }: Answer): ReadonlyArray<Response.StreamPartEncoded> => [
  metadata,
  ...(text === ""
    ? []
    : [
        { type: "text-start", id: "1" } as const,
        ...wordsOf(text).map((delta) => ({ type: "text-delta", id: "1", delta }) as const),
        { type: "text-end", id: "1" } as const
      ]),
  ...callParts(calls),
  finish(calls)
]

const wholeParts = ({ calls, text }: Answer): Array<Response.PartEncoded> => [
  metadata,
  ...(text === "" ? [] : [{ type: "text", text } as const]),
  ...callParts(calls),
  finish(calls)
]

const make = Effect.gen(function* () {
  const model = yield* LanguageModel.make({
    generateText: (options) => Effect.sync(() => wholeParts(answerTo(options))),
    streamText: (options) => Stream.suspend(() => Stream.fromIterable(streamParts(answerTo(options))))
  })
  return LlmProvider.of({
    name: modelName,
    models: { default: modelName, fast: modelName, creative: modelName },
    isOffline: true,
    // It has no settings: every name is answered by the same rules.
    languageModel: () => Effect.succeed(model)
  })
})

export const layer: Layer.Layer<LlmProvider> = Layer.effect(LlmProvider, make)
