/**
 * Owns a collector for tests: an OTLP gRPC server on loopback that keeps the spans it is sent, and can hang, refuse,
 * be slow, or go away and come back.
 *
 * Decodes by field numbers of opentelemetry-proto v1 (trace, resource, common). What it does not know it ignores.
 */
import { Metadata, Server, ServerCredentials, type sendUnaryData, status } from "@grpc/grpc-js"
import { Effect, type Scope } from "effect"
import protobuf from "protobufjs"

export interface ReceivedSpan {
  readonly traceId: string
  readonly spanId: string
  /** `undefined`: a root. */
  readonly parentSpanId: string | undefined
  readonly name: string
  readonly kind: "internal" | "server" | "client" | "producer" | "consumer" | "unspecified"
  readonly startNanos: bigint
  readonly endNanos: bigint
  readonly attributes: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<{
    readonly name: string
    readonly attributes: Readonly<Record<string, unknown>>
  }>
  readonly status: { readonly code: "unset" | "ok" | "error"; readonly message: string }
  readonly resource: Readonly<Record<string, unknown>>
}

/** `hang`: takes requests and never answers. `refuse`: answers with an error. A number: waits so many milliseconds. */
export type Behaviour = "accept" | "hang" | "refuse" | number

export interface OtlpReceiver {
  /** For `OTEL_EXPORTER_OTLP_ENDPOINT`. */
  readonly url: string
  /** All that was accepted, in order of arrival. */
  readonly spans: ReadonlyArray<ReceivedSpan>
  /** How many spans each request brought, whatever was answered. */
  readonly batches: ReadonlyArray<number>
  /** The headers of the last request. */
  readonly headers: () => Readonly<Record<string, unknown>>
  readonly behave: (behaviour: Behaviour) => void
  /** Waits until the spans so far fit. */
  readonly until: (
    fits: (spans: ReadonlyArray<ReceivedSpan>) => boolean
  ) => Effect.Effect<ReadonlyArray<ReceivedSpan>>
  /** Waits for a request that comes after this call. */
  readonly request: Effect.Effect<void>
  /** Breaks all connections and listens no more. */
  readonly stop: Effect.Effect<void>
  /** Listens again, on the same port. */
  readonly start: Effect.Effect<void>
}

const field = (id: number, type: string, rule?: "repeated") => ({
  id,
  type,
  ...(rule === undefined ? {} : { rule })
})

const ExportRequest = protobuf.Root.fromJSON({
  nested: {
    ExportTraceServiceRequest: { fields: { resourceSpans: field(1, "ResourceSpans", "repeated") } },
    ResourceSpans: {
      fields: { resource: field(1, "Resource"), scopeSpans: field(2, "ScopeSpans", "repeated") }
    },
    Resource: { fields: { attributes: field(1, "KeyValue", "repeated") } },
    ScopeSpans: { fields: { spans: field(2, "Span", "repeated") } },
    Span: {
      fields: {
        traceId: field(1, "bytes"),
        spanId: field(2, "bytes"),
        parentSpanId: field(4, "bytes"),
        name: field(5, "string"),
        kind: field(6, "int32"),
        startTimeUnixNano: field(7, "fixed64"),
        endTimeUnixNano: field(8, "fixed64"),
        attributes: field(9, "KeyValue", "repeated"),
        events: field(11, "Event", "repeated"),
        status: field(15, "Status")
      }
    },
    Event: { fields: { name: field(2, "string"), attributes: field(3, "KeyValue", "repeated") } },
    Status: { fields: { message: field(2, "string"), code: field(3, "int32") } },
    KeyValue: { fields: { key: field(1, "string"), value: field(2, "AnyValue") } },
    AnyValue: {
      oneofs: {
        value: {
          oneof: ["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue"]
        }
      },
      fields: {
        stringValue: field(1, "string"),
        boolValue: field(2, "bool"),
        intValue: field(3, "int64"),
        doubleValue: field(4, "double"),
        arrayValue: field(5, "ArrayValue"),
        kvlistValue: field(6, "KeyValueList")
      }
    },
    ArrayValue: { fields: { values: field(1, "AnyValue", "repeated") } },
    KeyValueList: { fields: { values: field(1, "KeyValue", "repeated") } }
  }
}).lookupType("ExportTraceServiceRequest")

interface AnyValue {
  readonly value?: string
  readonly stringValue?: string
  readonly boolValue?: boolean
  readonly intValue?: string
  readonly doubleValue?: number
  readonly arrayValue?: { readonly values: ReadonlyArray<AnyValue> }
  readonly kvlistValue?: { readonly values: ReadonlyArray<KeyValue> }
}
interface KeyValue {
  readonly key: string
  readonly value?: AnyValue
}
interface SpanMessage {
  readonly traceId: Buffer
  readonly spanId: Buffer
  readonly parentSpanId: Buffer
  readonly name: string
  readonly kind: number
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: ReadonlyArray<KeyValue>
  readonly events: ReadonlyArray<{ readonly name: string; readonly attributes: ReadonlyArray<KeyValue> }>
  readonly status: { readonly message: string; readonly code: number } | null
}
interface ExportMessage {
  readonly resourceSpans: ReadonlyArray<{
    readonly resource: { readonly attributes: ReadonlyArray<KeyValue> } | null
    readonly scopeSpans: ReadonlyArray<{ readonly spans: ReadonlyArray<SpanMessage> }>
  }>
}

