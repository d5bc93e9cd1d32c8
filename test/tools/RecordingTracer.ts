/** Owns a tracer for tests: it keeps every span, in order of beginning. */
import { inspect } from "node:util"
import { Cause, Effect, Exit, Option, Tracer } from "effect"

interface RecordedSpan {
  readonly name: string
  readonly parentName: string | undefined
  readonly attributes: ReadonlyMap<string, unknown>
  readonly events: Tracer.NativeSpan["events"]
  readonly failed: boolean
  /** All an exporter could tell of it, with causes and stacks, to look for what should not be there. */
  readonly everything: string
}

const recorded = (span: Tracer.NativeSpan): RecordedSpan => {
  const exit = span.status._tag === "Ended" ? span.status.exit : Exit.void
  const cause = Exit.isFailure(exit) ? `${Cause.pretty(exit.cause)} ${inspect(exit.cause, { depth: 9 })}` : ""
  return {
    name: span.name,
    parentName: Option.match(span.parent, {
      onNone: () => undefined,
      onSome: (parent) => (parent._tag === "Span" ? parent.name : undefined)
    }),
    attributes: span.attributes,
    events: span.events,
    failed: Exit.isFailure(exit),
    everything: `${span.name} ${inspect([...span.attributes], { depth: 9 })} ${inspect(span.events)} ${cause}`
  }
}

/** Runs an effect and answers its result with the spans it made. */
export const record = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const spans: Array<Tracer.NativeSpan> = []
    const tracer = Tracer.make({
      span: (options) => {
        const span = new Tracer.NativeSpan(options)
        spans.push(span)
        return span
      }
    })
    const result = yield* Effect.withTracer(self, tracer)
    return { result, spans: spans.map(recorded) }
  })
