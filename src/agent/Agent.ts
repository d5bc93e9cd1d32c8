/**
 * Owns the loop of one turn: ask the model, run the tools it asks for, ask again, until it answers.
 *
 * Does not decide when a turn runs, keep it, or know who listens (`Turns` does all three).
 */
import { Cause, Clock, Context, Effect, Exit, Layer, Stream } from "effect"
import type { Prompt, Response } from "effect/ai"
import type { FinalEvent, Node, TurnEvent } from "../api/TurnEvent.ts"
import { AppConfig } from "../Config.ts"
import { Llm, type LlmPart, LlmUnavailable, type ModelOverride, type ModelVariant } from "../llm/Llm.ts"
import { GenAi } from "../observability/GenAi.ts"
import { Metrics } from "../observability/Metrics.ts"
import { SpanName } from "../observability/SpanName.ts"
import { Tools } from "../tools/Tools.ts"
import { buildPrompt, type TurnRecord } from "./Prompt.ts"
import type { RequestedCall, Transcript } from "./Transcript.ts"

/** Model calls that may ask for tools. After the last, the model is asked to answer with what is known. */
const maxRounds = 7

/** Tool calls of one step that run at once. */
const toolConcurrency = 8

export interface AgentTurn {
  readonly sessionId: string
  readonly userId: string | undefined
  /** The turns before this one, oldest first. */
  readonly history: ReadonlyArray<TurnRecord>
  readonly variant: ModelVariant
  readonly override: ModelOverride
  /** Written as the turn goes on. */
  readonly transcript: Transcript
  readonly emit: (event: Exclude<TurnEvent, FinalEvent>) => void
}

export class Agent extends Context.Service<
  Agent,
  {
    /** Runs the turn to its reply, which is in the transcript then. What it said before a failure is there too. */
    readonly run: (turn: AgentTurn) => Effect.Effect<void, LlmUnavailable>
  }
>()("voice-agent/agent/Agent") {
  static readonly layerNoDeps: Layer.Layer<Agent, never, Llm | Tools | AppConfig | Metrics> = Layer.effect(
    Agent,
    Effect.suspend(() => make)
  )
}

/** Spans say what is done; where in the code that is, they keep to themselves, and finding out is dear. */
const noStack = { captureStackTrace: false } as const

const displayNames: Readonly<Record<Node, string>> = {
  process_input: "Read the message",
  call_llm: "Ask the model",
  handle_tools: "Run the tools",
  format_response: "Finish the reply"
}

/** Cut between characters: half a surrogate pair is no text. */
const cut = (text: string, length: number) =>
  text.length <= length ? text : text.slice(0, length).replace(/[\ud800-\udbff]$/, "")

/** The one place that tells operators what a model's server said. */
const warnOf = ({ cause, message }: LlmUnavailable) =>
  Effect.logWarning(`The model failed: ${message}`, cause instanceof Error ? cause.message : undefined)

/** Arguments as a client may draw them: every string cut at 100 characters. */
const shownArguments = (text: string): unknown => {
  try {
    return JSON.parse(text, (_, value) => (typeof value === "string" ? cut(value, 100) : value))
  } catch {
    return cut(text, 100)
  }
}

