import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Ref, type Scope } from "effect"
import { getContainerRuntimeClient } from "testcontainers"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import * as AppServer from "../support/AppServer.ts"
import { type Answer, ask, eventually } from "../support/ChatClient.ts"
import * as TestDb from "../support/TestDb.ts"
import { postgresContainer } from "./Containers.ts"

/** `undefined`: the server is not ours to stop. */
const containerId = process.env[postgresContainer]

/** What docker does to the container. */
const docker = (command: "pause" | "unpause" | "stop" | "start") =>
  Effect.promise(async () => {
    const container = (await getContainerRuntimeClient()).container.getById(containerId ?? "")
    switch (command) {
      case "pause":
        return void (await container.pause())
      case "unpause":
        return void (await container.unpause())
      case "stop":
        return void (await container.stop({}))
      case "start":
        return void (await container.start({}))
    }
  })

interface Ack {
  readonly session_id: string
  readonly message: string
}

interface Load {
  /** Answered with a reply, in order. */
  readonly acknowledged: ReadonlyArray<Ack>
}

const readiness = (url: string) => Effect.map(ask(`${url}/api/v1/health/ready`), ({ status }) => status)

const assertAway = ({ body, headers, status }: Pick<Answer, "body" | "headers" | "status">) => {
  assert.strictEqual(status, 503, JSON.stringify(body))
  assert.strictEqual(headers.get("content-type"), "application/problem+json")
  assert.match(headers.get("retry-after") ?? "", /^[1-9]\d*$/)
  assert.strictEqual(body.error_code, "SERVICE_UNAVAILABLE")
}

/** Talks to the server, as many callers as sessions, until it is stopped. Every answer is a reply or an honest 503. */
const talkOn = (app: AppServer.AppServer) =>
  Effect.gen(function* () {
    const load = yield* Ref.make<Load>({ acknowledged: [] })
    let stopped = false
    const caller = (session_id: string) =>
      Effect.gen(function* () {
        for (let n = 0; !stopped; n++) {
          const message = `${session_id} says ${n}`
          const { body, headers, status } = yield* ask(`${app.url}/api/v1/chat`, { message, session_id })
          if (status === 200 && body.success === true) {
            yield* Ref.update(load, (now) => ({
              ...now,
              acknowledged: [...now.acknowledged, { session_id, message }]
            }))
          } else if (status === 503) {
            assertAway({ body, headers, status })
          } else {
            // A turn that was accepted, and whose end could not be stored.
            assert.strictEqual(status, 200, JSON.stringify(body))
            assert.isString(body.error_code)
          }
        }
      })
    const fiber = yield* Effect.forkChild(
      Effect.forEach(["ada", "bob", "eve"], caller, { concurrency: "unbounded", discard: true })
    )
    return {
      soFar: Ref.get(load),
      stop: Effect.andThen(
        Effect.sync(() => {
          stopped = true
        }),
        Effect.andThen(Fiber.join(fiber), Ref.get(load))
      )
    }
  })

/** All that was acknowledged is in history once, in order, each with its reply. */
const assertKept = (app: AppServer.AppServer, { acknowledged }: Load) =>
  Effect.gen(function* () {
    for (const session_id of new Set(acknowledged.map((ack) => ack.session_id))) {
      const history: Array<string> = []
      for (let more = true; more; ) {
        const { body } = yield* ask(
          `${app.url}/api/v1/chat/history/${session_id}?limit=200&offset=${history.length}`
        )
        for (const { content } of body.messages) history.push(content)
        more = body.has_more
      }
      const said = acknowledged.filter((ack) => ack.session_id === session_id).map(({ message }) => message)
      assert.deepStrictEqual(
        history.filter((content) => said.includes(content)),
        said
      )
      for (const message of said) assert.strictEqual(history[history.indexOf(message) + 1], "reply", message)
    }
  })

const withApp = <A, E>(body: (app: AppServer.AppServer) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const model = yield* ScriptedModel.serve(() => Reply.text("reply", { delayMillis: 5 }))
      return yield* body(yield* AppServer.make(yield* Layer.build(TestDb.layer), model))
    })
  )

/** The server goes through `fault` with callers on it, and is well again by itself. Answers what the callers got. */
const through = (app: AppServer.AppServer, fault: Effect.Effect<void>) =>
  Effect.gen(function* () {
    const talk = yield* talkOn(app)
    const acknowledged = (least: number) =>
      eventually(talk.soFar, (load) => load.acknowledged.length >= least)
    const before = yield* acknowledged(6)
    yield* fault
    yield* eventually(readiness(app.url), (status) => status === 200)
    const after = yield* talk.soFar
    // Every caller has had an answer since.
    yield* acknowledged(after.acknowledged.length + 6)
    const load = yield* talk.stop
    assert.isAbove(load.acknowledged.length, before.acknowledged.length)
    yield* assertKept(app, load)
    return load
  })

/** Away for 5 s at least. New callers are told so; those whose turn was accepted wait for its end to be stored. */
const away = (app: AppServer.AppServer, leave: Effect.Effect<void>, comeBack: Effect.Effect<void>) =>
  Effect.gen(function* () {
    yield* leave
    yield* Effect.sleep("5 seconds")
    const { body, headers, status } = yield* ask(`${app.url}/api/v1/chat`, { message: "Are you there?" })
    assertAway({ body, headers, status })
    assert.strictEqual(yield* readiness(app.url), 503)
    yield* comeBack
  })

const timeout = 120_000

describe.skipIf(TestDb.serverUrl === undefined)("a PostgreSQL that fails", () => {
  it.live(
    "by killing its connections is forgiven, and nothing is lost that was acknowledged",
    () =>
      withApp((app) =>
        through(
          app,
          Effect.gen(function* () {
            for (let killed = 0; killed < 10; ) {
              const gone = yield* app.sql`
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'voice-agent-api' AND pid <> pg_backend_pid()`.pipe(Effect.orDie)
              killed += gone.length
              yield* eventually(readiness(app.url), (status) => status === 200)
            }
          })
        )
      ),
    timeout
  )

  it.live.skipIf(containerId === undefined)(
    "by not answering for 5 s is told of by 503, and nothing is lost that was acknowledged",
    () => withApp((app) => through(app, away(app, docker("pause"), docker("unpause")))),
    timeout
  )

  it.live.skipIf(containerId === undefined)(
    "by being restarted is told of by 503, and nothing is lost that was acknowledged",
    () => withApp((app) => through(app, away(app, docker("stop"), docker("start")))),
    timeout
  )
})
