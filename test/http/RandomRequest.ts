/**
 * Owns random requests to every endpoint of the contract, made from its own schemas: valid ones, ones in which some
 * things are wrong, and ones that are nonsense. And random frames for its WebSockets.
 *
 * Text in a request is as it goes over the wire, so that a failing one can be repeated by hand.
 */
import { Arbitrary, Schema } from "effect"
import { HttpApi, type HttpApiEndpoint } from "effect/http-api"
import { Api } from "../../src/api/Api.ts"
import { ChatFrame, ControlFrame } from "../../src/api/ChatApi.ts"

type Arb<A> = Arbitrary.Arbitrary<A>

/** What the contract says of one endpoint. */
export interface Endpoint {
  readonly method: string
  /** With `:names`. */
  readonly path: string
  /** Of bodies of success, by status; streams are not among them. */
  readonly successes: ReadonlyMap<number, ReadonlyArray<Schema.Top>>
  readonly request: HttpApiEndpoint.Top
}

export interface RandomRequest {
  readonly endpoint: string
  readonly method: string
  readonly target: string
  readonly headers: Readonly<Record<string, string>>
  /** `undefined`: none. */
  readonly body: string | undefined
}

export const endpoints: ReadonlyMap<string, Endpoint> = (() => {
  const found = new Map<string, Endpoint>()
  HttpApi.reflect(Api, {
    onGroup: () => {},
    onEndpoint: ({ endpoint, successes }) => {
      const { method, path } = endpoint
      found.set(`${method} ${path}`, { method, path, successes, request: endpoint })
    }
  })
  return found
})()

/** Which of them a request reaches, if its path may be read; a name in the path comes before a parameter. */
export const endpointOf = (method: string, target: string): Endpoint | undefined => {
  // The router takes several slashes for one.
  const path = (target.split("?", 1)[0] ?? "").replaceAll(/\/+/g, "/")
  const fitting = [...endpoints.values()].filter((endpoint) =>
    new RegExp(`^${endpoint.path.replaceAll(/:\w+/g, "[^/]+")}/?$`, "i").test(path)
  )
  const least = (a: Endpoint, b: Endpoint) => a.path.split(":").length - b.path.split(":").length
  return fitting.filter((endpoint) => endpoint.method === method).sort(least)[0]
}

const int = (minimum: number, maximum: number) =>
  Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))

const oneOf = <A>(...all: ReadonlyArray<Arb<A>>): Arb<A> =>
  Arbitrary.flatMap(int(0, all.length - 1), (n) => all[n] as Arb<A>)

const pick = <A>(...all: ReadonlyArray<A>): Arb<A> =>
  Arbitrary.map(int(0, all.length - 1), (n) => all[n] as A)

/** Values of a schema as clients send them: JSON. */
const wire = (schema: Schema.Top, adjust = (value: unknown) => value): Arb<unknown> => {
  const codec = Schema.toCodecJson(schema as Schema.Codec<unknown>)
  return Arbitrary.map(Arbitrary.schema(codec), (value) => Schema.encodeSync(codec)(adjust(value)))
}

/** Numbers in a query are whole: their digits are checked, which the type of the value does not tell. */
const whole = (query: unknown) =>
  Object.fromEntries(
    Object.entries(query as object).map(([name, value]) => [
      name,
      typeof value === "number" ? Math.round(value) : value
    ])
  )

const nested = (depth: number): unknown => (depth === 0 ? 1 : [nested(depth - 1)])

/** What does not belong anywhere, or nearly. */
const misfits: ReadonlyArray<unknown> = [
  null,
  "",
  " ",
  "a\u0000b",
  "\ud800",
  "😀".repeat(4001),
  "a".repeat(256),
  "__proto__",
  "' OR 1=1 --",
  "{{7*7}} %s",
  "../../etc/passwd",
  true,
  0,
  -1,
  1.5,
  1e308,
  Number.MAX_SAFE_INTEGER,
  [],
  {},
  [null],
  { a: { "\u0000": 1 } },
  nested(70),
  { constructor: { prototype: 1 } }
]

/** Changes one thing in a value: puts a misfit in, takes something out, or adds something. */
const spoil = (value: unknown, at: number, misfit: unknown): unknown => {
  if (Array.isArray(value) && value.length > 0) {
    return value.map((member, n) => (n === at % value.length ? spoil(member, at + 1, misfit) : member))
  }
  if (typeof value !== "object" || value === null || Object.keys(value).length === 0) return misfit
  const names = Object.keys(value)
  const name = names[at % names.length] ?? ""
  switch (at % 5) {
    case 0:
      return Object.fromEntries(Object.entries(value).filter(([key]) => key !== name))
    case 1:
      return { ...value, [`unknown ${at}`]: misfit }
    case 2:
      return { ...value, [name]: spoil((value as Record<string, unknown>)[name], at + 1, misfit) }
    default:
      return { ...value, [name]: misfit }
  }
}

