import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import * as Migrations from "../../src/db/Migrations.ts"
import * as TestDb from "../support/TestDb.ts"

// A database takes half a second to start, and much more on a machine that is busy.
vi.setConfig({ testTimeout: 60_000 })

type Files = Readonly<Record<string, string>>

const folder = Effect.fnUntraced(function* (files: Files) {
  const made = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "voice-agent-migrations-"))),
    (path) => Effect.sync(() => fs.rmSync(path, { recursive: true }))
  )
  const write = (more: Files) => {
    for (const [name, text] of Object.entries(more)) fs.writeFileSync(path.join(made, name), text)
  }
  write(files)
  return { path: made, write, remove: (name: string) => fs.rmSync(path.join(made, name)) }
})

const words: Files = {
  "0001_words.up.sql": "create table words (word text primary key);\ninsert into words values ('one; two');",
  "0001_words.down.sql": "drop table words;"
}

const lengths: Files = {
  "0002_lengths.up.sql":
    "alter table words add column length int;\nupdate words set length = char_length(word);",
  "0002_lengths.down.sql": "alter table words drop column length;"
}

const problems = <A, R>(effect: Effect.Effect<A, unknown, R>) =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.instanceOf(error, Migrations.MigrationsFailed)
    return (error as Migrations.MigrationsFailed).problems
  })

const names = (migrations: ReadonlyArray<{ readonly name: string }>) => migrations.map(({ name }) => name)

describe("the folder", () => {
  const wrong: ReadonlyArray<readonly [string, Files, ReadonlyArray<string>]> = [
    [
      "a name that does not parse",
      { ...words, "2_x.up.sql": "", "notes.txt": "" },
      ["2_x.up.sql: ", "notes.txt: "]
    ],
    ["an up without a down", { "0001_a.up.sql": "" }, ["0001_a.up.sql: has no 0001_a.down.sql"]],
    ["a down without an up", { "0001_a.down.sql": "" }, ["0001_a.down.sql: has no 0001_a.up.sql"]],
    [
      "a gap",
      { ...words, "0003_c.up.sql": "", "0003_c.down.sql": "" },
      ["0003_c.up.sql: version 2 is missing before it"]
    ],
    [
      "a version twice",
      { ...words, "0001_again.up.sql": "", "0001_again.down.sql": "" },
      ["0001_words.up.sql: version 1 is also that of 0001_again.up.sql"]
    ]
  ]
  for (const [name, files, expected] of wrong) {
    it.effect(`is refused with ${name}`, () =>
      Effect.gen(function* () {
        const found = yield* problems(Migrations.load((yield* folder(files)).path))
        assert.strictEqual(found.length, expected.length, found.join(" | "))
        for (const [i, start] of expected.entries()) assert.isTrue(found[i]?.startsWith(start), found[i])
      })
    )
  }

  it.effect("that is missing is named", () =>
    Effect.gen(function* () {
      const [problem] = yield* problems(Migrations.load("/nowhere/at/all"))
      assert.include(problem, "/nowhere/at/all: ENOENT")
    })
  )

  it.effect("reads the same whatever its line ends, and passes hidden files over", () =>
    Effect.gen(function* () {
      const unix = yield* folder({ ...words, ".gitkeep": "" })
      const windows = yield* folder(
        Object.fromEntries(
          Object.entries(words).map(([name, text]) => [name, `\uFEFF${text.replaceAll("\n", "\r\n")}`])
        )
      )
      assert.deepStrictEqual(yield* Migrations.load(windows.path), yield* Migrations.load(unix.path))
    })
  )

  it.effect("of the repository is in order, and can be taken back whole and applied again", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const things = sql`
        select relkind::text, relname::text from pg_class
        where relnamespace = current_schema()::regnamespace order by relname`
      const all = yield* Migrations.load()
      assert.deepStrictEqual(names(yield* Migrations.up()), names(all))
      const after = yield* things
      assert.deepStrictEqual(names(yield* Migrations.down(0)), names(all).reverse())
      assert.deepStrictEqual(
        (yield* things).map(({ relname }) => relname),
        ["schema_migrations", "schema_migrations_pkey"]
      )
      assert.deepStrictEqual(names(yield* Migrations.up()), names(all))
      assert.deepStrictEqual(yield* things, after)
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )
})

