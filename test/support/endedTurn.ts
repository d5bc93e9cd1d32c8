/** The last event of a turn that its client stopped. */
export const endedTurn = {
  type: "ended",
  result: {
    status: "cancelled",
    reply: "",
    messageId: null,
    tools: [],
    model: "m",
    usage: null,
    processingMillis: 0,
    traceId: "",
    cancelReason: "client_request",
    error: null,
    errorCode: null
  }
} as const
