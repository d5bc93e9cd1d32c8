/**
 * Owns what every endpoint shares on the wire: its credentials, and the problems any request may meet.
 */
import * as HttpApiMiddleware from "effect/http-api/HttpApiMiddleware"
import * as HttpApiSecurity from "effect/http-api/HttpApiSecurity"
import {
  InternalProblem,
  PayloadTooLargeProblem,
  ServiceUnavailableProblem,
  UnauthorizedProblem,
  UnsupportedMediaTypeProblem,
  ValidationProblem
} from "./Problems.ts"

/** Asks for a key where the server has any configured. */
export class Authorization extends HttpApiMiddleware.Service<Authorization>()(
  "voice-agent/api/Authorization",
  {
    security: { apiKey: HttpApiSecurity.apiKey({ key: "X-API-Key", in: "header" }) },
    error: UnauthorizedProblem
  }
) {}

/** Puts every failure of a request into the form the contract has for it. */
export class Problems extends HttpApiMiddleware.Service<Problems>()("voice-agent/api/Problems", {
  error: [
    ValidationProblem,
    PayloadTooLargeProblem,
    UnsupportedMediaTypeProblem,
    InternalProblem,
    ServiceUnavailableProblem
  ]
}) {}