const text = Arbitrary.schema(Schema.String)

/** JSON, some of it wrong in one or two places. */
const spoilt = (valid: Arb<unknown>): Arb<string> =>
  Arbitrary.map(
    Arbitrary.all({
      valid,
      spots: Arbitrary.array(Arbitrary.all([int(0, 29), pick(...misfits)]), { maxLength: 2 })
    }),
    ({ spots, valid }) =>
      JSON.stringify(spots.reduce((value, [at, misfit]) => spoil(value, at, misfit), valid))
  )

const nonsense = oneOf(
  text,
  pick(
    "",
    "{",
    "[]",
    "null",
    "1e999",
    '"text"',
    "\ufeff{}",
    '{"message":"a","message":1}',
    '{"__proto__":{"message":"a"}}',
    "[".repeat(10_000),
    `{"message":"${"a".repeat(100_000)}"}`,
    "message=hello"
  )
)

/** Few, so that they meet one another. */
const knownSessions = pick("one", "two", "three", "小明", "a b/c?d#e")

/** Names something that may be there: random ids meet nothing. */
const familiar = (valid: Arb<unknown>): Arb<unknown> =>
  Arbitrary.map(
    Arbitrary.all({
      valid,
      session_id: knownSessions,
      call: pick(
        { tool_name: "calculator", arguments: { expression: "6*7" } },
        { tool_name: "get_time", arguments: null }
      )
    }),
    ({ call, session_id, valid }) =>
      Array.isArray(valid)
        ? valid.map((member) => ({ ...member, ...call }))
        : { ...(valid as object), session_id, ...call, expression: "2^10" }
  )

const bodyOf = ({ request: { payload } }: Endpoint): Arb<string | undefined> => {
  const schemas = [...payload.values()].flatMap(({ schemas }) => schemas)
  const [schema] = schemas
  // An endpoint of GET may be sent a body all the same.
  if (schema === undefined) return pick(undefined, undefined, undefined, "{}")
  const valid = wire(schema)
  return oneOf<string | undefined>(
    Arbitrary.map(valid, (value) => JSON.stringify(value)),
    Arbitrary.map(familiar(valid), (value) => JSON.stringify(value)),
    Arbitrary.map(familiar(valid), (value) => JSON.stringify(value)),
    spoilt(valid),
    spoilt(valid),
    nonsense
  )
}

const hasSurrogates = (value: string) => !value.isWellFormed()

const encoded = (value: string) => (hasSurrogates(value) ? "%ED%A0%80" : encodeURIComponent(value))

/** Stands for the id of a turn, which the server chooses. */
export const someTurn = "SOME-TURN"

const known = (parameter: string): Arb<string> =>
  parameter === "name"
    ? pick("calculator", "get_time")
    : parameter === "turn_id"
      ? Arbitrary.Constant(someTurn)
      : knownSessions

const segment = (name: string, valid: Arb<unknown>) =>
  oneOf(
    Arbitrary.map(known(name), encoded),
    Arbitrary.map(known(name), encoded),
    Arbitrary.map(known(name), encoded),
    Arbitrary.map(valid, (value) => encoded(String(value))),
    Arbitrary.map(text, encoded),
    pick(
      "%00",
      "%ZZ",
      "%",
      "%2F",
      "..",
      ".",
      "%C3%28",
      "-1",
      "null",
      "a".repeat(256),
      "b".repeat(3000),
      "%20",
      ""
    )
  )

