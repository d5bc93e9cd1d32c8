/**
 * Owns how what a client sends becomes a turn to run.
 */
import type { ChatRequest } from "../api/ChatApi.ts"
import type { ModelOverride } from "../llm/Llm.ts"
import type { RequestIds } from "../observability/CurrentRequest.ts"
import type { TurnRequest } from "../turns/Turns.ts"

type Sent = Pick<ChatRequest, "message"> & Partial<Omit<ChatRequest, "message" | "stream">>

/** Settings may come under any of three names; where they disagree, the more specific name wins. */
const override = (sent: Sent): ModelOverride => {
  const chosen: { model?: string; temperature?: number; maxTokens?: number } = {}
  for (const settings of [sent.model_params, sent.model_config, sent.model_config_override]) {
    if (typeof settings?.model === "string") chosen.model = settings.model
    if (typeof settings?.temperature === "number") chosen.temperature = settings.temperature
    if (typeof settings?.max_tokens === "number") chosen.maxTokens = settings.max_tokens
  }
  return chosen
}

export const turnRequest = (
  sent: Sent,
  { origin, whenBusy }: Pick<TurnRequest, "origin" | "whenBusy">
): TurnRequest => ({
  message: sent.message,
  sessionId: sent.session_id ?? undefined,
  userId: sent.user_id ?? undefined,
  context: sent.context ?? undefined,
  variant: sent.model_variant ?? "default",
  override: override(sent),
  origin,
  whenBusy
})

/** One turn for a request: it waits for its session, and is part of the request's trace. */
export const ofRequest = ({ method, route = "" }: RequestIds) =>
  ({ origin: { name: `${method} ${route}`.trim(), trace: "continued" }, whenBusy: "wait" }) as const

/** One of the turns of a WebSocket, which outlives them: it interrupts the one before it. */
export const ofSocket = ({ route = "" }: RequestIds) =>
  ({ origin: { name: `WS ${route}`.trim(), trace: "own" }, whenBusy: "interrupt" }) as const
