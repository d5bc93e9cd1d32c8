import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Ref, type Scope } from "effect"
import { getContainerRuntimeClient } from "testcontainers"
import { Reply, ScriptedModel } from "voice-agent-api/testing"
import * as AppServer from "../support/AppServer.ts"
import { ask, eventually } from "../support/ChatClient.ts"
import * as TestDb from "../support/TestDb.ts"
import { postgresContainer } from "./Containers.ts"

/** `undefined`: the server is not ours to stop. */
const containerId = process.env[postgresContainer]

/** What docker does to the container. */
const docker = (command: "pause" | "unpause" | "stop" | "start") =>
  Effect.promise(async () => {
    const { container } = await getContainerRuntimeClient()
    await container.getById(containerId ?? "")[command]()
  })

interface Ack {
  readonly session_id: string
  readonly message: string
}

interface Load {
  /** Answered with a reply, in order. */
  readonly acknowledged: ReadonlyArray<Ack>
  readonly refused: number
}

const readiness = (url: string) => Effect.map(ask(`${url}/api/v1/health/ready`), ({ status }) => status)

/** Talks to the server, as many callers as sessions, until it is stopped. Every answer is a reply or an honest 503. */
const talkOn = (app: AppServer.AppServer) =>
  Effect.gen(function* () {
    const load = yield* Ref.make<Load>({ acknowledged: [], refused: 0 })
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
            assert.strictEqual(headers.get("content-type"), "application/problem+json")
            assert.match(headers.get("retry-after") ?? "", /^[1-9]\d*$/)
            assert.strictEqual(body.error_code, "SERVICE_UNAVAILABLE")
            yield* Ref.update(load, (now) => ({ ...now, refused: now.refused + 1 }))
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
const through = (app: AppServer.AppServer, fault: (load: Effect.Effect<Load>) => Effect.Effect<void>) =>
  Effect.gen(function* () {
    const talk = yield* talkOn(app)
    const acknowledged = (least: number) =>
      eventually(talk.soFar, (load) => load.acknowledged.length >= least)
    const before = yield* acknowledged(6)
    yield* fault(talk.soFar)
    yield* eventually(readiness(app.url), (status) => status === 200)
    const after = yield* talk.soFar
    // Every caller has had an answer since.
    yield* acknowledged(after.acknowledged.length + 6)
    const load = yield* talk.stop
    assert.isAbove(load.acknowledged.length, before.acknowledged.length)
    yield* assertKept(app, load)
    return load
  })

/** Away for 5 s at least, and until callers have been told so. */
const away = (leave: Effect.Effect<void>, comeBack: Effect.Effect<void>) => (load: Effect.Effect<Load>) =>
  Effect.gen(function* () {
    const { refused } = yield* load
    yield* leave
    yield* Effect.sleep("5 seconds")
    yield* eventually(load, (now) => now.refused > refused)
    yield* comeBack
  })

const timeout = 120_000

describe.skipIf(TestDb.serverUrl === undefined)("a PostgreSQL that fails", () => {
  it.live(
    "by killing its connections is forgiven, and nothing is lost that was acknowledged",
    () =>
      withApp((app) =>
        through(app, () =>
          Effect.gen(function* () {
            for (let n = 0; n < 5; n++) {
              const killed = yield* app.sql<{ schema: string }>`
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'voice-agent-api' AND pid <> pg_backend_pid()`.pipe(Effect.orDie)
              assert.isNotEmpty(killed)
              yield* eventually(readiness(app.url), (status) => status === 200)
            }
          })
        )
      ),
    timeout
  )

  it.live.skipIf(containerId === undefined)(
    "by not answering for 5 s is told of by 503, and nothing is lost that was acknowledged",
    () => withApp((app) => through(app, away(docker("pause"), docker("unpause")))),
    timeout
  )

  it.live.skipIf(containerId === undefined)(
    "by being restarted is told of by 503, and nothing is lost that was acknowledged",
    () => withApp((app) => through(app, away(docker("stop"), docker("start")))),
    timeout
  )
})
