/**
 * Owns what can be counted of the model policy.
 *
 * Does not export anywhere. `model` is one of the configured models or `other`: requests may name models of their own,
 * and a label must not grow with them.
 */
import { Metric } from "effect"

/** Attempts made again at the same model. Labels: `model`, `reason`. */
export const retries = Metric.counter("llm_retries_total", {
  description: "Model calls made again before their first token",
  incremental: true
})

/** Steps from one model of the plan to the next. Labels: `from`, `to`, `reason`. */
export const fallbacks = Metric.counter("llm_fallbacks_total", {
  description: "Model calls moved to the next model of the plan",
  incremental: true
})

/** Attempts that failed, also those made again afterwards. Labels: `model`, `reason`, `mid_stream`. */
export const errors = Metric.counter("llm_errors_total", {
  description: "Failed attempts at a model",
  incremental: true
})
