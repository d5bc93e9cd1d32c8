/**
 * Owns what every span of ours has on top of OpenTelemetry's: `duration_ms`, `error.type` and `error.message`, the
 * mark of slow work, names and attributes by one vocabulary, and no secret in any of them.
 *
 * Does not export or keep spans.
 */
import { createHash } from "node:crypto"
import { Cause, type Context, Exit, Option, type Tracer } from "effect"
import * as AiError from "effect/ai/AiError"
import { GenAi } from "./GenAi.ts"
import { SpanName } from "./SpanName.ts"

/** Something that happened during a span, such as a retry. */
export interface SpanEvent {
  readonly name: string
  /** Milliseconds since the epoch. */
  readonly atMillis: number
  readonly attributes: Readonly<Record<string, unknown>>
}

/** What is told of a span when it has ended. */
export interface EndedSpan {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string | undefined
  readonly name: string
  readonly kind: Tracer.SpanKind
  readonly status: "ok" | "error" | "cancelled"
  /** Milliseconds since the epoch. */
  readonly startMillis: number
  readonly durationMillis: number
  readonly attributes: ReadonlyMap<string, unknown>
  readonly events: ReadonlyArray<SpanEvent>
  readonly sessionId: string | undefined
  readonly turnId: string | undefined
  readonly slow: boolean
}

export interface SpanRules {
  readonly redact: (text: string) => string
  /** Whether message text may be told. */
  readonly content: boolean
  /** From how many milliseconds a span of this name is slow. */
  readonly slowAfter: (name: string) => number
  readonly onEnd: (span: EndedSpan) => void
  /** How long a statement waited for a connection of the pool. */
  readonly onConnectionWait: (millis: number) => void
}

/** What an exporter sees of a failure: its kind and a clean message, no stack and no cause. */
class SpanFailure extends Error {
  constructor(type: string, message: string) {
    super(message)
    this.name = type
    this.stack = `${type}: ${message}`
  }
}

const failureOf = (cause: Cause.Cause<unknown>, { content, redact }: SpanRules): SpanFailure => {
  const error = Cause.squash(cause)
  if (AiError.isAiError(error)) {
    const { _tag } = error.reason
    // What a model's server says of a request may quote the messages in it.
    const message = content || _tag === "NetworkError" ? error.reason.message : "the model's server failed"
    return new SpanFailure(_tag, redact(message).slice(0, 500))
  }
  const type =
    typeof error === "object" && error !== null
      ? "_tag" in error && typeof error._tag === "string"
        ? error._tag
        : error instanceof Error
          ? error.name
          : "unknown"
      : "unknown"
  const message = error instanceof Error ? error.message : String(error)
  return new SpanFailure(type, redact(message).slice(0, 500))
}

const fingerprints = new Map<string, { readonly fingerprint: string; readonly summary: string }>()

