/**
 * Owns what the offline model understands of a message: the tools it calls for, what the person tells about themselves,
 * and what they ask to be told again. English and Chinese.
 *
 * Does not answer (`LlmOfflineReply.ts` does). Rules, not language: what no rule fits is not understood.
 */

export type Language = "en" | "zh"

/** A tool call the message asks for. */
export interface Wish {
  readonly tool: "calculator" | "get_time" | "get_weather" | "web_search"
  /** `undefined`: something has to be asked first, as a place for the weather. */
  readonly args: Readonly<Record<string, string>> | undefined
  /** Where in the message it stands; calls are made in this order. */
  readonly at: number
}

/** What the person has said so far. */
export interface Facts {
  /** By what it is about, as in “my <favourite colour> is …”; `name` holds the name. */
  readonly about: Map<string, string>
  /** What was to be remembered, word for word. */
  readonly remembered: Array<string>
}

/** What the message asks to be told again. `about`: a key of `Facts`; `null`: everything. */
export interface Recall {
  readonly about: string | null
}

export const languageOf = (text: string): Language => (/\p{Script=Han}/u.test(text) ? "zh" : "en")

const trimEnd = (text: string) => text.trim().replace(/[\s.,!?;:，。！？；：、]+$/u, "")

// ---- sums

/** Words for operators, in the order they are replaced. */
const operators: ReadonlyArray<readonly [RegExp, string]> = [
  [/\bsquare root of\s+(\d[\d.]*)/gi, "sqrt($1)"],
  [/(?:根号|√)\s*(\d[\d.]*)/gu, "sqrt($1)"],
  [/(\d[\d.]*)\s*的平方根/gu, "sqrt($1)"],
  [/\s*\b(?:plus|added to)\b\s*/gi, " + "],
  [/\s*\bminus\b\s*/gi, " - "],
  [/\s*\b(?:times|multiplied by)\b\s*/gi, " * "],
  [/\s*\b(?:divided by|over)\b\s*(?=\d)/gi, " / "],
  [/\s*\bto the power of\b\s*/gi, " ^ "],
  [/\s+squared\b/gi, " ^ 2"],
  [/\s+cubed\b/gi, " ^ 3"],
  [/\s*\bpercent\b/gi, "%"],
  [/的平方/gu, " ^ 2"],
  [/\s*(?:加上?|＋)\s*(?=\d)/gu, " + "],
  [/\s*(?:减去?|－)\s*(?=\d)/gu, " - "],
  [/\s*(?:乘以?|×)\s*(?=\d)/gu, " * "],
  [/\s*(?:除以|÷)\s*(?=\d)/gu, " / "],
  [/\*\*/g, "^"],
  [/(?<=\d)\s*[x×]\s*(?=\d)/gi, " * "]
]