describe("up", () => {
  it.effect("applies what is missing, in order, once", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { path, write } = yield* folder(words)
      assert.deepStrictEqual(names(yield* Migrations.up(path)), ["words"])
      assert.deepStrictEqual(yield* Migrations.up(path), [])
      write(lengths)
      assert.deepStrictEqual(names(yield* Migrations.up(path)), ["lengths"])
      assert.deepStrictEqual(yield* sql`select * from words`, [{ word: "one; two", length: 8 }])
      const rows = yield* sql<{ version: number; name: string; checksum: string; applied_at: Date }>`
        select * from schema_migrations order by version`
      assert.deepStrictEqual(
        rows.map(({ version, name }) => [version, name]),
        [
          [1, "words"],
          [2, "lengths"]
        ]
      )
      assert.isTrue(
        rows.every((row) => /^[0-9a-f]{64}$/.test(row.checksum) && row.applied_at instanceof Date)
      )
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.effect("runs functions, quotes and comments as Postgres reads them", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { path } = yield* folder({
        "0001_odd.up.sql": `
          -- a comment; with 'quotes' and $$
          create table odd (body text default 'it''s; -- not a comment', "semi;colon" int);
          /* nested /* one; */ */
          create function twice(n int) returns int language plpgsql as $$
          begin
            perform 1; return n * 2;
          end; $$;
          do $do$ begin insert into odd values (E'a\\';b', twice(21)); end $do$;
          select 'a result that nobody reads';
          insert into odd default values`,
        "0001_odd.down.sql": "drop function twice(int); drop table odd"
      })
      yield* Migrations.up(path)
      assert.deepStrictEqual(yield* sql`select * from odd`, [
        { body: "a';b", "semi;colon": 42 },
        { body: "it's; -- not a comment", "semi;colon": null }
      ])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.effect("undoes a migration that fails, keeps those before it, and names the line", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { path, write } = yield* folder({
        ...words,
        "0002_broken.up.sql":
          "create table half (id int);\n-- 漢字 \u{1F600}\n\ninsert into missing values (1);",
        "0002_broken.down.sql": "drop table half"
      })
      const [problem] = yield* problems(Migrations.up(path))
      assert.strictEqual(problem, `0002_broken.up.sql:4: relation "missing" does not exist`)
      assert.deepStrictEqual(
        yield* sql`select to_regclass('half')::text as half, (select count(*)::int from words) as words`,
        [{ half: null, words: 1 }]
      )
      assert.deepStrictEqual(names(yield* Migrations.applied), ["words"])
      write({ "0002_broken.up.sql": "create table half (id int);" })
      assert.deepStrictEqual(names(yield* Migrations.up(path)), ["broken"])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.effect("does not let a migration commit by itself", () =>
    Effect.gen(function* () {
      const { path } = yield* folder({
        "0001_sly.up.sql": "create table sly (id int); commit;",
        "0001_sly.down.sql": ""
      })
      const [problem] = yield* problems(Migrations.up(path))
      assert.match(problem ?? "", /^0001_sly\.up\.sql/)
      assert.deepStrictEqual(yield* Migrations.applied, [])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.effect("refuses files that were changed, removed or renamed since they were applied", () =>
    Effect.gen(function* () {
      const made = yield* folder({ ...words, ...lengths })
      yield* Migrations.up(made.path)
      made.write({ "0001_words.up.sql": "create table words (word text);" })
      assert.deepStrictEqual(yield* problems(Migrations.up(made.path)), [
        "0001_words.up.sql: has changed since the database applied it"
      ])
      made.write(words)
      made.remove("0002_lengths.up.sql")
      made.remove("0002_lengths.down.sql")
      const missing = ["0002_lengths.up.sql: the database has applied it, and the file is missing"]
      assert.deepStrictEqual(yield* problems(Migrations.up(made.path)), missing)
      made.write({ "0002_sizes.up.sql": "", "0002_sizes.down.sql": "" })
      assert.deepStrictEqual(yield* problems(Migrations.up(made.path)), missing)
      made.remove("0002_sizes.up.sql")
      made.remove("0002_sizes.down.sql")
      made.write({ ...lengths, "0002_lengths.down.sql": "-- a down may change" })
      assert.deepStrictEqual(yield* Migrations.up(made.path), [])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.effect("refuses a database that has skipped one", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const made = yield* folder({ ...words, ...lengths })
      yield* Migrations.up(made.path)
      yield* sql`delete from schema_migrations where version = 1`
      assert.deepStrictEqual(yield* problems(Migrations.up(made.path)), [
        "0001_words.up.sql: the database has applied later ones, and not this one"
      ])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )

  it.effect("by many at once applies each migration once", () =>
    Effect.gen(function* () {
      const { path } = yield* folder({ ...words, ...lengths })
      const done = yield* Effect.forEach(Array.from({ length: 5 }), () => Migrations.up(path), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(names(done.flat()).sort(), ["lengths", "words"])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )
})

describe("down", () => {
  it.effect("takes back what is above a version, newest first, and can be applied again", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { path } = yield* folder({ ...words, ...lengths })
      yield* Migrations.up(path)
      assert.deepStrictEqual(names(yield* Migrations.down(1, path)), ["lengths"])
      assert.deepStrictEqual(yield* sql`select * from words`, [{ word: "one; two" }])
      assert.deepStrictEqual(yield* Migrations.down(1, path), [])
      assert.deepStrictEqual(names(yield* Migrations.up(path)), ["lengths"])
      assert.deepStrictEqual(names(yield* Migrations.down(0, path)), ["lengths", "words"])
      assert.deepStrictEqual(yield* sql`select to_regclass('words')::text as words`, [{ words: null }])
    }).pipe(Effect.provide(TestDb.layerEmpty))
  )
})