/** A statement told by its shape: the same for the same text, whatever its parameters. */
const fingerprintOf = (sql: string) => {
  const known = fingerprints.get(sql)
  if (known !== undefined) return known
  const text = sql.replace(/\s+/g, " ").trim()
  const verbs = text.match(/\b(?:INSERT INTO|UPDATE|DELETE FROM|FROM|CREATE TABLE) ["\w.]+/gi) ?? []
  const made = {
    fingerprint: createHash("sha256").update(text).digest("hex").slice(0, 16),
    summary: [...new Set([text.split(" ", 1)[0] ?? "", ...verbs])].join(" ").slice(0, 120)
  }
  // Statements are few; text made at run time must not grow this for ever.
  if (fingerprints.size < 1000) fingerprints.set(sql, made)
  return made
}

/** What is done with an attribute, told by its key. Keys are few, and this runs for every attribute of every span. */
type Treatment = "keep" | "redact" | "drop" | "query" | "wait"

/** Repeat what another says, quote what must not be quoted, or tell who somebody is. */
const dropped = new Set(["code.stacktrace", "parameters", "effect.sql.method", "url.query", "client.address"])

/** Values that are ours: no secret gets there, and looking for one costs more than the span. */
const isPlain = (key: string) =>
  key.endsWith("_id") ||
  key.startsWith("db.") ||
  ["http.route", "http.request.method", "url.scheme", "server.address", "error.type"].includes(key) ||
  (key.startsWith("gen_ai.") && !contents.has(key))

const contents = new Set<string>([GenAi.inputMessages, GenAi.outputMessages, GenAi.toolCallArguments])

const treatments = new Map<string, Treatment>()

const treatmentOf = (key: string): Treatment => {
  const known = treatments.get(key)
  if (known !== undefined) return known
  const made =
    key === "db.query.text"
      ? "query"
      : key === "db.client.connection.wait_time_ms"
        ? "wait"
        : dropped.has(key)
          ? "drop"
          : isPlain(key)
            ? "keep"
            : "redact"
  if (treatments.size < 1000) treatments.set(key, made)
  return made
}

/** The driver knows them only where they are not in the URL, and says `localhost` for all others. */
const isDriversGuess = (key: string) => key.startsWith("server.") || key === "db.namespace"

/** As many as the SDK keeps. */
const maxEvents = 128

export class RecordedSpan implements Tracer.Span {
  readonly _tag = "Span"
  readonly #inner: Tracer.Span
  readonly #rules: SpanRules
  #isQuery = false
  #events: Array<SpanEvent> | undefined
  name: string
  sessionId: string | undefined
  turnId: string | undefined

  constructor(inner: Tracer.Span, rules: SpanRules) {
    this.#inner = inner
    this.#rules = rules
    this.name = inner.name
    const parent = Option.getOrUndefined(inner.parent)
    if (parent instanceof RecordedSpan) {
      this.sessionId = parent.sessionId
      this.turnId = parent.turnId
    }
  }

  get spanId(): string {
    return this.#inner.spanId
  }
  get traceId(): string {
    return this.#inner.traceId
  }
  get parent(): Option.Option<Tracer.AnySpan> {
    return this.#inner.parent
  }
  get annotations(): Context.Context<never> {
    return this.#inner.annotations
  }
  get status(): Tracer.SpanStatus {
    return this.#inner.status
  }
  get attributes(): ReadonlyMap<string, unknown> {
    return this.#inner.attributes
  }
  get links(): ReadonlyArray<Tracer.SpanLink> {
    return this.#inner.links
  }
  get sampled(): boolean {
    return this.#inner.sampled
  }
  get kind(): Tracer.SpanKind {
    return this.#inner.kind
  }

  attribute(key: string, value: unknown): void {
    const treatment = treatmentOf(key)
    if (treatment === "wait" && typeof value === "number") this.#rules.onConnectionWait(value)
    if (!this.sampled || treatment === "drop") return
    if (treatment === "query") {
      if (typeof value === "string") this.#asQuery(value)
      return
    }
    if (key === "url.full") {
      if (typeof value === "string") this.#asUrl(value)
      return
    }
    if (key === "db.system.name") this.#isQuery = true
    if (this.#isQuery && isDriversGuess(key)) return
    if (typeof value === "string") {
      if (key === "session_id") this.sessionId = value
      else if (key === "turn_id") this.#ofTurn(value)
      else if (key === "http.route" && this.kind === "server") this.rename(`${this.#inner.name} ${value}`)
    }
    this.#inner.attribute(key, treatment === "redact" ? this.#redacted(value) : value)
  }

  #redacted(value: unknown): unknown {
    if (typeof value === "string") return this.#rules.redact(value)
    return Array.isArray(value) ? value.map((item) => this.#redacted(item)) : value
  }

  /** Without the query, where a message may be. A server's span has the rest in other attributes. */
  #asUrl(url: string) {
    if (this.kind === "server") return
    this.#inner.attribute("url.full", this.#rules.redact(url.split("?", 1)[0] ?? url))
  }

  /** The request that asked for the turn is part of its story. */
  #ofTurn(turnId: string) {
    this.turnId = turnId
    const parent = Option.getOrUndefined(this.parent)
    if (parent instanceof RecordedSpan) {
      parent.turnId ??= turnId
      parent.sessionId ??= this.sessionId
    }
  }

  /** Effect names the spans of statements by the database; we name them by what they are. */
  #asQuery(sql: string) {
    const { fingerprint, summary } = fingerprintOf(sql)
    this.rename(SpanName.databaseQuery)
    this.#inner.attribute("db.query.fingerprint", fingerprint)
    this.#inner.attribute("db.query.summary", summary)
  }

  rename(name: string) {
    this.name = name
    if ("span" in this.#inner) {
      const { span } = this.#inner as { readonly span: { readonly updateName: (name: string) => unknown } }
      span.updateName(name)
    }
  }

  event(name: string, startTime: bigint, attributes?: Record<string, unknown>): void {
    const clean = Object.fromEntries(
      Object.entries(attributes ?? {}).map(([key, value]) => [key, this.#redacted(value)])
    )
    this.#inner.event(name, startTime, clean)
    if (!this.sampled) return
    this.#events ??= []
    if (this.#events.length < maxEvents) {
      this.#events.push({ name, atMillis: Number(startTime) / 1e6, attributes: clean })
    }
  }

  addLinks(links: ReadonlyArray<Tracer.SpanLink>): void {
    this.#inner.addLinks(links)
  }

  end(endTime: bigint, exit: Exit.Exit<unknown, unknown>): void {
    const { status } = this
    if (status._tag === "Ended") return
    if (!this.sampled) {
      this.#inner.end(endTime, exit)
      return
    }
    const durationMillis = Math.round(Number(endTime - status.startTime) / 1000) / 1000
    const slow = durationMillis >= this.#rules.slowAfter(this.name)
    const outcome = Exit.isSuccess(exit) ? "ok" : Cause.hasInterruptsOnly(exit.cause) ? "cancelled" : "error"
    this.#inner.attribute("duration_ms", durationMillis)
    if (slow) this.#inner.attribute("performance.slow", true)
    let told = exit
    if (Exit.isFailure(exit) && outcome === "error") {
      const failure = failureOf(exit.cause, this.#rules)
      if (!this.attributes.has("error.type")) this.#inner.attribute("error.type", failure.name)
      if (!this.attributes.has("error.message")) this.#inner.attribute("error.message", failure.message)
      told = Exit.fail(failure)
    }
    this.#inner.end(endTime, told)
    this.#rules.onEnd({
      traceId: this.traceId,
      spanId: this.spanId,
      parentSpanId: Option.getOrUndefined(this.parent)?.spanId,
      name: this.name,
      kind: this.kind,
      status: outcome,
      startMillis: Number(status.startTime) / 1e6,
      durationMillis,
      attributes: this.attributes,
      events: this.#events ?? [],
      sessionId: this.sessionId,
      turnId: this.turnId,
      slow
    })
  }
}

/**
 * Stands for a span that a library makes inside one of ours for the same work, such as `effect/ai` for a model call:
 * what it says is said of ours.
 */
export class MergedSpan implements Tracer.Span {
  readonly _tag = "Span"
  readonly #outer: RecordedSpan
  readonly name: string
  status: Tracer.SpanStatus

  constructor(outer: RecordedSpan, name: string, startTime: bigint) {
    this.#outer = outer
    this.name = name
    this.status = { _tag: "Started", startTime }
  }

  get spanId(): string {
    return this.#outer.spanId
  }
  get traceId(): string {
    return this.#outer.traceId
  }
  get parent(): Option.Option<Tracer.AnySpan> {
    return this.#outer.parent
  }
  get annotations(): Context.Context<never> {
    return this.#outer.annotations
  }
  get attributes(): ReadonlyMap<string, unknown> {
    return this.#outer.attributes
  }
  get links(): ReadonlyArray<Tracer.SpanLink> {
    return this.#outer.links
  }
  get sampled(): boolean {
    return this.#outer.sampled
  }
  get kind(): Tracer.SpanKind {
    return this.#outer.kind
  }
  attribute(key: string, value: unknown): void {
    if (key.startsWith("gen_ai.")) this.#outer.attribute(key, value)
  }
  event(name: string, startTime: bigint, attributes?: Record<string, unknown>): void {
    this.#outer.event(name, startTime, attributes)
  }
  addLinks(links: ReadonlyArray<Tracer.SpanLink>): void {
    this.#outer.addLinks(links)
  }
  end(endTime: bigint, exit: Exit.Exit<unknown, unknown>): void {
    if (this.status._tag === "Started") {
      this.status = { _tag: "Ended", startTime: this.status.startTime, endTime, exit }
    }
  }
}

/** Spans of libraries that are the same work as the span of ours around them. */
export const isSameWork = (name: string): boolean => name.startsWith("LanguageModel.")
