/**
 * Owns the putting together of tool calls from the deltas of a chat-completions stream.
 *
 * Does not judge a call: an unknown name or arguments that are no JSON go on as they came, and the tools answer the model.
 */
import * as Tool from "effect/ai/Tool"

/** A delta as servers send it. OpenAI sends `index` always and `id` once; others leave out either, or both. */
export interface ToolCallDelta {
  readonly index?: unknown
  readonly id?: unknown
  readonly function?: { readonly name?: unknown; readonly arguments?: unknown } | null
}

export interface PendingToolCall {
  readonly id: string
  name: string
  arguments: string
  /** The part of `arguments` that has not been announced yet. */
  unannounced: string
  /** Whether its start has been announced. */
  isAnnounced: boolean
}

/** The arguments of a call as a value: an object for valid JSON or none at all, otherwise the text itself. */
export const parseArguments = (text: string): unknown => {
  if (text.trim() === "") return {}
  try {
    return Tool.unsafeSecureJsonParse(text)
  } catch {
    return text
  }
}

const isCompleteObject = (text: string): boolean => {
  if (!text.trimStart().startsWith("{")) return false
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : "")

/** Whether a delta that points at `call` begins another one. `isPointed`: it has an index or an id. */
const beginsAnother = (
  call: PendingToolCall,
  delta: { readonly id: string; readonly name: string; readonly text: string; readonly isPointed: boolean }
): boolean => {
  // A name comes once per call, at its start. Servers that number every call 0 tell calls apart only by this.
  if (delta.name === "" || call.name === "") return false
  if (delta.id !== "" && delta.id !== call.id) return true
  if (delta.name !== call.name) return call.arguments === "" || isCompleteObject(call.arguments)
  // Some servers repeat the name in every delta, up to an empty last one.
  return (delta.text !== "" || !delta.isPointed) && isCompleteObject(call.arguments)
}

export class ToolCalls {
  /** In the order the model began them. */
  readonly all: Array<PendingToolCall> = []
  readonly #byIndex = new Map<unknown, PendingToolCall>()
  readonly #byId = new Map<string, PendingToolCall>()

  /** Takes one delta; answers the call it belongs to. */
  add(delta: ToolCallDelta): PendingToolCall {
    const id = textOf(delta.id)
    const name = textOf(delta.function?.name)
    const given = delta.function?.arguments
    // Ollama once sent arguments as an object.
    const text = typeof given === "object" && given !== null ? JSON.stringify(given) : textOf(given)
    const hasIndex = delta.index !== undefined && delta.index !== null

    let call = hasIndex ? this.#byIndex.get(delta.index) : id === "" ? undefined : this.#byId.get(id)
    // Some servers mint a new id for every delta; only a name says that a call begins.
    if (call === undefined && !hasIndex && name === "") call = this.all.at(-1)
    if (call === undefined && !hasIndex && id === "") call = this.all.at(-1)
    if (call === undefined || beginsAnother(call, { id, name, text, isPointed: hasIndex || id !== "" })) {
      call = this.#begin(id)
      if (hasIndex) this.#byIndex.set(delta.index, call)
    }
    if (call.name === "") call.name = name
    call.arguments += text
    call.unannounced += text
    return call
  }

  #begin(id: string): PendingToolCall {
    // Ids have to be told apart when the results go back, whatever the server sent.
    const unique = id === "" || this.#byId.has(id) ? `call_${crypto.randomUUID().replaceAll("-", "")}` : id
    const call = { id: unique, name: "", arguments: "", unannounced: "", isAnnounced: false }
    this.all.push(call)
    this.#byId.set(unique, call)
    return call
  }
}
