/**
 * Owns the loop of one turn: ask the model, run the tools it asks for, ask again, until it answers.
 *
 * Does not decide when a turn runs, keep it, or know who listens (`Turns` does all three).
 */
import { Context, Effect, Layer } from "effect"
import { AppConfig } from "../Config.ts"
import { Llm, LlmUnavailable, type ModelOverride, type ModelVariant } from "../llm/Llm.ts"
import { GenAi } from "../observability/GenAi.ts"
import { Metrics } from "../observability/Metrics.ts"
import { SpanName } from "../observability/SpanName.ts"
import { noStack } from "../observability/spans.ts"
import { Tools } from "../tools/Tools.ts"
import type { AgentEvent, RequestedCall } from "./AgentEvent.ts"
import { makeModelCall } from "./ModelCall.ts"
import { buildPrompt, type TurnRecord } from "./Prompt.ts"
import { Transcript } from "./Transcript.ts"

/** Model calls that may ask for tools. After the last, the model is asked to answer with what is known. */
const maxRounds = 7

/** Tool calls of one step that run at once. */
const toolConcurrency = 8

export interface AgentTurn {
  readonly sessionId: string
  readonly userId: string | undefined
  /** The user's message. */
  readonly message: string
  /** The turns before this one, oldest first. */
  readonly history: ReadonlyArray<TurnRecord>
  readonly variant: ModelVariant
  readonly override: ModelOverride
  /** Told all that happens, as it happens: their sum is what the turn has come to (`Transcript`). Must not throw. */
  readonly emit: (event: AgentEvent) => void
}

export class Agent extends Context.Service<
  Agent,
  {
    /** Runs the turn to its reply. What it said before a failure has been told. */
    readonly run: (turn: AgentTurn) => Effect.Effect<void, LlmUnavailable>
  }
>()("voice-agent/agent/Agent") {
  static readonly layerNoDeps: Layer.Layer<Agent, never, Llm | Tools | AppConfig | Metrics> = Layer.effect(
    Agent,
    Effect.suspend(() => make)
  )
}

/** A turn under way: the turn, what it has come to, and the one way to add to that. */
interface Run {
  readonly turn: AgentTurn
  readonly transcript: Transcript
  readonly emit: (event: AgentEvent) => void
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
  const callModel = makeModelCall(llm, metrics, { traceContent: tracing.content })

  const askModel = ({ emit, transcript, turn }: Run, step: number) =>
    Effect.sync(() => buildPrompt(turn.history, transcript.record, historyTokens)).pipe(
      Effect.withSpan(SpanName.buildMessages, {}, noStack),
      Effect.flatMap((prompt) =>
        callModel({
          sessionId: turn.sessionId,
          step,
          prompt,
          toolkit: step < maxRounds ? toolkit : undefined,
          variant: turn.variant,
          override: turn.override,
          model: transcript.model,
          emit
        })
      )
    )

  const runTool = Effect.fnUntraced(function* (
    { emit }: Run,
    step: number,
    position: number,
    call: RequestedCall
  ) {
    emit({ type: "tool_started", step, position, call })
    const result = yield* Effect.annotateSpans(tools.call(call.name, call.arguments), {
      [GenAi.toolCallId]: call.id,
      ...(tracing.content ? { [GenAi.toolCallArguments]: call.arguments } : {})
    })
    emit({ type: "tool_finished", step, position, call, result })
  })

  const runTools = (run: Run, step: number, calls: ReadonlyArray<RequestedCall>) =>
    Effect.forEach(calls, (call, position) => runTool(run, step, position, call), {
      concurrency: toolConcurrency,
      discard: true
    }).pipe(Effect.withSpan(SpanName.handleTools, {}, noStack))

  /** One step: a model call, and the tools it asks for. Answers whether the reply is complete. */
  const advance = Effect.fnUntraced(function* (run: Run, step: number) {
    run.emit({ type: "step_started", step, model: run.transcript.model })
    const asked = yield* askModel(run, step)
    const calls = step === maxRounds ? [] : asked
    run.emit({ type: "step_finished", step, calls })
    if (calls.length === 0) return true
    yield* runTools(run, step, calls)
    return false
  })

  const finish = ({ emit, transcript }: Run) =>
    transcript.reply.trim() === ""
      ? new LlmUnavailable({
          reason: "bad_response",
          model: transcript.model,
          midStream: false,
          cause: new Error("The model's reply was empty")
        })
      : Effect.sync(() => emit({ type: "replied" })).pipe(
          Effect.withSpan(SpanName.formatResponse, {}, noStack)
        )

  const reply = Effect.fnUntraced(function* (run: Run) {
    const { emit, transcript, turn } = run
    emit({ type: "started", user: transcript.user, earlierTurns: turn.history.length })
    for (let step = 0; !(yield* advance(run, step)); step++) {}
    yield* finish(run)
  })

  const begin = (turn: AgentTurn): Run => {
    const transcript = new Transcript(turn.message, llm.modelFor(turn.variant, turn.override))
    return {
      turn,
      transcript,
      emit: (event) => {
        transcript.add(event)
        turn.emit(event)
      }
    }
  }

  const run = (turn: AgentTurn) =>
    Effect.suspend(() => {
      const started = begin(turn)
      return Effect.onExit(reply(started), () =>
        Effect.annotateCurrentSpan({
          tool_calls_count: started.transcript.toolNames.length,
          response_length: started.transcript.reply.length
        })
      )
    }).pipe(
      Effect.withSpan(
        SpanName.processMessage,
        {
          attributes: {
            session_id: turn.sessionId,
            ...(turn.userId === undefined ? {} : { user_id: turn.userId }),
            input_length: turn.message.length
          }
        },
        noStack
      )
    )

  return Agent.of({ run })
})
