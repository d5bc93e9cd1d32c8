import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Layer, Logger, Metric, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import { AppConfig } from "../../src/Config.ts"
import { Redaction } from "../../src/observability/Redaction.ts"
import { layerTracer } from "../../src/observability/Tracer.ts"
import { TraceStore } from "../../src/traces/TraceStore.ts"
import { version } from "../../src/version.ts"
import * as AppServer from "../support/AppServer.ts"
import { ask } from "../support/ChatClient.ts"
import * as OtlpReceiver from "../support/OtlpReceiver.ts"
import * as TestDb from "../support/TestDb.ts"
import { make, named, traceOf } from "./TracedApp.ts"

const traceIdOf = (headers: Headers) => headers.get("traceparent")?.split("-")[1] ?? ""

/** The tracer alone, with what it logs. `emit` makes spans, each a trace of its own. */
const makeTracer = (settings: Readonly<Record<string, string>>) =>
  Effect.gen(function* () {
    const lines: Array<string> = []
    const config = AppConfig.layer.pipe(
      Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(settings)))
    )
    const tracer = layerTracer.pipe(
      Layer.provide(
        Layer.mergeAll(Redaction.layer, Layer.mock(TraceStore, { add: () => {}, addSample: () => {} }))
      ),
      Layer.provide(config),
      Layer.provide(
        Logger.layer([Logger.make(({ message }) => void lines.push([message].flat().map(String).join(": ")))])
      )
    )
    const context = yield* Layer.build(Layer.fresh(tracer))
    const emit = (name: string, count = 1) =>
      Effect.provideContext(
        Effect.forEach(
          Array.from({ length: count }),
          () => Effect.withSpan(Effect.void, name, { root: true }),
          { discard: true }
        ),
        context
      )
    return { lines, emit }
  })

const exported = (outcome: string) =>
  Effect.map(
    Metric.snapshot,
    (all) =>
      all
        .filter((one) => one.id === "trace_exports_total" && one.attributes?.outcome === outcome)
        .map((one) => (one.type === "Counter" ? Number(one.state.count) : 0))[0] ?? 0
  )

/** A port on which nothing listens. */
const closedPort = Effect.scoped(Effect.map(OtlpReceiver.make, ({ url }) => url))

const talk = (url: string) =>
  Effect.map(ask(`${url}/api/v1/chat`, { message: "hi" }), ({ body, headers }) => {
    assert.isTrue(body.success)
    return traceIdOf(headers)
  })

/** Until a turn's spans arrive: those made while it was away are lost. */
const untilSent = (url: string, otlp: OtlpReceiver.OtlpReceiver) =>
  Effect.repeat(
    Effect.gen(function* () {
      const traceId = yield* talk(url)
      yield* Effect.timeoutOption(traceOf(otlp, traceId, "POST /api/v1/chat"), "1500 millis")
      return otlp.spans.some((span) => span.traceId === traceId)
    }),
    { until: (sent) => sent }
  )

