/**
 * Owns how tests talk to a server: JSON, Server-Sent Events and WebSocket, as a client of the contract would.
 *
 * Does not judge what it gets, except that every event has to fit its schema, without fields of its own.
 */
import { Effect, Schedule, Schema, type Scope } from "effect"
import { ChatEvent as ChatEventSchema } from "../../src/api/ChatEvent.ts"
import { Inbox } from "./Inbox.ts"

export type ChatEvent = typeof ChatEventSchema.Type
export type EventOf<T extends ChatEvent["type"]> = Extract<ChatEvent, { readonly type: T }>

const decodeEvent = Schema.decodeUnknownSync(Schema.fromJsonString(ChatEventSchema), {
  onExcessProperty: "error"
})

export const isType =
  <T extends ChatEvent["type"]>(type: T) =>
  (event: ChatEvent): event is EventOf<T> =>
    event.type === type

export const eventsOf = <T extends ChatEvent["type"]>(events: ReadonlyArray<ChatEvent>, type: T) =>
  events.filter(isType(type))

/** What the deltas add up to. */
export const textOf = (events: ReadonlyArray<ChatEvent>): string =>
  eventsOf(events, "delta")
    .map((event) => event.content)
    .join("")

const isLast = (event: ChatEvent) =>
  event.type === "end" || event.type === "error" || event.type === "cancelled"

// biome-ignore lint/suspicious/noExplicitAny: tests look into bodies of every shape
export type Json = any

export interface Answer {
  readonly status: number
  readonly headers: Headers
  /** The parsed JSON, or the text of what is none. */
  readonly body: Json
}

const init = (body: unknown, headers: Readonly<Record<string, string>> = {}): RequestInit =>
  body === undefined
    ? { headers }
    : {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify(body)
      }

