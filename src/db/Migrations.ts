/**
 * Owns the schema's history: reads `NNNN_name.up.sql` and `NNNN_name.down.sql`, checks that what the database has gone
 * through is what the files say, and applies what is missing, once, however many processes start at the same time.
 *
 * Does not know what the migrations do.
 */
import * as crypto from "node:crypto"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { Effect, Schema } from "effect"
import { SqlClient, type SqlError } from "effect/sql"

/** The migrations and the database do not fit together, or one failed. One line for each problem, each naming a file. */
export class MigrationsFailed extends Schema.TaggedError<MigrationsFailed>()("MigrationsFailed", {
  problems: Schema.Array(Schema.String),
  cause: Schema.optionalKey(Schema.Defect())
}) {
  override get message() {
    return this.problems.join("\n")
  }
}

export interface Migration {
  readonly version: number
  readonly name: string
  /** File names, for messages. */
  readonly upFile: string
  readonly downFile: string
  readonly up: string
  readonly down: string
  /** SHA-256 of the up file, hexadecimal, with line ends as LF. */
  readonly checksum: string
}

export interface Applied {
  readonly version: number
  readonly name: string
  readonly checksum: string
}

/** The repository's own. */
const directory = fileURLToPath(new URL("../../migrations", import.meta.url))

const fileName = /^(\d{4})_([a-z0-9]+(?:_[a-z0-9]+)*)\.(up|down)\.sql$/

/** Reads a folder and checks it for itself: names, pairs, no gap and no version twice. Hidden files are passed over. */
export const load = Effect.fn("Migrations.load")(function* (folder: string = directory) {
  const failed = (error: unknown) =>
    new MigrationsFailed({
      problems: [`${folder}: ${error instanceof Error ? error.message : String(error)}`]
    })
  const names = yield* Effect.tryPromise({ try: () => fs.readdir(folder), catch: failed })
  const problems: Array<string> = []
  const files = new Map<string, { version: number; name: string; up?: string; down?: string }>()
  for (const file of names.filter((name) => !name.startsWith(".")).sort()) {
    const parts = fileName.exec(file)
    if (parts === null) {
      problems.push(`${file}: expected a name such as 0001_create_sessions.up.sql`)
      continue
    }
    const [, digits = "", name = "", direction] = parts
    const key = `${digits}_${name}`
    const pair = files.get(key) ?? { version: Number(digits), name }
    if (direction === "up") pair.up = file
    else pair.down = file
    files.set(key, pair)
  }
  const pairs = [...files.values()].sort((a, b) => a.version - b.version)
  const versions = new Map<number, string>()
  let next = 1
  for (const { version, name, up, down } of pairs) {
    const either = up ?? down ?? name
    if (up === undefined) problems.push(`${either}: has no ${either.replace(/down\.sql$/, "up.sql")}`)
    if (down === undefined) problems.push(`${either}: has no ${either.replace(/up\.sql$/, "down.sql")}`)
    const other = versions.get(version)
    if (other !== undefined) problems.push(`${either}: version ${version} is also that of ${other}`)
    else if (version !== next) problems.push(`${either}: version ${next} is missing before it`)
    versions.set(version, either)
    next = version + 1
  }
  if (problems.length > 0) return yield* new MigrationsFailed({ problems })

  return yield* Effect.forEach(
    pairs,
    ({ version, name, up = "", down = "" }) =>
      Effect.tryPromise({
        try: async (): Promise<Migration> => {
          const [upText, downText] = await Promise.all(
            [up, down].map(async (file) => normalise(await fs.readFile(path.join(folder, file), "utf8")))
          )
          if (upText === undefined || downText === undefined) throw new Error("unreadable")
          const checksum = crypto.createHash("sha256").update(upText).digest("hex")
          return { version, name, upFile: up, downFile: down, up: upText, down: downText, checksum }
        },
        catch: failed
      }),
    { concurrency: 8 }
  )
})

const normalise = (text: string) => text.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n")

/**
 * Brings the database up to the newest migration; answers what it applied, oldest first. On a database that is up to
 * date this is two short reads, without a lock.
 */
export const up = Effect.fn("Migrations.up")(function* (folder: string = directory) {
  const migrations = yield* load(folder)
  const done: Array<Migration> = []
  let pending = yield* compare(migrations, yield* applied)
  while (pending.length > 0) {
    const migration = yield* locked(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* createTable
        // Another process may have been here while this one waited for the lock.
        const [next] = yield* compare(migrations, yield* applied)
        if (next === undefined) return undefined
        yield* run(next.up, next.upFile)
        const { version, name, checksum } = next
        yield* sql`insert into schema_migrations ${sql.insert({ version, name, checksum })}`
        return next
      })
    )
    if (migration !== undefined) done.push(migration)
    pending = migration === undefined ? [] : pending.filter(({ version }) => version > migration.version)
  }
  return done
})