const run =
  /(?:sqrt\(\s*\d[\d.]*\s*\)|\d+(?:,\d{3})*(?:\.\d+)?%?!?|[-+(])(?:\s*(?:sqrt\(\s*\d[\d.]*\s*\)|\d+(?:,\d{3})*(?:\.\d+)?%?!?|[-+*/^()]|\bof\b))*/giu

const balanced = (text: string) => {
  let depth = 0
  for (const char of text) {
    if (char === "(") depth++
    if (char === ")" && --depth < 0) return false
  }
  return depth === 0
}

/** A date, a span of years, or round the clock: digits that are no sum. */
const isNoSum = (text: string) =>
  /^\d{4}[-/]\d{1,2}(?:[-/]\d{1,4})?$|^\d{1,2}\/\d{1,2}\/\d{2,4}$|^24\/7$/.test(text)

const sumsOf = (message: string): ReadonlyArray<Wish> => {
  let text = message
  for (const [words, sign] of operators) text = text.replace(words, sign)
  const wishes: Array<Wish> = []
  for (const match of text.matchAll(run)) {
    const expression = match[0]
      .replace(/(\d),(?=\d{3})/g, "$1")
      .replace(/(?:[-+*/^(\s]|\bof\b)+$/i, "")
      .trim()
    const hasOperator = /\d\s*[-+*/^]\s*[-(s]*\d|\)\s*[-+*/^]|%\s*of\s|\d!|sqrt\(/i.test(expression)
    if (!hasOperator || !balanced(expression) || isNoSum(expression)) continue
    // Replacing words moved things; the share of the text is near enough for an order.
    wishes.push({
      tool: "calculator",
      args: { expression },
      at: (match.index / text.length) * message.length
    })
  }
  for (const match of message.matchAll(/\bconvert\s+(\d[\d.]*\s*[a-z°/]+)\s+(?:to|into|in)\s+([a-z°/]+)/gi)) {
    wishes.push({ tool: "calculator", args: { expression: `${match[1]} to ${match[2]}` }, at: match.index })
  }
  return wishes
}

// ---- time, weather, search

/** Where a place's name ends in English. */
const placeEnd = /(?=\s+(?:and|right now|now|at the moment|today|tomorrow|please|currently)\b|[?.!,;]|$)/u
  .source

const timeEn = new RegExp(
  String.raw`\b(?:what(?:'s|’s| is)?(?: the)?(?: current| local)? time|tell me the (?:time|date)|current time|time is it|what day(?: is it| of the week)?|what(?:'s|’s| is) (?:today(?:'s|’s) date|the date|today)|(?:today(?:'s|’s)|current) date)\b(?:[^?.!,;]*?\b(?:in|at)\s+(?<place>[\p{L}][\p{L} .'/_-]*?)${placeEnd})?`,
  "giu"
)
const timeZh =
  /(?:在)?(?<place>\p{Script=Han}{2,8}?|[A-Za-z][A-Za-z /_]*?)?(?:的)?(?:现在|当前|这会儿)?(?:是)?(?:几点|什么时间|的?时间是|几号|星期几|周几|几月几[号日])/gu
const fillers =
  /^(?:请问|请|告诉我|那么?|现在|当前|今天|和|还有|以及|在|你知道|知道|是)+|(?:的|现在|今天|当前|是)+$/gu

/** Zones of the cities people name in Chinese; the time tool knows English names itself. */
const zones: Readonly<Record<string, string>> = {
  北京: "Asia/Shanghai",
  上海: "Asia/Shanghai",
  中国: "Asia/Shanghai",
  香港: "Asia/Hong_Kong",
  台北: "Asia/Taipei",
  东京: "Asia/Tokyo",
  日本: "Asia/Tokyo",
  首尔: "Asia/Seoul",
  新加坡: "Asia/Singapore",
  迪拜: "Asia/Dubai",
  莫斯科: "Europe/Moscow",
  柏林: "Europe/Berlin",
  巴黎: "Europe/Paris",
  伦敦: "Europe/London",
  英国: "Europe/London",
  纽约: "America/New_York",
  芝加哥: "America/Chicago",
  洛杉矶: "America/Los_Angeles",
  旧金山: "America/Los_Angeles",
  悉尼: "Australia/Sydney"
}

const weatherEn = new RegExp(
  String.raw`\b(?:weather|forecast|temperature outside|how (?:hot|cold|warm) is it|is it (?:raining|sunny|snowing))\b(?:[^?.!;]*?\b(?:in|at|for)\s+(?<place>[\p{L}][\p{L} .'-]*?(?:,\s*(?!right\b|now\b|please\b|today\b|and\b|currently\b)\p{L}[\p{L} ]*?)?)${placeEnd})?`,
  "giu"
)
const weatherZh =
  /(?<place>\p{Script=Han}{1,8}?|[A-Za-z][A-Za-z ]*?)?(?:的|今天|现在|明天)*(?:天气|气温|下雨吗)/gu

const searchEn =
  /\b(?:search(?: the (?:web|internet)| online)?(?: for)?|look up|google)\s+(?<query>[^?!\n]+)/giu
const searchZh = /(?:搜索|搜一下|搜搜|网上查|查一下|上网查)(?:一下)?[:：]?\s*(?<query>[^？！?!。\n]+)/gu

const placeOf = (match: RegExpExecArray, language: Language): string => {
  const place = trimEnd(match.groups?.place ?? "")
  return language === "zh" ? place.replace(fillers, "") : place.replace(/^the\s+/i, "")
}

/** The tool calls a message asks for, in its order. */
export const wishesOf = (message: string, language: Language): ReadonlyArray<Wish> => {
  const wishes: Array<Wish> = []
  for (const match of message.matchAll(language === "zh" ? searchZh : searchEn)) {
    wishes.push({
      tool: "web_search",
      args: { query: trimEnd(match.groups?.query ?? "") },
      at: match.index
    })
  }
  // What is searched for may read like a sum or a question about the weather.
  if (wishes.length > 0) return wishes
  wishes.push(...sumsOf(message))
  for (const match of message.matchAll(language === "zh" ? timeZh : timeEn)) {
    const place = placeOf(match, language)
    wishes.push({
      tool: "get_time",
      args: place === "" ? {} : { timezone: zones[place] ?? place },
      at: match.index
    })
  }
  for (const match of message.matchAll(language === "zh" ? weatherZh : weatherEn)) {
    const place = placeOf(match, language)
    wishes.push({
      tool: "get_weather",
      args: place === "" ? undefined : { location: place },
      at: match.index
    })
  }
  return wishes.sort((a, b) => a.at - b.at)
}

// ---- facts

const nameEn =
  /\b(?:my name is|my name['’]s|i am called|i['’]m called|(?:you can |please )?call me)\s+(?!(?:not|at|on|in|by|to|back|when|if|later|before|after|tomorrow|the|an?)\b)(?<name>\p{L}[\p{L}'’-]*)(?<more>(?:\s+\p{L}[\p{L}'’-]*)*)/giu
const nameZh =
  /(?:我的名字(?:是|叫)|我叫|叫我)(?!什么|啥|做)\s*(?<name>[\p{Script=Han}·]{1,8}|[A-Za-z][A-Za-z '-]*)/gu
const aboutEn = /\bmy\s+(?<what>[a-z][a-z ]{1,30}?)\s+(?:is|are)\s+(?<value>[^.!?\n]+)/giu
const aboutZh = /我的(?<what>[^，。！？\s是]{1,10})是(?!什么|谁|哪|多少|几)(?<value>[^，。！？\n]+)/gu
const rememberEn =
  /(?:^|[.!?,;]\s*|\b(?:please|you)\s+)(?:remember|note|don['’]t forget)(?:\s+that|:)?\s+(?<what>(?:[^\n?.!]|\.(?=\d))+)/giu
const rememberZh = /(?:请|帮我)*(?:记住|记下|别忘了)[:：，,]?\s*(?<what>[^？。！\n]+)/gu

const isQuestion = (text: string) => /[?？]\s*$/u.test(text) || /^\s*(?:what|who|do|did|can)\b/i.test(text)

/** Adds what a message tells to what is known; the latest word on a thing counts. */
export const learn = (facts: Facts, message: string): void => {
  for (const match of message.matchAll(aboutEn)) {
    const what = (match.groups?.what ?? "").toLowerCase()
    if (what !== "name") facts.about.set(what, trimEnd(match.groups?.value ?? ""))
  }
  for (const match of message.matchAll(aboutZh)) {
    const what = match.groups?.what ?? ""
    if (what !== "名字") facts.about.set(what, trimEnd(match.groups?.value ?? ""))
  }
  for (const match of message.matchAll(nameEn)) {
    // Further words belong to the name as long as they are capitalised.
    const more = /^(?:\s+\p{Lu}[\p{L}'’-]*)*/u.exec(match.groups?.more ?? "")?.[0] ?? ""
    facts.about.set("name", `${match.groups?.name}${more}`)
  }
  for (const match of message.matchAll(nameZh)) {
    facts.about.set("name", trimEnd(match.groups?.name ?? ""))
  }
  for (const pattern of [rememberEn, rememberZh]) {
    for (const match of message.matchAll(pattern)) {
      const what = trimEnd(match.groups?.what ?? "")
      if (what !== "" && !isQuestion(match[0])) facts.remembered.push(what)
    }
  }
}

const recallNameEn = /\b(?:what(?:['’]s| is) my name|(?:know|remember) my name|who am i|what am i called)\b/i
const recallNameZh = /我叫(?:什么|啥)|我的名字(?:是|叫)?(?:什么|啥)|我是谁|(?:记得|知道)我的名字/u
const recallAboutEn = /\bwhat(?:['’]s| is| are) my (?<what>[a-z][a-z ]*?)(?=[?.!,]|\s+and\b|$)/giu
const recallAboutZh = /我的(?<what>[^，。！？\s是]{1,10})是(?:什么|谁|哪|多少|几)/gu
const recallAllEn =
  /\bwhat (?:did i (?:tell|say to|ask) you|have i told you|do you (?:remember|know about me))|\bdo you remember (?:anything|what)|\bwhat (?:did i )?(?:ask you to remember)/i
const recallAllZh =
  /我(?:告诉|跟|和|对)过?你(?:说)?(?:过|了)?(?:些)?什么|你(?:还|都)?(?:记得|记住)了?(?:些|我)?(?:什么|啥)|让你记(?:住|得)?了?什么/u

/** What a message asks to be told again. */
export const recallsOf = (message: string): ReadonlyArray<Recall> => {
  const recalls: Array<Recall> = []
  if (recallNameEn.test(message) || recallNameZh.test(message)) recalls.push({ about: "name" })
  for (const pattern of [recallAboutEn, recallAboutZh]) {
    for (const match of message.matchAll(pattern)) {
      const about = (match.groups?.what ?? "").toLowerCase().trim()
      if (about !== "name" && about !== "名字") recalls.push({ about })
    }
  }
  if (recallAllEn.test(message) || recallAllZh.test(message)) recalls.push({ about: null })
  return recalls
}

export const isGreeting = (message: string): boolean =>
  /^\s*(?:hi|hello|hey|good (?:morning|afternoon|evening)|howdy)\b/i.test(message) ||
  /^\s*(?:你好|您好|嗨|早上好|晚上好)/u.test(message)

export const isThanks = (message: string): boolean =>
  /\b(?:thanks|thank you|cheers)\b/i.test(message) || /谢谢|多谢/u.test(message)
