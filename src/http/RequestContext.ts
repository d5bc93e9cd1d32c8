/**
 * Owns what every request gets, whatever answers it: its ids, the headers that tell them, and the contract's form for
 * failures the framework answers by itself (unknown routes, broken bodies, defects).
 *
 * Does not know endpoints: theirs are the problems in `api/Problems.ts`.
 */
import { Cause, Clock, Effect, Exit, Layer, Option, Predicate, Tracer } from "effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerError from "effect/http/HttpServerError"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as HttpTraceContext from "effect/http/HttpTraceContext"
import * as HttpApiError from "effect/http-api/HttpApiError"
import { type FieldIssue, ValidationProblem } from "../api/Problems.ts"
import { Problems } from "../api/Security.ts"
import { CurrentRequest, type RequestIds } from "../observability/CurrentRequest.ts"
import { Metrics } from "../observability/Metrics.ts"
import { fieldIssuesOf, sentenceOf } from "./fieldIssues.ts"
import { type ProblemFields, problemResponse } from "./problemResponse.ts"
import { refusesHead, unroutable, withSemicolons } from "./RouteTable.ts"

export const randomHex = (digits: 16 | 32) => crypto.randomUUID().replaceAll("-", "").slice(0, digits)

/** What a caller may choose as a request's id: short and fit for a header. */
const acceptableId = /^[\x21-\x7e]{1,128}$/

const requestIdOf = (request: HttpServerRequest.HttpServerRequest): string => {
  const given = request.headers["x-request-id"]
  return given !== undefined && acceptableId.test(given) ? given : `req_${randomHex(32)}`
}

const internalError: ProblemFields = {
  status: 500,
  code: "INTERNAL_ERROR",
  title: "Something went wrong on our side",
  detail: "The request could not be completed. Its id helps us find out why."
}

const tooLarge: ProblemFields = {
  status: 413,
  code: "PAYLOAD_TOO_LARGE",
  title: "The body is too large",
  detail: "The body may have at most 1 MiB."
}

const unavailable: ProblemFields = {
  status: 503,
  code: "SERVICE_UNAVAILABLE",
  title: "The service is not available now",
  detail: "The server is shutting down. Try again in a moment."
}

/** Answers that the framework makes without a body, by status. */
const bare: Readonly<Record<number, ProblemFields>> = {
  400: {
    status: 400,
    code: "VALIDATION_ERROR",
    title: "The request is not valid",
    detail: "body: could not be read",
    errors: [{ field: "body", message: "could not be read" }]
  },
  413: tooLarge,
  415: {
    status: 415,
    code: "UNSUPPORTED_MEDIA_TYPE",
    title: "The body's type is not supported",
    detail: "Send the body as application/json."
  },
  503: unavailable
}

/** The response for what no endpoint answered for. `undefined`: the client has gone. */
const failureResponse = (
  request: HttpServerRequest.HttpServerRequest,
  ids: RequestIds,
  cause: Cause.Cause<unknown>
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  for (const reason of cause.reasons) {
    const error = Cause.isFailReason(reason)
      ? reason.error
      : Cause.isDieReason(reason)
        ? reason.defect
        : undefined
    if (!HttpServerError.isHttpServerError(error)) continue
    if (error.reason._tag === "RouteNotFound")
      return Effect.succeed(problemResponse(unroutable(request.method, request.url), ids))
    if (error.reason._tag === "RequestParseError") {
      const problem = error.reason.reason === "BodyTooLarge" ? tooLarge : bare[400]
      return Effect.succeed(problemResponse(problem ?? internalError, ids))
    }
  }
  if (Cause.hasInterruptsOnly(cause)) return Effect.succeed(problemResponse(unavailable, ids))
  return Effect.as(
    Effect.logError("A request failed unexpectedly", cause),
    problemResponse(internalError, ids)
  )
}

const isProblem = (response: HttpServerResponse.HttpServerResponse) =>
  response.body._tag !== "Empty" && response.body.contentType?.startsWith("application/problem+json") === true

/** Puts a bare answer of the framework into the contract's form. */
const asProblem = (response: HttpServerResponse.HttpServerResponse, ids: RequestIds) => {
  const problem = bare[response.status]
  return response.status < 400 || problem === undefined || isProblem(response) || isReport(response)
    ? response
    : problemResponse(problem, ids)
}

/** An endpoint's own answer that says, by its status, that something is wrong. */
const isReport = (response: HttpServerResponse.HttpServerResponse) =>
  response.body._tag !== "Empty" && response.body.contentType?.startsWith("application/json") === true

export const traceparent = (ids: Pick<RequestIds, "traceId" | "spanId" | "sampled">) =>
  `00-${ids.traceId}-${ids.spanId}-${ids.sampled ? "01" : "00"}`

