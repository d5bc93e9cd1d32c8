/**
 * Owns the span of an HTTP request that we send ourselves, and whether it takes the trace along.
 */
import { Context, Effect, type Scope, type Tracer } from "effect"

/** Open until the scope closes, so that a streamed answer is part of it. No query, no credentials. */
export const httpClientSpan = (method: string, url: URL): Effect.Effect<Tracer.Span, never, Scope.Scope> =>
  Effect.makeSpanScoped(method, {
    kind: "client",
    attributes: {
      "http.request.method": method,
      "url.full": `${url.origin}${url.pathname}`,
      "server.address": url.hostname,
      "server.port": Number(url.port) || (url.protocol === "https:" ? 443 : 80)
    }
  })

/** Names of the hosts that are to have the trace, or `*` for all. */
export const PropagateTo = Context.Reference<ReadonlyArray<string>>("voice-agent/observability/PropagateTo", {
  defaultValue: () => []
})

export const isPropagated = (host: string, hosts: ReadonlyArray<string>): boolean =>
  hosts.includes("*") || hosts.includes(host)

/** W3C trace context for hosts that are to have it. */
export const traceHeaders = (
  span: Tracer.Span,
  url: URL,
  hosts: ReadonlyArray<string>
): Readonly<Record<string, string>> =>
  isPropagated(url.hostname, hosts)
    ? { traceparent: `00-${span.traceId}-${span.spanId}-${span.sampled ? "01" : "00"}` }
    : {}
