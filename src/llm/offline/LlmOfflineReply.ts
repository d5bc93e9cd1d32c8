/**
 * Owns the sentences of the offline model, in English and Chinese.
 *
 * Does not decide what is said (`LlmOffline.ts` does).
 */
import type { Facts, Language, Recall, Wish } from "./LlmOfflineRules.ts"

/** A tool's answer, as it stands in the prompt. */
export interface ToolAnswer {
  readonly name: string
  /** JSON text or a value. */
  readonly result: unknown
  readonly isFailure: boolean
}

const record = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {}

const parsed = (result: unknown): unknown => {
  if (typeof result !== "string") return result
  try {
    return JSON.parse(result)
  } catch {
    return result
  }
}

const text = (value: unknown): string =>
  typeof value === "string" ? value : typeof value === "number" ? String(value) : ""

/** What went wrong, in the tool's own words. */
const problemOf = (result: unknown): string => {
  if (typeof result === "string") return result
  const { error, message } = record(result)
  return text(message) || text(error) || text(record(error).message)
}

const toolNames: Readonly<Record<string, readonly [en: string, zh: string]>> = {
  calculator: ["do that sum", "完成这个计算"],
  get_time: ["find out the time", "查到时间"],
  get_weather: ["find out the weather", "查到天气"],
  web_search: ["search the web", "搜索网页"]
}

const failed = (answer: ToolAnswer, language: Language): string => {
  const problem = problemOf(parsed(answer.result)).replace(/[.。\s]+$/u, "")
  const [en, zh] = toolNames[answer.name] ?? [`use the tool ${answer.name}`, `使用工具 ${answer.name}`]
  return language === "zh"
    ? `抱歉，我没能${zh}${problem === "" ? "" : `：${problem}`}。`
    : `Sorry, I could not ${en}${problem === "" ? "" : `: ${problem}`}.`
}

const sum = (data: Readonly<Record<string, unknown>>, language: Language) => {
  const result = text(data.formatted) || text(data.result)
  return language === "zh"
    ? `${text(data.expression)} = ${result}。`
    : `${text(data.expression)} = ${result}.`
}

const time = (data: Readonly<Record<string, unknown>>, language: Language) => {
  const now = text(data.formatted) || text(data.iso)
  const zone = text(data.timezone)
  if (language === "zh") return `${zone === "" ? "" : `${zone} `}现在是 ${now}。`
  return `It is ${now}${zone === "" ? "" : ` in ${zone}`}.`
}

const weather = (data: Readonly<Record<string, unknown>>, language: Language) => {
  const units = record(data.units)
  const degrees = (value: unknown) => `${text(value)} ${text(units.temperature)}`.trim()
  const place = [text(data.location), text(data.country)].filter((part) => part !== "").join(", ")
  const wind = `${text(data.wind_speed)} ${text(units.wind_speed)}`.trim()
  return language === "zh"
    ? `${place}：${degrees(data.temperature)}（体感 ${degrees(data.feels_like)}），${text(data.conditions)}，湿度 ${text(data.humidity)}%，风速 ${wind}。`
    : `In ${place} it is ${degrees(data.temperature)} (feels like ${degrees(data.feels_like)}), ${text(data.conditions).toLowerCase()}, humidity ${text(data.humidity)}%, wind ${wind}.`
}

const search = (data: Readonly<Record<string, unknown>>, language: Language) => {
  const answer = text(data.ai_answer)
  const results = Array.isArray(data.results) ? data.results.slice(0, 3).map(record) : []
  const list = results.map((found) => `${text(found.title)} (${text(found.url)})`).join("; ")
  if (list === "") return answer || (language === "zh" ? "没有找到任何结果。" : "The search found nothing.")
  return language === "zh"
    ? `${answer}找到：${list}。`
    : `${answer === "" ? "" : `${answer} `}I found: ${list}.`
}

const sentences: Readonly<
  Record<string, (data: Readonly<Record<string, unknown>>, language: Language) => string>
> = { calculator: sum, get_time: time, get_weather: weather, web_search: search }

/** A tool's answer as a sentence, or that it failed and how. */
export const sayAnswer = (answer: ToolAnswer, language: Language): string => {
  if (answer.isFailure) return failed(answer, language)
  const data = parsed(answer.result)
  const say = sentences[answer.name]
  if (say !== undefined) return say(record(data), language)
  const plain = typeof data === "string" ? data : JSON.stringify(data)
  return `${answer.name}: ${plain.slice(0, 500)}`
}

