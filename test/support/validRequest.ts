/**
 * Owns what makes a chat-completions request valid, as the strictest servers and chat templates see it.
 */
import type { ScriptedMessage, ScriptedRequestBody } from "voice-agent-api/testing"

const idsOf = (message: ScriptedMessage) => (message.tool_calls ?? []).map((call) => call.id)

const isJsonObject = (text: string) => {
  try {
    const value = JSON.parse(text)
    return typeof value === "object" && value !== null && !Array.isArray(value)
  } catch {
    return false
  }
}

/** What is wrong with a request; `undefined` when nothing is. */
export const faultOf = ({ messages }: Pick<ScriptedRequestBody, "messages">): string | undefined => {
  const [system, ...rest] = messages
  if (system?.role !== "system") return "it does not begin with the system prompt"
  if (rest[0]?.role !== "user") return "the first after the system prompt is not the user"
  let open: ReadonlyArray<string> = []
  let previous = "system"
  for (const message of rest) {
    const { role } = message
    if (role === "tool") {
      const id = message.tool_call_id ?? ""
      if (id !== open[0]) return `a result for ${id} where ${open[0] ?? "no call"} is open`
      open = open.slice(1)
      if (typeof message.content !== "string" || message.content === "") return `the result of ${id} is empty`
    } else {
      if (open.length > 0) return `calls without results: ${open.join()}`
      if (role !== "user" && role !== "assistant") return `an unexpected role: ${role}`
      if (role === previous) return `two messages of the ${role} in a row`
      const calls = message.tool_calls ?? []
      if (calls.length === 0 && (message.content ?? "") === "") return `an empty message of the ${role}`
      for (const { function: called } of calls) {
        if (!isJsonObject(called.arguments)) return `arguments that are no JSON object: ${called.arguments}`
      }
      open = idsOf(message)
      if (new Set(open).size !== open.length) return `two calls of one id: ${open.join()}`
    }
    previous = role
  }
  if (open.length > 0) return `calls without results: ${open.join()}`
  if (previous === "assistant") return "nothing for the model to answer"
  return undefined
}
