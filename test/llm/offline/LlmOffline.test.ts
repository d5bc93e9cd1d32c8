import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Schema, Stream } from "effect"
import { Prompt, Tool, Toolkit } from "effect/ai"
import { LlmProvider } from "../../../src/llm/Llm.ts"
import * as LlmOffline from "../../../src/llm/offline/LlmOffline.ts"

const all: ReadonlySet<string> = new Set(["calculator", "get_time", "get_weather", "web_search"])

const answer = (message: string, offered = all) => LlmOffline.answer(Prompt.make(message), offered)
const callsOf = (message: string, offered = all): ReadonlyArray<ReadonlyArray<unknown>> =>
  answer(message, offered).calls.map((call) => [call.tool, call.args])
const saysTo = (message: string, offered = all) => answer(message, offered).text

/** What it says to the last of several messages of a person. */
const saysAfter = (...messages: ReadonlyArray<string>) =>
  LlmOffline.answer(
    Prompt.make(
      messages.flatMap((content, n) => [
        ...(n === 0 ? [] : [{ role: "assistant" as const, content: "(an answer)" }]),
        { role: "user" as const, content }
      ])
    ),
    all
  ).text

/** What it says once the tools it called have answered. */
const saysWith = (
  question: string,
  ...results: ReadonlyArray<readonly [name: string, result: unknown, isFailure?: boolean]>
) =>
  LlmOffline.answer(
    Prompt.fromMessages([
      Prompt.userMessage({ content: [Prompt.textPart({ text: question })] }),
      Prompt.assistantMessage({
        content: results.map(([name], n) =>
          Prompt.toolCallPart({ id: String(n), name, params: {}, providerExecuted: false })
        )
      }),
      Prompt.toolMessage({
        content: results.map(([name, result, isFailure = false], n) =>
          Prompt.toolResultPart({ id: String(n), name, result, isFailure, providerExecuted: false })
        )
      })
    ]),
    all
  )

describe("LlmOffline, the tools it calls", () => {
  const cases: ReadonlyArray<readonly [message: string, tool: string, args: Record<string, string>]> = [
    ["what is 2+2?", "calculator", { expression: "2+2" }],
    ["What's 15% of 80?", "calculator", { expression: "15% of 80" }],
    ["what is 3 times (4 + 5)?", "calculator", { expression: "3 * (4 + 5)" }],
    ["12 divided by 4", "calculator", { expression: "12 / 4" }],
    ["what is the square root of 16", "calculator", { expression: "sqrt(16)" }],
    ["what is 1,000 + 2,500.5", "calculator", { expression: "1000 + 2500.5" }],
    ["-3 + 5", "calculator", { expression: "-3 + 5" }],
    ["2**3", "calculator", { expression: "2^3" }],
    ["what is 5!", "calculator", { expression: "5!" }],
    ["convert 2 inches to cm", "calculator", { expression: "2 inches to cm" }],
    ["3加5等于多少", "calculator", { expression: "3 + 5" }],
    ["计算 12*(3+4)", "calculator", { expression: "12*(3+4)" }],
    ["What time is it?", "get_time", {}],
    ["what time is it in New York right now?", "get_time", { timezone: "New York" }],
    ["tell me the time in london please", "get_time", { timezone: "london" }],
    ["what day is it today?", "get_time", {}],
    ["现在几点了", "get_time", {}],
    ["东京现在几点？", "get_time", { timezone: "Asia/Tokyo" }],
    ["What's the weather in Paris?", "get_weather", { location: "Paris" }],
    ["How's the weather in Paris, Texas?", "get_weather", { location: "Paris, Texas" }],
    ["what is the weather in New York, right now?", "get_weather", { location: "New York" }],
    ["is it raining in Berlin today?", "get_weather", { location: "Berlin" }],
    ["今天北京天气怎么样？", "get_weather", { location: "北京" }],
    ["search for the news about 2+2", "web_search", { query: "the news about 2+2" }],
    ["搜索一下 量子计算", "web_search", { query: "量子计算" }]
  ]
  for (const [message, tool, args] of cases) {
    it(message, () => assert.deepStrictEqual(callsOf(message), [[tool, args]]))
  }

  it("calls two tools at once, in the order asked", () => {
    assert.deepStrictEqual(callsOf("what is 2+2 and what time is it in Tokyo?"), [
      ["calculator", { expression: "2+2" }],
      ["get_time", { timezone: "Tokyo" }]
    ])
    assert.deepStrictEqual(callsOf("What time is it in Sao Paulo and what is 12*12?"), [
      ["get_time", { timezone: "Sao Paulo" }],
      ["calculator", { expression: "12*12" }]
    ])
    assert.deepStrictEqual(callsOf("现在纽约几点,还有5乘以6是多少？"), [
      ["get_time", { timezone: "America/New_York" }],
      ["calculator", { expression: "5 * 6" }]
    ])
  })

  it("takes dates and round-the-clock for what they are", () => {
    for (const message of ["I was born on 2024-05-01", "we are open 24/7", "room 12", "on 1/2/2024"]) {
      assert.isEmpty(callsOf(message), message)
    }
  })

  it("asks for the place when the weather of none is wanted", () => {
    assert.isEmpty(callsOf("how is the weather?"))
    assert.match(saysTo("how is the weather?"), /which place/)
    assert.match(saysTo("天气怎么样"), /哪个地方/u)
  })

  it("calls only what is offered, and says what is missing", () => {
    const offered = new Set(["calculator"])
    assert.isEmpty(callsOf("search for cats", offered))
    assert.match(saysTo("search for cats", offered), /search the web.*TAVILY_API_KEY/)
    assert.match(saysTo("what time is it?", new Set()), /No tool/)
  })
})