const make = Effect.gen(function* () {
  const llm = yield* Llm
  const tools = yield* Tools
  const metrics = yield* Metrics
  const {
    llm: { historyTokens },
    tracing
  } = yield* AppConfig
  const toolkit = tools.list.length === 0 ? undefined : tools.toolkit

  /** Reads one model call into the transcript. Answers the tool calls it asks for. */
  const callLlm = Effect.fnUntraced(
    function* (turn: AgentTurn, step: number, prompt: Prompt.Prompt) {
      const { emit, transcript } = turn
      emit({ level: "node", type: "llm_streaming", data: { phase: "started", details: transcript.model } })
      const { override, variant } = turn
      yield* Effect.annotateCurrentSpan({
        [GenAi.operationName]: "chat",
        [GenAi.providerName]: llm.provider,
        [GenAi.requestModel]: llm.modelFor(variant, override),
        [GenAi.conversationId]: turn.sessionId,
        ...(override.temperature === undefined ? {} : { [GenAi.requestTemperature]: override.temperature }),
        ...(override.maxTokens === undefined ? {} : { [GenAi.requestMaxTokens]: override.maxTokens }),
        ...(tracing.content ? { [GenAi.inputMessages]: JSON.stringify(prompt.content) } : {})
      })
      const clock = yield* Clock.Clock
      const startedAt = clock.currentTimeMillisUnsafe()
      const offset = transcript.reply.length
      let firstChunkAt: number | undefined
      let finished: Response.FinishPart | undefined
      const calls: Array<RequestedCall> = []
      let streaming = false
      const take = (parts: ReadonlyArray<LlmPart>) => {
        let text = ""
        firstChunkAt ??= clock.currentTimeMillisUnsafe()
        let finish: Response.FinishPart | undefined
        for (const part of parts) {
          if (part.type === "text-delta") text += part.delta
          else if (part.type === "tool-call") calls.push(requestedCall(part))
          else if (part.type === "response-metadata") transcript.model = part.modelId ?? transcript.model
          else if (part.type === "finish") finish = part
        }
        if (text !== "") {
          if (!streaming) {
            streaming = true
            emit({
              level: "node",
              type: "llm_streaming",
              data: { phase: "streaming", details: transcript.model }
            })
          }
          transcript.reply += text
          emit({ type: "delta", content: text })
        }
        if (finish !== undefined) {
          finished = finish
          recordUsage(turn, step, finish)
        }
        return Effect.void
      }
      const conclude = (exit: Exit.Exit<void, LlmUnavailable>) => {
        const input = finished?.usage.inputTokens.total
        const output = finished?.usage.outputTokens.total
        metrics.llmCall({
          model: transcript.model,
          outcome: Exit.isSuccess(exit) ? "ok" : Cause.hasInterruptsOnly(exit.cause) ? "cancelled" : "failed",
          promptTokens: input ?? 0,
          completionTokens: output ?? 0
        })
        return Effect.annotateCurrentSpan({
          ...(firstChunkAt === undefined
            ? {}
            : {
                [GenAi.responseModel]: transcript.model,
                [GenAi.responseTimeToFirstChunk]: (firstChunkAt - startedAt) / 1000
              }),
          ...(finished === undefined
            ? {}
            : { [GenAi.responseFinishReasons]: [finished.reason.replace("-", "_")] }),
          ...(input === undefined ? {} : { [GenAi.usageInputTokens]: input }),
          ...(output === undefined ? {} : { [GenAi.usageOutputTokens]: output }),
          ...(tracing.content ? { [GenAi.outputMessages]: transcript.reply.slice(offset) } : {})
        })
      }
      yield* Stream.runForEachArray(
        llm.stream({
          prompt,
          toolkit: step < maxRounds ? toolkit : undefined,
          variant,
          override
        }),
        take
      ).pipe(Effect.onExit(conclude), Effect.tapError(warnOf))
      emit({ level: "node", type: "llm_streaming", data: { phase: "finished", details: transcript.model } })
      return calls
    },
    Effect.withSpan(SpanName.callLlm, { kind: "client" }, noStack)
  )

  const askLlm = (turn: AgentTurn, step: number) =>
    Effect.sync(() => buildPrompt(turn.history, turn.transcript.record, historyTokens)).pipe(
      Effect.withSpan(SpanName.buildMessages, {}, noStack),
      Effect.flatMap((prompt) => callLlm(turn, step, prompt))
    )

  const runTool = Effect.fnUntraced(function* (turn: AgentTurn, call: RequestedCall) {
    turn.emit({ level: "node", type: "tool_executing", data: { tool: call.name } })
    const result = yield* Effect.annotateSpans(tools.call(call.name, call.arguments), {
      [GenAi.toolCallId]: call.id,
      ...(tracing.content ? { [GenAi.toolCallArguments]: call.arguments } : {})
    })
    turn.emit({
      level: "node",
      type: "tool_result",
      data: {
        tool: call.name,
        success: result.success,
        summary: cut(result.error ?? result.content, 200),
        duration_ms: Math.round(result.durationMillis)
      }
    })
    return result
  })

  const handleTools = Effect.fnUntraced(
    function* (turn: AgentTurn, step: number, calls: ReadonlyArray<RequestedCall>) {
      const finish = turn.transcript.request(step, calls)
      turn.emit({
        type: "tool_calls",
        tool_calls: calls.map((call) => ({
          id: call.id,
          type: "function",
          function: { name: call.name, arguments: call.arguments }
        }))
      })
      for (const call of calls) {
        turn.emit({
          level: "node",
          type: "tool_call_pending",
          data: { tool: call.name, args: shownArguments(call.arguments) }
        })
      }
      yield* Effect.forEach(
        calls,
        (call, index) => Effect.map(runTool(turn, call), (result) => finish[index]?.(result)),
        { concurrency: toolConcurrency, discard: true }
      )
    },
    Effect.withSpan(SpanName.handleTools, {}, noStack)
  )

  /** Tells that a node works and, once it is done, for how long it did. */
  const inNode = <A, E>(turn: AgentTurn, node: Node, effect: Effect.Effect<A, E>) =>
    Effect.gen(function* () {
      const data = { node, display_name: displayNames[node] }
      const startedAt = yield* Clock.currentTimeMillis
      turn.emit({ level: "graph", type: "node_started", data })
      const result = yield* effect
      const duration_ms = (yield* Clock.currentTimeMillis) - startedAt
      turn.emit({ level: "graph", type: "node_finished", data: { ...data, duration_ms } })
      return result
    })

  const route = (turn: AgentTurn, from: Node, to: Node, reason: string) =>
    turn.emit({ level: "graph", type: "route_decision", data: { from, to, reason } })

  const run = Effect.fnUntraced(function* (turn: AgentTurn) {
    const { emit, transcript } = turn
    const startedAt = yield* Clock.currentTimeMillis
    emit({ level: "graph", type: "workflow_started", data: { user_input: cut(transcript.user, 100) } })
    yield* inNode(
      turn,
      "process_input",
      Effect.sync(() =>
        emit({
          level: "node",
          type: "thinking_phase",
          data: {
            phase: "analyzing",
            node: "process_input",
            details: `earlier turns in this session: ${turn.history.length}`
          }
        })
      )
    )
    route(turn, "process_input", "call_llm", "message accepted")

    for (let step = 0; ; step++) {
      const calls = yield* inNode(turn, "call_llm", askLlm(turn, step))
      if (calls.length === 0 || step === maxRounds) break
      route(turn, "call_llm", "handle_tools", `tools asked for: ${calls.length}`)
      yield* inNode(turn, "handle_tools", handleTools(turn, step, calls))
      route(turn, "handle_tools", "call_llm", "results for the model")
    }
    if (transcript.reply.trim() === "") {
      return yield* new LlmUnavailable({
        reason: "bad_response",
        model: transcript.model,
        midStream: false,
        cause: new Error("The model's reply was empty")
      })
    }

    route(turn, "call_llm", "format_response", "reply complete")
    yield* inNode(turn, "format_response", Effect.withSpan(SpanName.formatResponse, {}, noStack)(Effect.void))
    const total_duration_ms = (yield* Clock.currentTimeMillis) - startedAt
    emit({ level: "graph", type: "workflow_complete", data: { total_duration_ms } })
  })

  return Agent.of({
    run: (turn) =>
      Effect.suspend(() => run(turn)).pipe(
        Effect.onExit(() =>
          Effect.annotateCurrentSpan({
            tool_calls_count: turn.transcript.toolNames.length,
            response_length: turn.transcript.reply.length
          })
        ),
        Effect.withSpan(
          SpanName.processMessage,
          {
            attributes: {
              session_id: turn.sessionId,
              ...(turn.userId === undefined ? {} : { user_id: turn.userId }),
              input_length: turn.transcript.user.length
            }
          },
          noStack
        )
      )
  })
})

// biome-ignore lint/suspicious/noExplicitAny: the tools are known at run time only
const requestedCall = (part: Response.ToolCallPart<string, any>): RequestedCall => ({
  id: part.id,
  name: part.name,
  arguments: typeof part.params === "string" ? part.params : JSON.stringify(part.params ?? {})
})

const recordUsage = (turn: AgentTurn, step: number, { usage }: Response.FinishPart) => {
  const promptTokens = usage.inputTokens.total
  const completionTokens = usage.outputTokens.total
  if (promptTokens === undefined || completionTokens === undefined) return
  turn.transcript.usage.push({ step, model: turn.transcript.model, promptTokens, completionTokens })
  turn.emit({
    level: "node",
    type: "token_usage",
    data: {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens
    }
  })
}
