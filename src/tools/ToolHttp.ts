/**
 * Owns how tools reach other servers: bounded in time and size, guarded by a circuit breaker per host, and with
 * failures put into words.
 *
 * Does not retry: `ToolRun.ts` calls an idempotent tool again when it fails in passing.
 */
import { Cause, Context, Duration, Effect, Exit, Layer, Option, Schema, Stream } from "effect"
import type { HttpClientError, HttpClientRequest, HttpClientResponse } from "effect/http"
import * as HttpClient from "effect/http/HttpClient"
import * as UrlParams from "effect/http/UrlParams"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import { watchBreaker } from "../observability/Breakers.ts"
import { isPropagated, PropagateTo } from "../observability/ClientSpan.ts"
import { ToolFailed } from "./ToolDefinition.ts"

const maxBodyBytes = 1024 * 1024
/** Below the 15 seconds a tool has, so that a host that hangs counts as failing and its breaker opens. */
const requestTimeout = Duration.seconds(10)
/** Two calls, each with its two retries. */
const failuresToOpen = 6
const openFor = Duration.seconds(30)

export class ToolHttp extends Context.Service<
  ToolHttp,
  {
    /**
     * Sends a request and decodes the JSON it is answered with.
     *
     * Fails with `ToolFailed`: `upstream` for a status other than 2xx, a broken connection, or a body that is over
     * 1 MiB, not JSON or of another shape; `timeout` after 10 seconds; `unavailable` without asking, for 30 seconds
     * after six failures in a row. Broken connections, 429 and 5xx are transient. Spans carry no query parameters,
     * and requests trace headers only where `TRACE_PROPAGATE_TO` names the host.
     */
    readonly json: <S extends Schema.ConstraintDecoder<unknown>>(
      request: HttpClientRequest.HttpClientRequest,
      schema: S
    ) => Effect.Effect<S["Type"], ToolFailed>
  }
>()("voice-agent/tools/ToolHttp") {
  static readonly layerNoDeps: Layer.Layer<
    ToolHttp,
    never,
    HttpClient.HttpClient | CircuitBreaker.CircuitBreakerStore
  > = Layer.effect(
    ToolHttp,
    Effect.suspend(() => make)
  )

  /** Breakers that are this process's own. */
  static readonly layer: Layer.Layer<ToolHttp, never, HttpClient.HttpClient> = ToolHttp.layerNoDeps.pipe(
    Layer.provide(CircuitBreaker.layerStoreMemory())
  )
}

const make = Effect.gen(function* () {
  const client = yield* HttpClient.HttpClient
  const breaker = yield* CircuitBreaker.make({
    tripPolicy: CircuitBreaker.consecutive(failuresToOpen),
    openDuration: openFor
  })

  yield* watchBreaker(breaker, (origin) => `tool/${new URL(origin).host}`)

  const body = Effect.fnUntraced(function* (host: string, request: HttpClientRequest.HttpClientRequest) {
    const response = yield* client.execute(request).pipe(Effect.mapError((error) => notReached(host, error)))
    if (response.status < 200 || response.status > 299) return yield* refused(host, response)
    return yield* bounded(host, response)
  })

  const json = Effect.fnUntraced(function* <S extends Schema.ConstraintDecoder<unknown>>(
    request: HttpClientRequest.HttpClientRequest,
    schema: S
  ): Effect.fn.Return<S["Type"], ToolFailed> {
    const { host, hostname, origin } = new URL(request.url)
    const propagated = isPropagated(hostname, yield* PropagateTo)
    const text = yield* body(host, request).pipe(
      Effect.timeoutOrElse({ duration: requestTimeout, orElse: () => Effect.fail(tooSlow(host)) }),
      breaker.execute({ key: origin, classify }),
      Effect.catchTag("CircuitBreakerError", () => Effect.fail(resting(host))),
      Effect.provideService(HttpClient.TracerPropagationEnabled, propagated),
      // What a tool is asked for is the user's business, and the client's span has the whole URL.
      Effect.provideService(UrlParams.CurrentRedactedNames, [/(?:)/])
    )
    return yield* Schema.decodeUnknownEffect(Schema.fromJsonString(schema))(text).pipe(
      Effect.mapError((cause) =>
        upstream(host, "sent an answer that is not understood", "an unexpected body", false, cause)
      )
    )
  })

  return ToolHttp.of({ json })
})

const upstream = (host: string, did: string, detail: string, isTransient: boolean, cause?: unknown) =>
  new ToolFailed({
    message: `${host} ${did}.`,
    reason: "upstream",
    detail: `${detail} from ${host}`,
    isTransient,
    ...(cause === undefined ? {} : { cause })
  })

const notReached = (host: string, error: HttpClientError.HttpClientError) =>
  upstream(
    host,
    "could not be reached",
    error.reason._tag,
    error.reason._tag === "TransportError",
    error.reason
  )

const refused = (host: string, { status }: HttpClientResponse.HttpClientResponse) =>
  upstream(
    host,
    status === 401 || status === 403
      ? `refused the credentials (HTTP ${status})`
      : status === 429
        ? "is being asked too often (HTTP 429)"
        : `answered with an error (HTTP ${status})`,
    `HTTP ${status}`,
    status === 429 || status >= 500
  )

const tooSlow = (host: string) =>
  new ToolFailed({
    message: `${host} did not answer within ${Duration.toSeconds(requestTimeout)} seconds.`,
    reason: "timeout",
    detail: `no answer from ${host}`
  })

const resting = (host: string) =>
  new ToolFailed({
    message: `${host} has been failing and is not asked at the moment. Try again in half a minute.`,
    reason: "unavailable",
    detail: `the circuit breaker for ${host} is open`
  })

/** What says something about the host's health: passing failures and silence against it, any other answer for it. */
const classify = (exit: Exit.Exit<string, ToolFailed>): CircuitBreaker.Outcome => {
  if (Exit.isSuccess(exit)) return CircuitBreaker.success
  const failure = Cause.findErrorOption(exit.cause)
  if (Option.isNone(failure) || failure.value.detail?.startsWith("HTTP 429") === true)
    return CircuitBreaker.ignored
  return failure.value.isTransient === true || failure.value.reason === "timeout"
    ? CircuitBreaker.failure()
    : CircuitBreaker.success
}

/** Reads the body as UTF-8, giving up as soon as it is too large rather than once it is all there. */
const bounded = (host: string, response: HttpClientResponse.HttpClientResponse) => {
  const tooLarge = Effect.fail(upstream(host, "sent more than can be used", "a body over 1 MiB", false))
  let size = 0
  return response.stream.pipe(
    Stream.mapError((error) => notReached(host, error)),
    Stream.mapEffect((chunk) => {
      size += chunk.length
      return size > maxBodyBytes ? tooLarge : Effect.succeed(chunk)
    }),
    Stream.decodeText,
    Stream.mkString
  )
}
