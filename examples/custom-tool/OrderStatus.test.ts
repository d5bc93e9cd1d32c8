import { assert, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Tools } from "voice-agent-api"
import { Reply, TestApp } from "voice-agent-api/testing"
import { Orders, orderStatus } from "./OrderStatus.ts"

const orders = Layer.succeed(Orders, {
  find: (number) =>
    Effect.succeed(number === "T-0001" ? { status: "delivered", expected: "2026-11-20" } : undefined)
})

const app = TestApp.layer({ tools: Tools.layerOf([orderStatus]).pipe(Layer.provide(orders)) })

/** The model asks for the tool, then says something. */
const asks = (number: string) => [
  Reply.toolCalls([{ name: "order_status", arguments: { number } }]),
  Reply.text("That is all I know.")
]

layer(app)("order_status", (it) => {
  it.effect("is offered, and its answer reaches the model", () =>
    Effect.gen(function* () {
      const { model, trace, turn } = yield* TestApp
      model.push(...asks("T-0001"))
      const run = yield* turn("Where is my order T-0001?")
      assert.strictEqual(run.reply, "That is all I know.")
      assert.deepStrictEqual(
        model.requests[0]?.body.tools?.map((tool) => tool.function.name),
        ["order_status"]
      )
      const [result] = model.requests[1]?.toolResults ?? []
      assert.deepStrictEqual(JSON.parse(result?.content ?? ""), {
        status: "delivered",
        expected: "2026-11-20"
      })
      assert.strictEqual((yield* trace(run)).named("tool.order_status")[0]?.status, "ok")
    })
  )

  it.effect("tells the model what is wrong: an order that isn't there, a number that can't be", () =>
    Effect.gen(function* () {
      const { model, turn } = yield* TestApp
      for (const [number, error] of [
        ["T-0002", "There is no order T-0002."],
        ["seven", "an order number such as A-1001"]
      ] as const) {
        model.push(...asks(number))
        yield* turn("Where is my order?")
        assert.include(model.requests.at(-1)?.toolResults[0]?.content, error)
      }
    })
  )
})