/** A fact as it is told back. */
const factOf = (about: string, value: string, language: Language) => {
  if (language === "zh") return about === "name" ? `你叫${value}` : `你的${about}是${value}`
  const verb = about.endsWith("s") && !about.endsWith("ss") ? "are" : "is"
  return `your ${about} ${verb} ${value}`
}

const capital = (sentence: string) => sentence.charAt(0).toUpperCase() + sentence.slice(1)

/** What is known of what the message asks for, or that nothing is. */
export const sayRecall = (recall: Recall, facts: Facts, language: Language): string => {
  if (recall.about !== null) {
    const value = facts.about.get(recall.about)
    if (value !== undefined) {
      const fact = factOf(recall.about, value, language)
      return language === "zh" ? `${fact}。` : `${capital(fact)}.`
    }
    const about = recall.about === "name" && language === "zh" ? "名字" : recall.about
    return language === "zh"
      ? `你还没有告诉我你的${about}。`
      : `You have not told me your ${about} in this conversation.`
  }
  const all = [
    ...Array.from(facts.about, ([about, value]) => factOf(about, value, language)),
    ...facts.remembered.map((what) => (language === "zh" ? `“${what}”` : `“${what}”`))
  ]
  if (all.length === 0) {
    return language === "zh"
      ? "你还没有让我记住任何事情。"
      : "You have not told me anything to remember in this conversation."
  }
  return language === "zh" ? `你告诉过我：${all.join("；")}。` : `You told me: ${all.join("; ")}.`
}

/** That what was just told has been taken note of. */
export const sayNoted = (name: string | undefined, language: Language): string => {
  if (name !== undefined) {
    return language === "zh"
      ? `很高兴认识你，${name}！在这次对话里我会记住的。`
      : `Nice to meet you, ${name}! I will remember that in this conversation.`
  }
  return language === "zh"
    ? "好的，在这次对话里我会记住的。"
    : "Noted. I will remember that in this conversation."
}

/** What has to be known before a wish can be met. */
export const sayMissing = (language: Language): string =>
  language === "zh" ? "你想知道哪个地方的天气？" : "For which place would you like to know the weather?"

/** That a wish needs a tool which is not there. */
export const sayNotOffered = (tool: Wish["tool"], language: Language): string => {
  const [en, zh] = toolNames[tool] ?? ["do that", "做这件事"]
  const hint =
    tool === "web_search"
      ? language === "zh"
        ? "（需要设置 TAVILY_API_KEY）"
        : " (it needs TAVILY_API_KEY)"
      : ""
  return language === "zh"
    ? `现在没有可用的工具来${zh}${hint}。`
    : `No tool to ${en} is available now${hint}.`
}

export const sayThanks = (language: Language): string => (language === "zh" ? "不客气！" : "You are welcome!")

const abilities: ReadonlyArray<readonly [tool: string, en: string, zh: string]> = [
  ["calculator", "do sums", "做计算"],
  ["get_time", "tell the time", "报时间"],
  ["get_weather", "report the weather", "查天气"],
  ["web_search", "search the web", "搜索网页"]
]

const listEn = (items: ReadonlyArray<string>) =>
  items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`

/** What it is, what it can do, and how to get a real model. */
export const sayHelp = (
  options: {
    readonly offered: ReadonlySet<string>
    readonly greet: boolean
    readonly name: string | undefined
  },
  language: Language
): string => {
  const can = abilities.filter(([tool]) => options.offered.has(tool))
  if (language === "zh") {
    const hello = options.greet
      ? `你好${options.name === undefined ? "" : `，${options.name}`}！`
      : "这个我听不懂。"
    const list = [...can.map(([, , zh]) => zh), "记住你在这次对话里告诉我的事"].join("、")
    return `${hello}我是离线模型，只懂一些固定的规则。我可以${list}。要使用真正的语言模型，请设置 LLM_BASE_URL、LLM_API_KEY 和 LLM_MODEL，然后重新启动。`
  }
  const hello = options.greet
    ? `Hello${options.name === undefined ? "" : `, ${options.name}`}!`
    : "I did not understand that."
  const list = listEn([...can.map(([, en]) => en), "remember what you tell me in this conversation"])
  return `${hello} I am the offline model, which knows a few fixed rules only. I can ${list}. For a real language model set LLM_BASE_URL, LLM_API_KEY and LLM_MODEL, and start again.`
}