const targetOf = (endpoint: Endpoint): Arb<string> => {
  const { params, query } = endpoint.request
  const names = [...endpoint.path.matchAll(/:(\w+)/g)].map(([, name]) => name ?? "")
  const validParams = params === undefined ? Arbitrary.Constant({}) : wire(params)
  const path = Arbitrary.map(
    Arbitrary.all(
      names.map((name) =>
        segment(
          name,
          Arbitrary.map(validParams, (all) => (all as Record<string, unknown>)[name])
        )
      )
    ),
    (segments) =>
      names.reduce((path, name, n) => path.replace(`:${name}`, () => segments[n] ?? ""), endpoint.path)
  )
  const validQuery = query === undefined ? Arbitrary.Constant<unknown>({}) : wire(query, whole)
  const value = oneOf(
    Arbitrary.map(text, encoded),
    pick("%", "%00", "", "0x10", "1e2", "-0", "99999999999999999999", "true", "null", "[]", "a&a=b", "字")
  )
  const pairs = (all: unknown) =>
    Object.entries(all as Record<string, unknown>)
      .filter(([, one]) => one !== null && one !== undefined)
      .map(([name, one]) => `${name}=${encoded(String(one))}`)
  const fields = [
    "limit",
    "offset",
    "include_metadata",
    "message",
    "session_id",
    "user_id",
    "model_variant",
    "t"
  ]
  const wrong = Arbitrary.map(
    Arbitrary.all([pick(...fields), value]),
    ([name, one]) => `${name}=${encodeURI(one)}`
  )
  return Arbitrary.map(
    Arbitrary.all({
      path,
      valid: Arbitrary.map(validQuery, pairs),
      wrong: oneOf(Arbitrary.Constant<Array<string>>([]), Arbitrary.array(wrong, { maxLength: 3 })),
      slash: pick("", "", "/")
    }),
    ({ path, slash, valid, wrong }) => {
      const all = [...valid, ...wrong].join("&")
      return `${path}${slash}${all === "" ? "" : `?${all}`}`
    }
  )
}

const jsonType = { "content-type": "application/json" }

const handshake = {
  upgrade: "websocket",
  connection: "Upgrade",
  "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  "sec-websocket-version": "13"
}

const headers: Arb<Readonly<Record<string, string>>> = oneOf<Readonly<Record<string, string>>>(
  Arbitrary.Constant(jsonType),
  Arbitrary.Constant(jsonType),
  Arbitrary.Constant(jsonType),
  pick<Readonly<Record<string, string>>>(
    {},
    { "content-type": "text/plain" },
    { "content-type": "application/json; charset=utf-16" },
    { "content-type": "multipart/form-data; boundary=x" },
    { "content-type": "nonsense" },
    { ...jsonType, "x-request-id": "my-request" },
    { ...jsonType, "x-request-id": "x".repeat(500) },
    { ...jsonType, "x-request-id": "a b" },
    { ...jsonType, traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" },
    { ...jsonType, traceparent: "00-zz-00-01" },
    { ...jsonType, b3: "0" },
    { ...jsonType, accept: "image/png" },
    { ...jsonType, "x-api-key": "whatever", authorization: "Bearer x.y.z" },
    { ...jsonType, origin: "https://elsewhere.example" },
    { ...jsonType, "last-event-id": "nothing:-1" },
    { ...jsonType, "last-event-id": "0190d5a1-0000-4000-8000-0123456789ab:3" },
    { ...jsonType, cookie: "a=b; ; =", range: "bytes=0-1", expect: "something" },
    { ...jsonType, upgrade: "websocket", connection: "Upgrade" },
    handshake
  )
)

const requestTo = ([name, endpoint]: readonly [string, Endpoint]): Arb<RandomRequest> =>
  Arbitrary.map(
    Arbitrary.all({
      method: Arbitrary.map(int(0, 49), (n) =>
        n > 4 ? endpoint.method : (["GET", "POST", "PUT", "DELETE", "HEAD"][n] ?? "GET")
      ),
      target: targetOf(endpoint),
      headers: endpoint.successes.has(101) ? oneOf(headers, Arbitrary.Constant(handshake)) : headers,
      body: bodyOf(endpoint)
    }),
    // A HEAD that asks for a WebSocket is no request of HTTP.
    ({ headers: { upgrade, ...others }, ...request }) => ({
      endpoint: name,
      ...request,
      headers: { ...others, ...(upgrade === undefined || request.method === "HEAD" ? {} : { upgrade }) }
    })
  )

/** A request to any endpoint, each as likely as the others. */
export const randomRequest: Arb<RandomRequest> = oneOf(...[...endpoints].map(requestTo))

const validFrames = [wire(ChatFrame), wire(ChatFrame), wire(ControlFrame)]

/** Some frames, sent one after another over one connection. */
export const randomFrames: Arb<ReadonlyArray<string>> = Arbitrary.array(
  oneOf(
    ...validFrames.map((frame) => Arbitrary.map(frame, (value) => JSON.stringify(value))),
    ...validFrames.map(spoilt),
    nonsense
  ),
  { minLength: 1, maxLength: 4 }
)
