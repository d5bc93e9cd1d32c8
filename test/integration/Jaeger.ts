/**
 * Owns how tests find the Jaeger of an integration run, and read back what it stores, by its query API:
 * https://www.jaegertracing.io/docs/latest/architecture/apis/
 */
import { Effect, Option, Schedule, Schema } from "effect"

export interface Jaeger {
  /** For `OTEL_EXPORTER_OTLP_ENDPOINT`: gRPC. */
  readonly otlpUrl: string
  readonly queryUrl: string
}

/** `undefined`: this run has none. */
export const jaeger: Jaeger | undefined = (() => {
  const { TEST_JAEGER_OTLP_URL: otlpUrl, TEST_JAEGER_QUERY_URL: queryUrl } = process.env
  return otlpUrl === undefined || queryUrl === undefined ? undefined : { otlpUrl, queryUrl }
})()

const Tag = Schema.Struct({ key: Schema.String, value: Schema.Unknown })
const Traces = Schema.Struct({
  data: Schema.Array(
    Schema.Struct({
      spans: Schema.Array(
        Schema.Struct({
          spanID: Schema.String,
          operationName: Schema.String,
          references: Schema.Array(Schema.Struct({ refType: Schema.String, spanID: Schema.String })),
          duration: Schema.Finite,
          tags: Schema.Array(Tag),
          logs: Schema.Array(Schema.Struct({ fields: Schema.Array(Tag) })),
          processID: Schema.String
        })
      ),
      processes: Schema.Record(
        Schema.String,
        Schema.Struct({ serviceName: Schema.String, tags: Schema.Array(Tag) })
      )
    })
  )
})
const decode = Schema.decodeUnknownEffect(Traces)

export interface JaegerSpan {
  readonly name: string
  /** The name of the span it is under, where that is in the same trace. */
  readonly parent: string | undefined
  readonly service: string
  readonly tags: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<Readonly<Record<string, unknown>>>
  /** What the process says of itself. */
  readonly resource: Readonly<Record<string, unknown>>
}

const recordOf = (tags: ReadonlyArray<typeof Tag.Type>) =>
  Object.fromEntries(tags.map(({ key, value }) => [key, value]))

const readTrace = ({ queryUrl }: Jaeger, traceId: string) =>
  Effect.gen(function* () {
    const response = yield* Effect.promise(() => fetch(`${queryUrl}/api/traces/${traceId}`))
    // Not there yet.
    if (response.status === 404) return []
    const { data } = yield* decode(yield* Effect.promise(() => response.json()))
    return data.flatMap(({ processes, spans }) => {
      const names = new Map(spans.map(({ operationName, spanID }) => [spanID, operationName]))
      return spans.map((span): JaegerSpan => {
        const parent = span.references.find(({ refType }) => refType === "CHILD_OF")?.spanID ?? ""
        const process = processes[span.processID]
        return {
          name: span.operationName,
          parent: names.get(parent),
          service: process?.serviceName ?? "",
          tags: recordOf(span.tags),
          events: span.logs.map(({ fields }) => recordOf(fields)),
          resource: recordOf(process?.tags ?? [])
        }
      })
    })
  })

/** The spans of a trace, once they fit. `None`: they did not, for 20 seconds. */
export const awaitTrace = (
  jaeger: Jaeger,
  traceId: string,
  fits: (spans: ReadonlyArray<JaegerSpan>) => boolean
) =>
  readTrace(jaeger, traceId).pipe(
    Effect.repeat({ until: fits, schedule: Schedule.spaced("200 millis") }),
    Effect.timeoutOption("20 seconds"),
    Effect.map(Option.getOrUndefined)
  )