describe("export", () => {
  describe("sampling", () => {
    const sampled = `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`
    const cases = [
      { sampler: "always_off", ratio: "1", own: false, continued: false },
      { sampler: "always_on", ratio: "0", own: true, continued: true },
      { sampler: "traceidratio", ratio: "0", own: false, continued: false },
      { sampler: "traceidratio", ratio: "1", own: true, continued: true },
      { sampler: "parentbased_always_off", ratio: "1", own: false, continued: true },
      { sampler: "parentbased_traceidratio", ratio: "0", own: false, continued: true },
      { sampler: "parentbased_traceidratio", ratio: "1", own: true, continued: true }
    ]
    it.live.each(cases)("$sampler, $ratio", ({ continued, own, ratio, sampler }) =>
      Effect.gen(function* () {
        const app = yield* make([], {
          settings: { OTEL_TRACES_SAMPLER: sampler, OTEL_TRACES_SAMPLER_ARG: ratio }
        })
        const flags = (headers: Record<string, string>) =>
          Effect.map(ask(`${app.url}/api/v1/info`, undefined, { headers }), (answer) =>
            answer.headers.get("traceparent")?.endsWith("-01")
          )
        assert.strictEqual(yield* flags({}), own)
        assert.strictEqual(yield* flags({ traceparent: sampled }), continued)
      })
    )
  })

  it.live("tells where spans come from", () =>
    Effect.gen(function* () {
      const app = yield* make([], {
        settings: { OTEL_SERVICE_NAME: "my-agent", DEPLOYMENT_ENVIRONMENT: "staging" }
      })
      const { headers } = yield* ask(`${app.url}/api/v1/info`)
      const [span] = yield* traceOf(app.otlp, traceIdOf(headers), "GET /api/v1/info")
      const resource = span?.resource ?? {}
      assert.strictEqual(resource["service.name"], "my-agent")
      assert.strictEqual(resource["service.version"], version)
      assert.strictEqual(resource["deployment.environment.name"], "staging")
      assert.match(String(resource["service.instance.id"]), /-\d+$/)
    })
  )

  it.live("sends what is left at shutdown", () =>
    Effect.gen(function* () {
      const otlp = yield* OtlpReceiver.make
      const model = yield* ScriptedModel.serve([Reply.text("Bye.")])
      const db = yield* Layer.build(TestDb.layer)
      const scope = yield* Scope.make()
      const app = yield* Scope.provide(
        AppServer.make(db, model, { settings: { OTEL_EXPORTER_OTLP_ENDPOINT: otlp.url } }),
        scope
      )
      const { headers } = yield* ask(`${app.url}/api/v1/chat`, { message: "hi" })
      yield* Scope.close(scope, Exit.void)
      const spans = otlp.spans.filter((span) => span.traceId === traceIdOf(headers))
      assert.lengthOf(named(spans, "POST /api/v1/chat"), 1)
      assert.lengthOf(named(spans, "agent.format_response"), 1)
    })
  )

  // One after another: they look at a counter that all tracers of a process share.
  describe("a collector that goes away", () => {
    it.live("killed in the middle and back again: turns go on, and spans flow again", () =>
      Effect.gen(function* () {
        const app = yield* make(() => Reply.text("Yes."))
        yield* untilSent(app.url, app.otlp)
        yield* app.otlp.stop
        const failedBefore = yield* exported("failed")
        for (let n = 0; n < 5; n++) yield* talk(app.url)
        yield* Effect.repeat(exported("failed"), { until: (failed) => failed > failedBefore })
        yield* app.otlp.start
        yield* untilSent(app.url, app.otlp)
      })
    )

    it.effect("is said once a minute", () =>
      Effect.gen(function* () {
        const url = yield* closedPort
        const { emit, lines } = yield* makeTracer({ OTEL_EXPORTER_OTLP_ENDPOINT: url })
        const fail = Effect.gen(function* () {
          const before = yield* exported("failed")
          yield* emit("lost")
          yield* Effect.repeat(
            Effect.andThen(
              Effect.promise(() => new Promise((resolve) => setImmediate(resolve))),
              exported("failed")
            ),
            { until: (failed) => failed > before }
          )
        })
        yield* fail
        yield* fail
        assert.lengthOf(lines, 1)
        assert.match(lines[0] ?? "", /^Spans could not be sent to the collector/)
        yield* TestClock.adjust("59 seconds")
        yield* fail
        assert.lengthOf(lines, 1)
        yield* TestClock.adjust("1 second")
        yield* fail
        assert.lengthOf(lines, 2)
      })
    )
  })

  // Together, since nearly all of it is waiting.
  describe.concurrent("a collector that is not there", () => {
    it.live("at start: turns go on, and spans flow once it is", () =>
      Effect.gen(function* () {
        const otlp = yield* OtlpReceiver.make
        yield* otlp.stop
        const model = yield* ScriptedModel.serve(() => Reply.text("Yes."))
        const app = yield* AppServer.make(yield* Layer.build(TestDb.layer), model, {
          settings: { OTEL_EXPORTER_OTLP_ENDPOINT: otlp.url }
        })
        yield* talk(app.url)
        yield* otlp.start
        yield* untilSent(app.url, otlp)
      })
    )

    it.live.each(["hang", "refuse", 2_000] as const)("%s: turns are as quick as ever", (behaviour) =>
      Effect.gen(function* () {
        const app = yield* make(() => Reply.text("Yes."))
        yield* untilSent(app.url, app.otlp)
        app.otlp.behave(behaviour)
        yield* talk(app.url)
        yield* app.otlp.request
        const startedAt = performance.now()
        for (let n = 0; n < 20; n++) yield* talk(app.url)
        // Twenty that waited for a collector would take a minute.
        assert.isBelow(performance.now() - startedAt, 10_000)
        app.otlp.behave("accept")
        yield* untilSent(app.url, app.otlp)
      })
    )

    it.live("holds back a bounded number of spans, and drops the rest", () =>
      Effect.gen(function* () {
        const otlp = yield* OtlpReceiver.make
        const { emit } = yield* makeTracer({ OTEL_EXPORTER_OTLP_ENDPOINT: otlp.url })
        otlp.behave("hang")
        yield* emit("first", 512)
        yield* otlp.request
        // In flight: the first batch. Waiting: at most 4096.
        yield* emit("later", 20_000)
        otlp.behave("accept")
        yield* otlp.until((spans) => named(spans, "later").length >= 4096)
        yield* emit("last")
        yield* otlp.until((spans) => named(spans, "last").length > 0)
        assert.strictEqual(named(otlp.spans, "later").length, 4096)
        assert.isAtMost(Math.max(...otlp.batches), 512)
      })
    )
  })

  it.live("without an endpoint: no exporter, and spans all the same", () =>
    Effect.gen(function* () {
      const before = (yield* exported("sent")) + (yield* exported("failed"))
      const model = yield* ScriptedModel.serve([Reply.text("Yes.")])
      const scope = yield* Scope.make()
      const app = yield* Scope.provide(AppServer.make(yield* Layer.build(TestDb.layer), model), scope)
      const { headers } = yield* ask(`${app.url}/api/v1/chat`, { message: "hi" })
      assert.match(headers.get("traceparent") ?? "", /-01$/)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* exported("sent")) + (yield* exported("failed")), before)
    })
  )
})
