/**
 * Owns the `intent` of a turn: what the user wanted, in one word, told from the tools that were called and the
 * message itself. No model is asked.
 */

export interface Intent {
  readonly intent: string
  /** 0 to 1. */
  readonly confidence: number
}

const byTool: Readonly<Record<string, string>> = {
  calculator: "calculation",
  get_time: "time",
  get_weather: "weather",
  web_search: "search"
}

const byPattern: ReadonlyArray<readonly [intent: string, pattern: RegExp]> = [
  ["greeting", /^\s*(hi|hello|hey|good (morning|afternoon|evening)|你好|您好|嗨)(?![a-z])/i],
  ["farewell", /^\s*(bye|goodbye|see you|good night|再见|拜拜)(?![a-z])/i],
  ["thanks", /^\s*(thanks|thank you|谢谢|多谢)(?![a-z])/i],
  ["introduction", /\b(my name is|i am called|call me)\b|我叫|我的名字是/i],
  [
    "question",
    /[?？]\s*$|^\s*(what|who|where|when|why|how|which|is|are|do|does|did|can|could)\b|什么|谁|哪|怎么|为什么|吗/i
  ]
]

/** `tools` are the names of the tools called, in order. A call is strong evidence, a pattern fair, none of both weak. */
export const intentOf = (message: string, tools: ReadonlyArray<string>): Intent => {
  const called = tools[0]
  if (called !== undefined) return { intent: byTool[called] ?? called, confidence: 0.95 }
  const matched = byPattern.find(([, pattern]) => pattern.test(message))
  return matched === undefined ? { intent: "chat", confidence: 0.5 } : { intent: matched[0], confidence: 0.8 }
}
