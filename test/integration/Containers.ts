/**
 * Owns the servers of an integration run: one PostgreSQL and one Jaeger, in containers, or those that the environment
 * names. The tests find them in the environment, as if it had named them.
 *
 * A server that cannot be had is told of at the end, by name, and its tests are skipped; with `REQUIRE_CONTAINERS=1`
 * the run fails.
 */
import { createServer } from "node:net"
import { GenericContainer, type StartedTestContainer, Wait } from "testcontainers"

/** The variable by which tests that pause and restart PostgreSQL find its container. */
export const postgresContainer = "TEST_POSTGRES_CONTAINER"

const { env } = process

/** Chosen here and not by the engine, which would choose another one when the container is started again. */
const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
      .on("error", reject)
      .listen(0, "127.0.0.1", () => {
        const address = server.address()
        server.close(() => resolve(typeof address === "object" ? (address?.port ?? 0) : 0))
      })
  })

interface Part {
  /** By which it is reported. */
  readonly name: string
  /** Whether the environment names one. */
  readonly isNamed: () => boolean
  /** Starts one and puts where it is into the environment. */
  readonly start: () => Promise<StartedTestContainer>
}

const parts: ReadonlyArray<Part> = [
  {
    name: "PostgreSQL (pgvector/pgvector:pg17)",
    isNamed: () => env.TEST_DATABASE_URL !== undefined,
    start: async () => {
      const port = await freePort()
      const container = await new GenericContainer("pgvector/pgvector:pg17")
        .withEnvironment({ POSTGRES_PASSWORD: "test" })
        .withExposedPorts({ container: 5432, host: port })
        // Over TCP: while it is being set up it listens on its socket only.
        .withWaitStrategy(Wait.forSuccessfulCommand("pg_isready --host=127.0.0.1 --username=postgres"))
        .start()
      env.TEST_DATABASE_URL = `postgres://postgres:test@${container.getHost()}:${port}/postgres`
      env[postgresContainer] = container.getId()
      return container
    }
  },
  {
    name: "Jaeger (jaegertracing/jaeger:2.15.0)",
    isNamed: () => {
      const otlpUrl = env.TEST_JAEGER_OTLP_URL ?? env.JAEGER_OTLP_URL
      const queryUrl = env.TEST_JAEGER_QUERY_URL ?? env.JAEGER_QUERY_URL
      if (otlpUrl === undefined || queryUrl === undefined) return false
      env.TEST_JAEGER_OTLP_URL = otlpUrl
      env.TEST_JAEGER_QUERY_URL = queryUrl
      return true
    },
    start: async () => {
      // Without a configuration it is all in one, and keeps spans in memory.
      const container = await new GenericContainer("jaegertracing/jaeger:2.15.0")
        .withExposedPorts(4317, 16686)
        .withWaitStrategy(Wait.forHttp("/api/services", 16686))
        .start()
      const at = (port: number) => `http://${container.getHost()}:${container.getMappedPort(port)}`
      env.TEST_JAEGER_OTLP_URL = at(4317)
      env.TEST_JAEGER_QUERY_URL = at(16686)
      return container
    }
  }
]

const patience = 240_000

const within = <A>(promise: Promise<A>): Promise<A> => {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error(`not there after ${patience / 1000} s`)), patience)
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Vitest's: runs before the first test file. Answers what runs after the last. */
export default async function setup() {
  const started: Array<StartedTestContainer> = []
  const skipped: Array<string> = []
  const stop = () => Promise.all(started.map((container) => container.stop()))
  for (const { isNamed, name, start } of parts) {
    if (isNamed()) continue
    try {
      started.push(await within(start()))
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      if (env.REQUIRE_CONTAINERS === "1") {
        await stop()
        throw new Error(`${name} cannot be had: ${why}`, { cause: error })
      }
      skipped.push(`${name}: ${why}`)
    }
  }
  return async () => {
    await stop()
    for (const part of skipped) console.log(`Skipped, what needs ${part}`)
  }
}