describe("LlmOffline, what it makes of results", () => {
  it("puts a result into a sentence, from JSON text or a value", () => {
    assert.strictEqual(
      saysWith("2+2", ["calculator", '{"expression":"2+2","result":4,"formatted":"4"}']).text,
      "2+2 = 4."
    )
    assert.strictEqual(
      saysWith("2+2 是多少", ["calculator", { expression: "2+2", result: 4 }]).text,
      "2+2 = 4。"
    )
    const time = { formatted: "Friday, 1 May 2026, 13:00:00", timezone: "Asia/Tokyo" }
    assert.strictEqual(
      saysWith("time in Tokyo?", ["get_time", time]).text,
      "It is Friday, 1 May 2026, 13:00:00 in Asia/Tokyo."
    )
    const weather = {
      location: "Paris",
      country: "France",
      temperature: 18,
      feels_like: 17.5,
      humidity: 60,
      wind_speed: 10,
      conditions: "Partly cloudy",
      units: { temperature: "°C", wind_speed: "km/h" }
    }
    assert.strictEqual(
      saysWith("weather in Paris?", ["get_weather", weather]).text,
      "In Paris, France it is 18 °C (feels like 17.5 °C), partly cloudy, humidity 60%, wind 10 km/h."
    )
    assert.match(
      saysWith("search for x", [
        "web_search",
        { ai_answer: "Because.", results: [{ title: "T", url: "http://u" }] }
      ]).text,
      /^Because\. I found: T \(http:\/\/u\)\.$/
    )
    assert.match(saysWith("search for x", ["web_search", { results: [] }]).text, /found nothing/)
    assert.match(saysWith("x", ["other_tool", { a: 1 }]).text, /other_tool.*"a":1/)
  })

  it("answers two results in order, and what it knows itself", () => {
    const { calls, text } = saysWith(
      "My name is Ada. What is my name, what is 1+1 and what time is it?",
      ["calculator", { expression: "1+1", formatted: "2" }],
      ["get_time", { formatted: "noon", timezone: "UTC" }]
    )
    assert.strictEqual(text, "1+1 = 2. It is noon in UTC. Your name is Ada.")
    assert.isEmpty(calls)
  })

  it("says honestly that a tool failed", () => {
    assert.strictEqual(
      saysWith("weather in Xyz?", ["get_weather", '{"error":"No place named \\"Xyz\\" was found."}', true])
        .text,
      'Sorry, I could not find out the weather: No place named "Xyz" was found.'
    )
    assert.match(
      saysWith("2/0 等于多少", ["calculator", "division by zero", true]).text,
      /^抱歉，.*division by zero。$/u
    )
    assert.strictEqual(saysWith("x", ["get_time", null, true]).text, "Sorry, I could not find out the time.")
  })
})

describe("LlmOffline, what it remembers", () => {
  it("names", () => {
    for (const told of [
      "my name is Ada",
      "Hi, I'm called Ada.",
      "You can call me Ada, ok?",
      "My name’s Ada and I like tea"
    ]) {
      assert.strictEqual(saysAfter(told, "what is my name?"), "Your name is Ada.", told)
    }
    assert.strictEqual(saysAfter("My name is Ada Lovelace", "who am I?"), "Your name is Ada Lovelace.")
    assert.strictEqual(saysAfter("my name is Bob", "call me Eve", "what's my name?"), "Your name is Eve.")
    for (const told of ["我叫小明", "你好，我的名字是小明。", "叫我小明吧"]) {
      assert.match(saysAfter(told, "我叫什么名字?"), /^你叫小明/u, told)
    }
  })

  it("does not take every call for a name, and admits what it does not know", () => {
    assert.match(saysAfter("call me at noon", "what is my name?"), /not told me your name/)
    assert.match(saysTo("what is my name?"), /not told me your name/)
    assert.match(saysTo("我叫什么名字？"), /还没有告诉我你的名字/u)
  })

  it("facts, and what it was asked to remember", () => {
    assert.strictEqual(
      saysAfter("my favourite colour is blue", "hello", "what is my favourite colour?"),
      "Your favourite colour is blue."
    )
    assert.strictEqual(saysAfter("我的生日是五月一日", "我的生日是什么时候？"), "你的生日是五月一日。")
    assert.strictEqual(
      saysAfter("Please remember that the meeting is at 5.30. Thanks!", "what did I tell you?"),
      "You told me: “the meeting is at 5.30”."
    )
    assert.strictEqual(saysAfter("请记住会议在五点", "我告诉过你什么？"), "你告诉过我：“会议在五点”。")
    assert.match(saysTo("what do you remember?"), /not told me anything/)
  })

  it("confirms what it is told", () => {
    assert.match(saysTo("My name is Ada"), /Nice to meet you, Ada!/)
    assert.match(saysTo("remember that I like tea"), /Noted/)
    assert.match(saysTo("我叫小明"), /很高兴认识你，小明/u)
  })
})

