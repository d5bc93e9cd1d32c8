/**
 * Owns the names of the spans this product makes. One trace per turn; the tree is in docs/ARCHITECTURE.md.
 */
export const SpanName = {
  sendMessage: "api.send_message",
  processMessage: "agent.process_message",
  buildMessages: "agent.build_messages",
  callLlm: "agent.call_llm",
  handleTools: "agent.handle_tools",
  formatResponse: "agent.format_response",
  executeTool: "tool.execute",
  databaseQuery: "database.query"
} as const
