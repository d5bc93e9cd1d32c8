/** Owns the metrics of tool calls. Tools are named by the server's own list, so that a model can't make new series. */
import { Metric } from "effect"

/** Calls by `tool` and `outcome`: `success`, a `ToolFailed` reason, `invalid_arguments`, `tool_not_found`. */
export const toolCalls = Metric.counter("tool_calls_total", {
  description: "Tool calls by tool and outcome",
  incremental: true
})

/** Calls made again after a passing failure, by `tool`. */
export const toolRetries = Metric.counter("tool_retries_total", {
  description: "Tool calls made again after a passing failure",
  incremental: true
})

/** How long a call took with all its retries, by `tool`, in seconds. */
export const toolDuration = Metric.histogram("tool_duration_seconds", {
  description: "Duration of tool calls in seconds",
  boundaries: [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30]
})
