/**
 * Owns the errors of the API as they are on the wire (RFC 9457) and their stable codes.
 *
 * Does not decide which failure becomes which problem: handlers do, and `server/RequestContext.ts` for the framework's.
 */
import { Schema } from "effect"
import * as HttpApiError from "effect/http-api/HttpApiError"

/** One wrong value of a request: where it is and why. */
export const FieldIssue = Schema.Struct({ field: Schema.String, message: Schema.String })
export type FieldIssue = typeof FieldIssue.Type

export const problemType = (code: string) =>
  `urn:voice-agent-api:problem:${code.toLowerCase().replaceAll("_", "-")}`

/** `request_id` and `trace_id` are filled in on the way out. */
const ids = {
  request_id: Schema.optionalKey(Schema.String),
  trace_id: Schema.optionalKey(Schema.String)
}

const declared = <const Code extends string, const Status extends number>(
  code: Code,
  status: Status,
  title: string
) => ({ type: problemType(code), status, title })

export class ValidationProblem extends HttpApiError.Problem<ValidationProblem>()(
  "ValidationProblem",
  declared("VALIDATION_ERROR", 400, "The request is not valid"),
  {
    detail: Schema.String,
    error_code: Schema.tag("VALIDATION_ERROR"),
    errors: Schema.Array(FieldIssue),
    ...ids
  }
) {}

export class ArgumentsProblem extends HttpApiError.Problem<ArgumentsProblem>()(
  "ArgumentsProblem",
  declared("VALIDATION_ERROR", 422, "The arguments do not fit the tool"),
  {
    detail: Schema.String,
    error_code: Schema.tag("VALIDATION_ERROR"),
    errors: Schema.Array(FieldIssue),
    ...ids
  }
) {}

export class UnauthorizedProblem extends HttpApiError.Problem<UnauthorizedProblem>()(
  "UnauthorizedProblem",
  declared("UNAUTHORIZED", 401, "Credentials are missing or wrong"),
  { detail: Schema.String, error_code: Schema.tag("UNAUTHORIZED"), ...ids }
) {}

export class ForbiddenProblem extends HttpApiError.Problem<ForbiddenProblem>()(
  "ForbiddenProblem",
  declared("FORBIDDEN", 403, "This is not allowed"),
  { detail: Schema.String, error_code: Schema.tag("FORBIDDEN"), ...ids }
) {}

export class SessionNotFoundProblem extends HttpApiError.Problem<SessionNotFoundProblem>()(
  "SessionNotFoundProblem",
  declared("SESSION_NOT_FOUND", 404, "There is no such session"),
  { detail: Schema.String, error_code: Schema.tag("SESSION_NOT_FOUND"), ...ids }
) {}

export class TurnNotFoundProblem extends HttpApiError.Problem<TurnNotFoundProblem>()(
  "TurnNotFoundProblem",
  declared("TURN_NOT_FOUND", 404, "There is no such turn"),
  { detail: Schema.String, error_code: Schema.tag("TURN_NOT_FOUND"), ...ids }
) {}

export class ToolNotFoundProblem extends HttpApiError.Problem<ToolNotFoundProblem>()(
  "ToolNotFoundProblem",
  declared("TOOL_NOT_FOUND", 404, "There is no such tool"),
  { detail: Schema.String, error_code: Schema.tag("TOOL_NOT_FOUND"), ...ids }
) {}

export class PayloadTooLargeProblem extends HttpApiError.Problem<PayloadTooLargeProblem>()(
  "PayloadTooLargeProblem",
  declared("PAYLOAD_TOO_LARGE", 413, "The body is too large"),
  { detail: Schema.String, error_code: Schema.tag("PAYLOAD_TOO_LARGE"), ...ids }
) {}

export class UnsupportedMediaTypeProblem extends HttpApiError.Problem<UnsupportedMediaTypeProblem>()(
  "UnsupportedMediaTypeProblem",
  declared("UNSUPPORTED_MEDIA_TYPE", 415, "The body's type is not supported"),
  { detail: Schema.String, error_code: Schema.tag("UNSUPPORTED_MEDIA_TYPE"), ...ids }
) {}

export class UpgradeRequiredProblem extends HttpApiError.Problem<UpgradeRequiredProblem>()(
  "UpgradeRequiredProblem",
  declared("UPGRADE_REQUIRED", 426, "This address speaks WebSocket"),
  { detail: Schema.String, error_code: Schema.tag("UPGRADE_REQUIRED"), ...ids }
) {}

export class InternalProblem extends HttpApiError.Problem<InternalProblem>()(
  "InternalProblem",
  declared("INTERNAL_ERROR", 500, "Something went wrong on our side"),
  { detail: Schema.String, error_code: Schema.tag("INTERNAL_ERROR"), ...ids }
) {}

export class ServiceUnavailableProblem extends HttpApiError.Problem<ServiceUnavailableProblem>()(
  "ServiceUnavailableProblem",
  declared("SERVICE_UNAVAILABLE", 503, "The service is not available now"),
  { detail: Schema.String, error_code: Schema.tag("SERVICE_UNAVAILABLE"), ...ids }
) {}
