/**
 * Owns how a problem that is no endpoint's own (see `api/Problems.ts` for theirs) becomes a response.
 */
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as ProblemDetails from "effect/http/ProblemDetails"
import { type FieldIssue, problemType } from "../api/Problems.ts"

export interface ProblemFields {
  readonly status: number
  readonly code: string
  readonly title: string
  /** A sentence for a person. */
  readonly detail: string
  readonly errors?: ReadonlyArray<FieldIssue>
  readonly headers?: Readonly<Record<string, string>>
}

export interface ProblemIds {
  readonly requestId: string
  readonly traceId: string
}

export const problemBody = (problem: ProblemFields, ids: ProblemIds) => ({
  type: problemType(problem.code),
  title: problem.title,
  status: problem.status,
  detail: problem.detail,
  error_code: problem.code,
  ...(problem.errors === undefined ? {} : { errors: problem.errors }),
  request_id: ids.requestId,
  trace_id: ids.traceId
})

export const problemResponse = (problem: ProblemFields, ids: ProblemIds) =>
  HttpServerResponse.setHeaders(ProblemDetails.toResponse(problemBody(problem, ids)), problem.headers ?? {})
