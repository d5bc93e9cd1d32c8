/**
 * Owns the app of these tests: an instance whose spans go to a collector, and how they are looked at.
 */
import { Context, Effect, Layer } from "effect"
import { type Script, ScriptedModel } from "voice-agent-api/testing"
import * as AppServer from "../support/AppServer.ts"
import * as OtlpReceiver from "../support/OtlpReceiver.ts"
import * as TestDb from "../support/TestDb.ts"

export interface SeenEvent {
  readonly name: string
  readonly attributes: Readonly<Record<string, unknown>>
}

export interface SeenSpan {
  readonly name: string
  /** The name of the span it is under. */
  readonly parent: string | undefined
  readonly failed: boolean
  readonly attributes: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<SeenEvent>
}

export interface SeenTurns {
  readonly traceIds: ReadonlyArray<string>
  readonly spans: ReadonlyArray<SeenSpan>
}

export class FailureApp extends Context.Service<
  FailureApp,
  AppServer.AppServer & {
    /** The traces of a session's turns, once they have left. */
    readonly spansOf: (sessionId: string, turns?: number) => Effect.Effect<SeenTurns>
  }
>()("voice-agent/test/FailureApp") {
  /** One instance, with a model and an empty database of its own. */
  static readonly layer = (
    script: Script = [],
    { settings = {}, ...options }: AppServer.AppServerOptions = {}
  ): Layer.Layer<FailureApp> =>
    Layer.effect(
      FailureApp,
      Effect.gen(function* () {
        const collector = yield* OtlpReceiver.make
        const model = yield* ScriptedModel.serve(script)
        const app = yield* AppServer.make(yield* Layer.build(TestDb.layer), model, {
          ...options,
          settings: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_BSP_SCHEDULE_DELAY: "20", ...settings }
        })
        return { ...app, spansOf: (sessionId, turns = 1) => spansOf(collector, sessionId, turns) }
      })
    )
}

const rootsOf = (spans: ReadonlyArray<OtlpReceiver.ReceivedSpan>, sessionId: string) =>
  spans.filter(({ attributes, name }) => name === "api.send_message" && attributes.session_id === sessionId)

/** What runs under a turn ends before it, and so has left when it has. */
const spansOf = (collector: OtlpReceiver.OtlpReceiver, sessionId: string, turns: number) =>
  Effect.map(
    collector.until((spans) => rootsOf(spans, sessionId).length >= turns),
    (spans): SeenTurns => {
      const traceIds = rootsOf(spans, sessionId).map(({ traceId }) => traceId)
      const found = spans.filter(({ traceId }) => traceIds.includes(traceId))
      const nameOf = (id: string | undefined) => found.find(({ spanId }) => spanId === id)?.name
      return {
        traceIds,
        spans: found.map(({ attributes, events, name, parentSpanId, status }) => ({
          name,
          parent: nameOf(parentSpanId),
          failed: status.code === "error",
          attributes,
          events
        }))
      }
    }
  )
