/**
 * Owns what is sent to the model: the system prompt, the history that fits the budget, and the turn so far. Whatever
 * was interrupted, every tool call in it has its result and every result its call.
 *
 * Does not read the database (`TurnsRepo` does) or call the model.
 */
import { readFileSync } from "node:fs"
import * as Prompt from "effect/ai/Prompt"

/** A tool call and what came of it. */
export interface RecordedCall {
  /** From 0: which model call of the turn asked for it. */
  readonly step: number
  readonly id: string
  readonly name: string
  /** JSON, or whatever the model sent in its place. */
  readonly arguments: string
  /** UTF-16 code units of the reply that came before the call. */
  readonly textOffset: number
  /** What the model is told came of it. */
  readonly result: string
  readonly success: boolean
  readonly durationMillis: number
}

/** What one turn said and did, as far as it came. */
export interface TurnRecord {
  readonly user: string
  readonly reply: string
  readonly calls: ReadonlyArray<RecordedCall>
}

const systemPrompt = readFileSync(new URL("./system-prompt.md", import.meta.url), "utf8").trim()

/**
 * Tokens of a text, estimated: UTF-8 bytes by 3.5, which is near for English (4 characters a token) and for Chinese
 * (3 bytes, about one token, a character).
 */
export const estimateTokens = (text: string): number => Math.ceil(Buffer.byteLength(text) / 3.5)

/** What each message costs besides its text, as OpenAI's own count has it. */
const messageOverhead = 4

const callsByStep = (calls: ReadonlyArray<RecordedCall>): ReadonlyArray<ReadonlyArray<RecordedCall>> => {
  const steps: Array<Array<RecordedCall>> = []
  let last = -1
  for (const call of calls) {
    if (call.step !== last) steps.push([])
    steps.at(-1)?.push(call)
    last = call.step
  }
  return steps
}

const stepCost = (step: ReadonlyArray<RecordedCall>) =>
  step.reduce(
    (sum, call) => sum + estimateTokens(call.arguments) + estimateTokens(call.result) + 2 * messageOverhead,
    0
  )

const turnCost = (turn: TurnRecord) =>
  estimateTokens(turn.user) +
  estimateTokens(turn.reply) +
  2 * messageOverhead +
  callsByStep(turn.calls).reduce((sum, step) => sum + stepCost(step), 0)

/** JSON as the value it stands for; text that is none is kept as text. */
const parseArguments = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

const assistantMessages = (
  reply: string,
  steps: ReadonlyArray<ReadonlyArray<RecordedCall>>,
  from: number
) => {
  const messages: Array<Prompt.Message> = []
  let offset = from
  for (const step of steps) {
    const end = step[0]?.textOffset ?? offset
    const text = reply.slice(offset, end)
    offset = end
    messages.push(
      Prompt.assistantMessage({
        content: [
          ...(text === "" ? [] : [Prompt.textPart({ text })]),
          ...step.map((call) =>
            Prompt.toolCallPart({
              id: call.id,
              name: call.name,
              params: parseArguments(call.arguments),
              providerExecuted: false
            })
          )
        ]
      }),
      Prompt.toolMessage({
        content: step.map((call) =>
          Prompt.toolResultPart({
            id: call.id,
            name: call.name,
            isFailure: !call.success,
            result: call.result,
            providerExecuted: false
          })
        )
      })
    )
  }
  const rest = reply.slice(offset)
  if (rest !== "") messages.push(Prompt.assistantMessage({ content: [Prompt.textPart({ text: rest })] }))
  return messages
}

/**
 * The prompt of the next model call. `history` is oldest first. Whole turns are left out, oldest first, until the rest
 * fits `budget` tokens; then whole steps of the turn that runs. Its user message always stays.
 *
 * A turn that got no reply leaves its user message, which joins the next one: many chat templates want the roles to
 * take turns.
 */
export const buildPrompt = (
  history: ReadonlyArray<TurnRecord>,
  current: TurnRecord,
  budget: number
): Prompt.Prompt => {
  const steps = callsByStep(current.calls)
  let left = budget - estimateTokens(systemPrompt) - turnCost({ ...current, calls: [] })

  let firstStep = steps.length
  for (let i = steps.length - 1; i >= 0; i--) {
    left -= stepCost(steps[i] ?? [])
    if (left < 0) break
    firstStep = i
  }
  // The last step's results are what the model is to answer with, even when they are too large.
  firstStep = Math.max(0, Math.min(firstStep, steps.length - 1))

  let firstTurn = history.length
  for (let i = history.length - 1; i >= 0 && left >= 0; i--) {
    const turn = history[i]
    if (turn === undefined) break
    left -= turnCost(turn)
    if (left < 0) break
    firstTurn = i
  }

  const messages: Array<Prompt.Message> = [Prompt.systemMessage({ content: systemPrompt })]
  let unanswered: Array<string> = []
  const add = (turn: TurnRecord, steps: ReadonlyArray<ReadonlyArray<RecordedCall>>, from: number) => {
    const reply = assistantMessages(turn.reply, steps, from)
    unanswered.push(turn.user)
    if (reply.length === 0 && turn !== current) return
    messages.push(
      Prompt.userMessage({ content: [Prompt.textPart({ text: unanswered.join("\n\n") })] }),
      ...reply
    )
    unanswered = []
  }
  for (const turn of history.slice(firstTurn)) add(turn, callsByStep(turn.calls), 0)
  const kept = steps.slice(firstStep)
  add(current, kept, firstStep === 0 ? 0 : (kept[0]?.[0]?.textOffset ?? 0))
  return Prompt.fromMessages(messages)
}