const valueOf = (value: AnyValue | undefined): unknown => {
  switch (value?.value) {
    case "stringValue":
      return value.stringValue
    case "boolValue":
      return value.boolValue
    case "intValue":
      return Number(value.intValue)
    case "doubleValue":
      return value.doubleValue
    case "arrayValue":
      return value.arrayValue?.values.map(valueOf)
    case "kvlistValue":
      return recordOf(value.kvlistValue?.values ?? [])
    default:
      return undefined
  }
}

const recordOf = (pairs: ReadonlyArray<KeyValue>): Record<string, unknown> =>
  Object.fromEntries(pairs.map(({ key, value }) => [key, valueOf(value)]))

const kinds = ["unspecified", "internal", "server", "client", "producer", "consumer"] as const
const codes = ["unset", "ok", "error"] as const

const spanOf = (span: SpanMessage, resource: Record<string, unknown>): ReceivedSpan => ({
  traceId: span.traceId.toString("hex"),
  spanId: span.spanId.toString("hex"),
  parentSpanId: span.parentSpanId.length === 0 ? undefined : span.parentSpanId.toString("hex"),
  name: span.name,
  kind: kinds[span.kind] ?? "unspecified",
  startNanos: BigInt(span.startTimeUnixNano),
  endNanos: BigInt(span.endTimeUnixNano),
  attributes: recordOf(span.attributes),
  events: span.events.map(({ attributes, name }) => ({ name, attributes: recordOf(attributes) })),
  status: { code: codes[span.status?.code ?? 0] ?? "unset", message: span.status?.message ?? "" },
  resource
})

const decode = (bytes: Buffer): ReadonlyArray<ReceivedSpan> => {
  const message = ExportRequest.toObject(ExportRequest.decode(bytes), {
    longs: String,
    bytes: Buffer,
    defaults: true,
    oneofs: true
  }) as ExportMessage
  return message.resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const attributes = recordOf(resource?.attributes ?? [])
    return scopeSpans.flatMap(({ spans }) => spans.map((span) => spanOf(span, attributes)))
  })
}

const service = {
  export: {
    path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    requestStream: false,
    responseStream: false,
    requestDeserialize: decode,
    requestSerialize: () => Buffer.alloc(0),
    // Without fields: all spans were accepted.
    responseSerialize: () => Buffer.alloc(0),
    responseDeserialize: () => ({})
  }
} as const

export const make: Effect.Effect<OtlpReceiver, never, Scope.Scope> = Effect.gen(function* () {
  const spans: Array<ReceivedSpan> = []
  const batches: Array<number> = []
  const watchers = new Set<() => void>()
  let behaviour: Behaviour = "accept"
  let headers: Readonly<Record<string, unknown>> = {}
  let server: Server | undefined
  let port = 0

  const take = (batch: ReadonlyArray<ReceivedSpan>, answer: sendUnaryData<object>) => {
    batches.push(batch.length)
    const accept = () => {
      spans.push(...batch)
      answer(null, {})
    }
    if (behaviour === "refuse") {
      answer({ code: status.RESOURCE_EXHAUSTED, details: "told to refuse", metadata: new Metadata() })
    } else if (behaviour === "accept") accept()
    else if (behaviour !== "hang") setTimeout(accept, behaviour)
    for (const watch of watchers) watch()
    if (typeof behaviour === "number") {
      setTimeout(() => {
        for (const watch of watchers) watch()
      }, behaviour + 1)
    }
  }

  const start = Effect.callback<void>((resume) => {
    const next = new Server()
    next.addService(service, {
      export: (
        call: { readonly request: ReadonlyArray<ReceivedSpan>; readonly metadata: Metadata },
        answer: sendUnaryData<object>
      ) => {
        headers = call.metadata.getMap()
        take(call.request, answer)
      }
    })
    next.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, bound) => {
      if (error !== null) return resume(Effect.die(error))
      server = next
      port = bound
      resume(Effect.void)
    })
  })
  const stop = Effect.sync(() => {
    server?.forceShutdown()
    server = undefined
  })
  yield* start
  yield* Effect.addFinalizer(() => stop)

  const watching = (isDone: () => boolean) =>
    Effect.callback<void>((resume) => {
      const watch = () => {
        if (!isDone()) return
        watchers.delete(watch)
        resume(Effect.void)
      }
      watchers.add(watch)
      watch()
      return Effect.sync(() => watchers.delete(watch))
    })

  return {
    url: `http://127.0.0.1:${port}`,
    spans,
    batches,
    headers: () => headers,
    behave: (next) => {
      behaviour = next
    },
    until: (fits) =>
      Effect.as(
        watching(() => fits(spans)),
        spans
      ),
    request: Effect.suspend(() => {
      const before = batches.length
      return watching(() => batches.length > before)
    }),
    stop,
    start
  }
})
