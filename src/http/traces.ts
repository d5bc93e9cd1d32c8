/**
 * Owns the handlers of a turn's trace and of `/metrics`.
 */
import { Effect } from "effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import { Api } from "../api/Api.ts"
import { TurnNotFoundProblem } from "../api/Problems.ts"
import { prometheusText } from "../observability/Metrics.ts"
import { TraceStore } from "../traces/TraceStore.ts"
import { traceView } from "../traces/TraceView.ts"
import { unavailable } from "./unavailable.ts"

export const layerTurnHandlers = HttpApiBuilder.group(
  Api,
  "turns",
  Effect.fnUntraced(function* (handlers) {
    const traces = yield* TraceStore
    return handlers.handle("trace", ({ params }) =>
      traces.turn(params.turn_id).pipe(
        Effect.flatMap((turn) =>
          turn === undefined
            ? new TurnNotFoundProblem({ detail: `There is no turn ${params.turn_id}.` })
            : Effect.succeed(traceView(turn))
        ),
        unavailable
      )
    )
  })
)

export const layerMetricsHandlers = HttpApiBuilder.group(
  Api,
  "metrics",
  Effect.fnUntraced(function* (handlers) {
    const text = yield* prometheusText
    return handlers.handle("metrics", () => text)
  })
)
