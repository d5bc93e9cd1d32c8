/**
 * Owns what is known of the request being answered, for whatever runs under it: turns, logs, problems.
 */
import { Context } from "effect"

export interface RequestIds {
  /** The caller's, or minted. */
  readonly requestId: string
  readonly traceId: string
  readonly spanId: string
  readonly sampled: boolean
  readonly method: string
  /** The pattern of the endpoint that answers, once there is one. */
  route: string | undefined
}

export const CurrentRequest = Context.Reference<RequestIds>("voice-agent/observability/CurrentRequest", {
  defaultValue: () => ({
    requestId: "",
    traceId: "",
    spanId: "",
    sampled: false,
    method: "",
    route: undefined
  })
})