const withHeaders = (response: HttpServerResponse.HttpServerResponse, ids: RequestIds) => {
  const headers: Record<string, string> = {
    "x-request-id": ids.requestId,
    traceparent: traceparent(ids)
  }
  if (response.status === 401) headers["www-authenticate"] = `ApiKey realm="voice-agent-api"`
  if (response.status === 426) headers.upgrade = "websocket"
  if (response.status === 503 || response.status === 429) headers["retry-after"] = "2"
  return HttpServerResponse.setHeaders(response, headers)
}

const isClientAbort = (cause: Cause.Cause<unknown>) =>
  cause.reasons.some(
    (reason) => Cause.isInterruptReason(reason) && reason.annotations.has(HttpServerError.ClientAbort.key)
  )

/** Tells which endpoint answers. Around every route, and nothing else. */
export const layerRoute = HttpRouter.middleware((handler) =>
  Effect.flatMap(HttpRouter.RouteContext, ({ route }) =>
    Effect.flatMap(CurrentRequest, (ids) => {
      ids.route = route.path
      return handler
    })
  )
).layer

/** Where there is no server span, the caller's trace, or a new one, is named all the same. */
const continued = (request: HttpServerRequest.HttpServerRequest) =>
  Tracer.externalSpan({
    traceId: Option.match(HttpTraceContext.w3c(request.headers), {
      onNone: () => randomHex(32),
      onSome: (incoming) => incoming.traceId
    }),
    spanId: randomHex(16),
    sampled: false
  })

/** Around every request, matched or not. */
export const layerRequestContext = HttpRouter.middleware(
  Effect.gen(function* () {
    const metrics = yield* Metrics
    const clock = yield* Clock.Clock
    return (handler) =>
      Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) =>
        Effect.flatMap(Effect.option(Effect.currentParentSpan), (parent) => {
          const startedAt = clock.monotonicTimeNanosUnsafe()
          const span = Option.getOrElse(parent, () => continued(request))
          const ids: RequestIds = {
            requestId: requestIdOf(request),
            traceId: span.traceId,
            spanId: span.spanId,
            sampled: span.sampled,
            method: request.method,
            route: undefined
          }
          const url = withSemicolons(request.url)
          const answered = refusesHead(request.method, request.url)
            ? Effect.succeed(problemResponse(unroutable(request.method, request.url), ids))
            : Effect.exit(handler).pipe(
                Effect.flatMap((exit) => {
                  if (Exit.isSuccess(exit)) return Effect.succeed(asProblem(exit.value, ids))
                  return isClientAbort(exit.cause) ? exit : failureResponse(request, ids, exit.cause)
                })
              )
          return answered.pipe(
            Effect.map((response) => withHeaders(response, ids)),
            Effect.onExit((exit) =>
              Effect.sync(() =>
                metrics.request({
                  route: ids.route,
                  method: request.method,
                  status: Exit.isSuccess(exit) ? exit.value.status : undefined,
                  seconds: Number(clock.monotonicTimeNanosUnsafe() - startedAt) / 1e9
                })
              )
            ),
            (answer) =>
              url === request.url
                ? answer
                : Effect.provideService(answer, HttpServerRequest.HttpServerRequest, request.modify({ url })),
            Effect.provideService(CurrentRequest, ids),
            Effect.provideService(Tracer.ParentSpan, span),
            (answer) => (Option.isNone(parent) ? Effect.withTracerEnabled(answer, false) : answer)
          )
        })
      )
  }),
  { global: true }
)

const roots = { Params: "path", Headers: "headers", Query: "query", Payload: "body" } as const

const validationProblem = (errors: ReadonlyArray<FieldIssue>) =>
  new ValidationProblem({ detail: sentenceOf(errors), errors })

/** Fills in the ids of the API's own problems, and tells which fields of a request are wrong. */
export const layerProblems: Layer.Layer<Problems> = Layer.succeed(Problems, (handler) =>
  Effect.catch(handler, withIds)
)

const withIds = <E>(failure: E): Effect.Effect<never, E | ValidationProblem> =>
  Effect.flatMap(CurrentRequest, ({ requestId, traceId }) => {
    const error =
      HttpApiError.HttpApiSchemaError.is(failure) &&
      failure.kind !== "Body" &&
      failure.kind !== "ResponseHeaders"
        ? validationProblem(fieldIssuesOf(failure.cause, roots[failure.kind]))
        : failure
    if (Predicate.hasProperty(error, "error_code")) {
      Object.assign(error, { request_id: requestId, trace_id: traceId })
    }
    return Effect.fail(error)
  })