describe("LlmOffline, what it is", () => {
  it("says so on a greeting and whenever it does not understand, in the person's language", () => {
    for (const message of ["hello", "why is the sky blue?"]) {
      const text = saysTo(message)
      assert.match(text, /offline model/)
      assert.match(text, /LLM_BASE_URL, LLM_API_KEY and LLM_MODEL/)
      assert.match(text, /do sums, tell the time, report the weather, search the web and remember/)
    }
    assert.match(saysTo("你好"), /^你好！我是离线模型.*LLM_BASE_URL/u)
    assert.match(saysTo("为什么天是蓝的"), /听不懂.*离线模型/u)
    assert.match(saysAfter("my name is Ada", "hello"), /^Hello, Ada!/)
    assert.notMatch(saysTo("hello", new Set(["calculator"])), /weather|search/)
  })

  it("cuts a reply into words that add up to it", () => {
    for (const text of [
      "Hello there, Ada!",
      "你好，我是离线模型。",
      "混合 mixed 文字 text。",
      " a  b ",
      "",
      "x\ny "
    ]) {
      assert.strictEqual(LlmOffline.wordsOf(text).join(""), text)
    }
    assert.deepStrictEqual(LlmOffline.wordsOf("a few words"), ["a", " few", " words"])
  })

  const toolkit = Toolkit.make(
    Tool.make("calculator", {
      parameters: Schema.Struct({ expression: Schema.String }),
      success: Schema.String
    })
  )
  const announced = { disableToolCallResolution: true, toolCallValidation: "deferred" } as const

  it.effect("is a LanguageModel: streams words, and calls the tools of a toolkit", () =>
    Effect.gen(function* () {
      const provider = yield* LlmProvider
      assert.strictEqual(provider.name, "offline")
      assert.isTrue(provider.isOffline)
      const model = yield* provider.languageModel({ model: "anything" })
      const parts = yield* Stream.runCollect(model.streamText({ prompt: "hello" }))
      assert.deepInclude(parts[0], { type: "response-metadata", modelId: "offline" })
      assert.isAbove(parts.filter((part) => part.type === "text-delta").length, 10)
      assert.deepInclude(parts.at(-1), { type: "finish", reason: "stop" })

      const tools = yield* toolkit.pipe(
        Effect.provide(toolkit.toLayer({ calculator: () => Effect.succeed("4") }))
      )
      const called = yield* Stream.runCollect(
        model.streamText({ prompt: "what is 2+2?", toolkit: tools, ...announced })
      )
      assert.deepStrictEqual(
        called.flatMap((part) => (part.type === "tool-call" ? [part.params] : [])),
        [{ expression: "2+2" }]
      )
      assert.deepInclude(called.at(-1), { type: "finish", reason: "tool-calls" })

      const whole = yield* model.generateText({ prompt: "thank you" })
      assert.strictEqual(whole.text, "You are welcome!")
      const none = yield* model.generateText({
        prompt: "what is 2+2?",
        toolkit: tools,
        toolChoice: "none",
        ...announced
      })
      assert.isEmpty(none.toolCalls)
    }).pipe(Effect.provide(LlmOffline.layer))
  )

  it.effect("understands nothing without failing", () =>
    Effect.gen(function* () {
      const provider = yield* LlmProvider
      const model = yield* provider.languageModel({ model: "offline" })
      for (const prompt of [
        "",
        " ",
        "((((",
        "1+",
        "🌍",
        "?".repeat(5000),
        "1".repeat(5000),
        "my ".repeat(3000),
        "(".repeat(3000)
      ]) {
        assert.isTrue(Exit.isSuccess(yield* Effect.exit(model.generateText({ prompt }))), prompt.slice(0, 20))
      }
    }).pipe(Effect.provide(LlmOffline.layer))
  )
})
