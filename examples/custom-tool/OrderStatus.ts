/**
 * A tool of a shop: tells where an order is. What it asks is a service, so that a test can put another in its place.
 */
import { Context, Effect, Layer, Schema } from "effect"
import { defineTool, ToolFailed } from "voice-agent-api"

export interface Order {
  readonly status: "packing" | "on its way" | "delivered"
  /** ISO date. */
  readonly expected: string
}

export class Orders extends Context.Service<
  Orders,
  {
    /** `undefined`: there is no such order. */
    readonly find: (number: string) => Effect.Effect<Order | undefined>
  }
>()("shop/Orders") {
  /** Here a shop's database would be asked. */
  static readonly layer: Layer.Layer<Orders> = Layer.succeed(Orders, {
    find: (number) =>
      Effect.succeed(number === "A-1001" ? { status: "on its way", expected: "2026-12-03" } : undefined)
  })
}

export const orderStatus = defineTool({
  name: "order_status",
  description:
    "Tells where an order is and when it is expected. Ask for the order's number if you don't know it.",
  parameters: Schema.Struct({
    number: Schema.String.check(
      Schema.isPattern(/^[A-Z]-\d{4}$/, { expected: "an order number such as A-1001" })
    ).annotate({ description: "The order's number, such as A-1001" })
  }),
  success: Schema.Struct({ status: Schema.String, expected: Schema.String }),
  handler: Effect.fnUntraced(function* ({ number }) {
    const order = yield* (yield* Orders).find(number)
    if (order === undefined) {
      return yield* new ToolFailed({ message: `There is no order ${number}.`, reason: "not_found" })
    }
    return order
  }),
  isIdempotent: true
})