const parse = (text: string): Json => {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** `GET` without a body, `POST` with one. Interrupting it closes the connection. */
export const ask = (url: string, body?: unknown, options: RequestInit = {}): Effect.Effect<Answer> =>
  Effect.promise(async (signal) => {
    const response = await fetch(url, { ...init(body), ...options, signal })
    return { status: response.status, headers: response.headers, body: parse(await response.text()) }
  })

/** One frame of a Server-Sent Events stream, as sent. */
export interface Frame {
  /** Field names in order: `["id", "data"]`. Empty for a comment. */
  readonly fields: ReadonlyArray<string>
  readonly id: string
  readonly event: ChatEvent
}

export interface EventStream {
  readonly status: number
  readonly headers: Headers
  /** All frames so far. */
  readonly frames: ReadonlyArray<Frame>
  /** Waits for the next event of a type. */
  readonly until: <T extends ChatEvent["type"]>(type: T) => Effect.Effect<EventOf<T>>
  /** The next event, whatever it is. */
  readonly next: Effect.Effect<ChatEvent | undefined>
  /** All events, once the stream has ended. */
  readonly all: Effect.Effect<ReadonlyArray<ChatEvent>>
  /** Closes the connection. */
  readonly leave: Effect.Effect<void>
}

const readFrame = (text: string): Frame | undefined => {
  const lines = text.split("\n")
  if (lines.every((line) => line.startsWith(":"))) return undefined
  const fields = lines.map((line) => line.slice(0, line.indexOf(":")))
  const valueOf = (field: string) =>
    lines
      .filter((line) => line.startsWith(`${field}: `))
      .map((line) => line.slice(field.length + 2))
      .join("\n")
  return { fields, id: valueOf("id"), event: decodeEvent(valueOf("data")) }
}

/** Opens an event stream: `GET` without a body, `POST` with one. */
export const openStream = (
  url: string,
  body?: unknown,
  options: RequestInit = {}
): Effect.Effect<EventStream, never, Scope.Scope> =>
  Effect.gen(function* () {
    const abort = new AbortController()
    yield* Effect.addFinalizer(() => Effect.sync(() => abort.abort()))
    const response = yield* Effect.promise(() =>
      fetch(url, { ...init(body), ...options, signal: abort.signal })
    )
    const inbox = new Inbox<Frame>()
    const read = async () => {
      let text = ""
      for await (const chunk of (response.body ?? new ReadableStream()).pipeThrough(
        new TextDecoderStream()
      )) {
        const parts = (text + chunk).split("\n\n")
        text = parts.pop() ?? ""
        for (const part of parts) {
          const frame = readFrame(part)
          if (frame !== undefined) inbox.push(frame)
        }
      }
    }
    // The end is noticed by whoever reads on, whatever brought it about.
    void read().then(
      () => inbox.end(),
      () => inbox.end()
    )
    return {
      status: response.status,
      headers: response.headers,
      frames: inbox.items,
      until: <T extends ChatEvent["type"]>(type: T) =>
        Effect.promise(
          async () => (await inbox.until((frame) => frame.event.type === type)).event as EventOf<T>
        ),
      next: Effect.promise(async () => (await inbox.next())?.event),
      all: Effect.promise(async () => (await inbox.rest()).map((frame) => frame.event)),
      leave: Effect.sync(() => abort.abort())
    }
  })

export interface ChatSocket {
  readonly events: ReadonlyArray<ChatEvent>
  /** Sends an object as JSON; text and bytes as they are. */
  readonly send: (frame: unknown) => Effect.Effect<void>
  readonly until: <T extends ChatEvent["type"]>(type: T) => Effect.Effect<EventOf<T>>
  readonly next: Effect.Effect<ChatEvent | undefined>
  /** The events from the next on, up to and with the last one of a turn. */
  readonly turn: Effect.Effect<ReadonlyArray<ChatEvent>>
  /** Waits until the connection is closed. Answers the code. */
  readonly closed: Effect.Effect<number>
  /** Closes the connection and waits for that. */
  readonly leave: Effect.Effect<void>
}

/** Connects a WebSocket. `url` is the server's, with `http:`. */
export const openSocket = (
  url: string,
  path = "/api/v1/chat/ws"
): Effect.Effect<ChatSocket, never, Scope.Scope> =>
  Effect.gen(function* () {
    const inbox = new Inbox<ChatEvent>()
    const closed = Promise.withResolvers<number>()
    const socket = new WebSocket(url.replace("http:", "ws:") + path)
    socket.addEventListener("message", (message) => inbox.push(decodeEvent(message.data)))
    socket.addEventListener("close", ({ code }) => {
      inbox.end()
      closed.resolve(code)
    })
    yield* Effect.addFinalizer(() => Effect.sync(() => socket.close()))
    yield* Effect.callback<void>((resume) => {
      socket.addEventListener("open", () => resume(Effect.void))
      socket.addEventListener("error", () => resume(Effect.die(new Error("The WebSocket did not open"))))
    })
    return {
      events: inbox.items,
      send: (frame) =>
        Effect.sync(() =>
          socket.send(
            typeof frame === "string" || frame instanceof Uint8Array
              ? (frame as string)
              : JSON.stringify(frame)
          )
        ),
      until: <T extends ChatEvent["type"]>(type: T) =>
        Effect.promise(async () => (await inbox.until((event) => event.type === type)) as EventOf<T>),
      next: Effect.promise(() => inbox.next()),
      turn: Effect.promise(async () => {
        const events: Array<ChatEvent> = []
        await inbox.until((event) => {
          events.push(event)
          return isLast(event)
        })
        return events
      }),
      closed: Effect.promise(() => closed.promise),
      leave: Effect.suspend(() => {
        socket.close()
        return Effect.asVoid(Effect.promise(() => closed.promise))
      })
    }
  })

export interface HistoryMessage {
  readonly id: string
  readonly role: "user" | "assistant"
  readonly content: string
  readonly metadata: Readonly<Record<string, unknown>> | null
}

/** All of a session's history, with metadata. */
export const historyOf = (url: string, sessionId: string): Effect.Effect<ReadonlyArray<HistoryMessage>> =>
  Effect.map(
    ask(`${url}/api/v1/chat/history/${encodeURIComponent(sessionId)}?limit=200&include_metadata=true`),
    ({ body }) => body.messages
  )

/** Looks again and again until it fits: for what has no event to wait for. */
export const eventually = <A, E>(effect: Effect.Effect<A, E>, fits: (value: A) => boolean) =>
  Effect.repeat(effect, { until: fits, schedule: Schedule.spaced("5 millis") })
