/**
 * Owns the way to the database: one `SqlClient`, either on a PostgreSQL server or on the embedded one, and its state
 * at start. What repositories do with it is in `DbUnavailable.ts`, the schema in `Migrations.ts`.
 *
 * Does not know any table.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { PgClient } from "@effect/sql-pg"
import { Context, Duration, Effect, Layer, Redacted, Schema } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlError } from "effect/sql"
import { AppConfig } from "../Config.ts"
import * as DataDirLock from "./DataDirLock.ts"
import { sqlState } from "./DbUnavailable.ts"
import * as Embedded from "./Embedded.ts"
import * as Migrations from "./Migrations.ts"

export { DbUnavailable, guard, retrying } from "./DbUnavailable.ts"

/** The database cannot be used. The message is for an operator, one line for each problem, without credentials. */
export class DbStartError extends Schema.TaggedError<DbStartError>()("DbStartError", {
  problem: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message() {
    return this.problem
  }
}

/** Which database this is, for people: the banner at start and `/health`. */
export class DbInfo extends Context.Service<
  DbInfo,
  {
    readonly kind: "embedded" | "postgres"
    /** Such as "embedded PostgreSQL 18.6 (PGlite) in .data", or "PostgreSQL 17.2 at db.local:5432/voice". */
    readonly description: string
  }
>()("voice-agent/db/DbInfo") {}

export type Db = SqlClient.SqlClient | PgClient.PgClient | DbInfo

const applicationName = "voice-agent-api"

/** A server, at `DATABASE_URL`. Connects before it is ready, so that a wrong address is known at start. */
export const postgres = Effect.fnUntraced(function* (
  url: Redacted.Redacted,
  options: {
    readonly poolSize: number
    /** More settings of every connection, by PostgreSQL's names. */
    readonly parameters?: Readonly<Record<string, string>>
  }
) {
  const server = describeUrl(url)
  const failed = (error: SqlError.SqlError) =>
    new DbStartError({ problem: `DATABASE_URL: ${explain(server, error)}`, cause: error })
  const client = yield* PgClient.make({
    url,
    applicationName,
    maxConnections: options.poolSize,
    idleTimeout: Duration.minutes(10),
    // Finds a peer that went away without a word, while nothing is asked of it.
    keepAlive: Duration.seconds(30),
    // Off: it would send statements of several callers down one connection, where a slow one holds up the others, a
    // lost connection fails them all, and none can be cancelled. Our statements are short, and most are in
    // transactions, which have a connection to themselves either way.
    multiplex: false,
    startupParameters: {
      statement_timeout: "5000",
      // A process that hangs in a transaction must not hold its locks for ever.
      idle_in_transaction_session_timeout: "60000",
      ...options.parameters
    }
  }).pipe(Effect.mapError(failed))
  const [row] = yield* client<{ server_version: string }>`show server_version`.pipe(Effect.mapError(failed))
  const version = row?.server_version.split(" ")[0] ?? ""
  return context(client, { kind: "postgres", description: `PostgreSQL ${version} at ${server}` })
})

/**
 * The embedded one, in a folder or in memory. It has a single session, and so a single connection: what waits inside a
 * transaction for something that another connection does waits for ever. `listen` would hold it for good.
 */
export const embedded = Effect.fnUntraced(function* (where: { readonly dataDir: string } | "memory") {
  if (where !== "memory") yield* lockDataDir(where.dataDir)
  const started = yield* Embedded.make({
    dataDir: where === "memory" ? undefined : path.resolve(where.dataDir, "postgres"),
    template: true
  }).pipe(Effect.mapError((error) => new DbStartError({ problem: error.message, cause: error })))
  const sql = yield* client(started).pipe(
    Effect.mapError((error) => new DbStartError({ problem: error.message, cause: error }))
  )
  return context(sql, {
    kind: "embedded",
    description: `embedded PostgreSQL ${started.version} (PGlite) in ${where === "memory" ? where : where.dataDir}`
  })
})

/** The driver on an embedded database. */
export const client = (embedded: Pick<Embedded.Embedded, "connect">) =>
  PgClient.make({
    stream: embedded.connect,
    username: "postgres",
    database: "postgres",
    applicationName,
    minConnections: 1,
    maxConnections: 1,
    // Waits for its turn, and after a crash for the recovery.
    connectTimeout: Duration.seconds(30),
    multiplex: false
  })

const lockDataDir = (dataDir: string) =>
  Effect.try({
    try: () => void fs.mkdirSync(dataDir, { recursive: true }),
    catch: (error) =>
      new DbStartError({
        problem: `DATA_DIR: ${error instanceof Error ? error.message : String(error)}`,
        cause: error
      })
  }).pipe(
    Effect.andThen(DataDirLock.acquire(dataDir)),
    Effect.catchTag(
      "DataDirLocked",
      (error) => new DbStartError({ problem: `DATA_DIR: ${error.message}`, cause: error })
    )
  )

const context = (client: PgClient.PgClient, info: DbInfo["Service"]) =>
  Context.make(PgClient.PgClient, client).pipe(
    Context.add(SqlClient.SqlClient, client),
    Context.add(DbInfo, info)
  )

const layerPostgres: Layer.Layer<Db, DbStartError, AppConfig> = Layer.effectContext(
  Effect.flatMap(AppConfig, (config) =>
    config.databaseUrl === undefined
      ? new DbStartError({ problem: "DATABASE_URL: is not set" })
      : postgres(config.databaseUrl, { poolSize: config.databasePoolSize })
  )
).pipe(Layer.provide(Reactivity.layer))

const layerEmbedded: Layer.Layer<Db, DbStartError, AppConfig> = Layer.effectContext(
  Effect.flatMap(AppConfig, ({ dataDir }) => embedded({ dataDir }))
).pipe(Layer.provide(Reactivity.layer))

/** Empty, gone with its scope. */
export const layerMemory: Layer.Layer<Db, DbStartError> = Layer.effectContext(embedded("memory")).pipe(
  Layer.provide(Reactivity.layer)
)

/** What this process is configured for, brought up to the newest schema. */
export const layer: Layer.Layer<Db, DbStartError, AppConfig> = Layer.effectDiscard(
  Effect.mapError(
    Migrations.up(),
    (error) => new DbStartError({ problem: `The schema: ${error.message}`, cause: error })
  )
).pipe(
  Layer.provideMerge(
    Layer.unwrap(
      Effect.map(AppConfig, ({ databaseUrl }) => (databaseUrl === undefined ? layerEmbedded : layerPostgres))
    )
  )
)

/** Host, port and database of a URL, without its credentials. */
const describeUrl = (url: Redacted.Redacted): string => {
  const { hostname, port, pathname, searchParams } = new URL(Redacted.value(url))
  const host = searchParams.get("host") ?? (hostname === "" ? "localhost" : hostname)
  return `${host}:${searchParams.get("port") ?? (port === "" ? "5432" : port)}${pathname}`
}

const explain = (server: string, error: SqlError.SqlError): string => {
  const { _tag, cause } = error.reason
  // Several addresses of one host fail together, each for its own reason and with no message in common.
  const causes = cause instanceof AggregateError ? cause.errors : [cause]
  const detail = causes.map((each) => (each instanceof Error ? each.message : String(each))).join(", ")
  switch (_tag) {
    case "AuthenticationError":
      return `PostgreSQL at ${server} refuses the credentials: ${detail}`
    case "ConnectionError":
      return `PostgreSQL at ${server} cannot be reached: ${detail}`
    default: {
      const state = sqlState(error)
      return `PostgreSQL at ${server} refuses the connection: ${detail}${state === undefined ? "" : ` (${state})`}`
    }
  }
}