/** Takes back every migration above `to`, newest first; answers what it took back. `down(0)` leaves nothing. */
export const down = Effect.fn("Migrations.down")(function* (to: number, folder: string = directory) {
  const migrations = yield* load(folder)
  const done: Array<Migration> = []
  while (true) {
    const migration = yield* locked(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const before = yield* applied
        yield* compare(migrations, before)
        const last = migrations[before.length - 1]
        if (last === undefined || last.version <= to) return undefined
        yield* run(last.down, last.downFile)
        yield* sql`delete from schema_migrations where version = ${last.version}`
        return last
      })
    )
    if (migration === undefined) return done
    done.push(migration)
  }
})

/** What the database says it has gone through, oldest first. */
export const applied = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  // In the schema that ours would be made in: another in the search path may belong to another server.
  const [table] = yield* sql<{ exists: boolean }>`
    select to_regclass(quote_ident(current_schema()) || '.schema_migrations') is not null as exists`
  if (table?.exists !== true) return []
  return yield* sql<Applied>`select version, name, checksum from schema_migrations order by version`
})

/** What is left to apply. Both are in order and without gaps, so the applied ones must be where the files begin. */
const compare = Effect.fnUntraced(function* (
  migrations: ReadonlyArray<Migration>,
  done: ReadonlyArray<Applied>
) {
  const problems: Array<string> = []
  const known = new Map(migrations.map((migration) => [migration.version, migration]))
  for (const { version, name, checksum } of done) {
    const migration = known.get(version)
    const file = `${String(version).padStart(4, "0")}_${name}.up.sql`
    if (migration === undefined || migration.name !== name) {
      problems.push(`${file}: the database has applied it, and the file is missing`)
    } else if (migration.checksum !== checksum) {
      problems.push(`${file}: has changed since the database applied it`)
    }
  }
  const versions = new Set(done.map(({ version }) => version))
  const newest = done.at(-1)?.version ?? 0
  for (const { version, upFile } of migrations) {
    if (version < newest && !versions.has(version)) {
      problems.push(`${upFile}: the database has applied later ones, and not this one`)
    }
  }
  if (problems.length > 0) return yield* new MigrationsFailed({ problems })
  return migrations.filter(({ version }) => version > newest)
})

const createTable = Effect.gen(function* () {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table if not exists schema_migrations (
    version int primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default now()
  )`
})

/** One transaction, alone in this schema among all processes that migrate it, with no limit on its time. */
const locked = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) =>
  Effect.flatMap(SqlClient.SqlClient, (sql) =>
    sql.withTransaction(
      Effect.andThen(
        // Before the lock: to wait for another process's migrations may take longer than a statement of ours may.
        sql`select set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true),
            set_config('idle_in_transaction_session_timeout', '0', true)`,
        Effect.andThen(
          sql`select pg_advisory_xact_lock(hashtext('schema_migrations'), hashtext(current_schema()))::text`,
          effect
        )
      )
    )
  )

/**
 * Runs a whole file. The driver speaks the extended protocol only, which takes one statement at a time; EXECUTE in
 * PL/pgSQL takes any number, and leaves the splitting, with all its quoting, to Postgres.
 */
const run = Effect.fnUntraced(function* (text: string, file: string) {
  const sql = yield* SqlClient.SqlClient
  // Quotes that no file can hold.
  const random = crypto.randomBytes(8).toString("hex")
  const [block, body] = [`$do_${random}$`, `$file_${random}$`]
  yield* sql.unsafe(`do ${block} begin execute ${body}${text}${body}; end ${block}`).unprepared.pipe(
    Effect.catchIf(
      (error) => error.reason._tag !== "ConnectionError",
      (error) => new MigrationsFailed({ problems: [`${file}${describe(error, text)}`], cause: error })
    )
  )
})

const Fields = Schema.Struct({
  message: Schema.String,
  internalPosition: Schema.optional(Schema.NumberFromString),
  detail: Schema.optional(Schema.String)
})
const decodeFields = Schema.decodeUnknownOption(Fields)

const describe = (error: SqlError.SqlError, text: string): string => {
  const fields = decodeFields(error.reason.cause)
  if (fields._tag === "None") return `: ${error.message}`
  const { message, internalPosition, detail } = fields.value
  // Positions count characters, not UTF-16 units.
  const line =
    internalPosition === undefined
      ? ""
      : `:${[...text].slice(0, internalPosition - 1).filter((character) => character === "\n").length + 1}`
  return `${line}: ${message}${detail === undefined ? "" : ` (${detail})`}`
}
