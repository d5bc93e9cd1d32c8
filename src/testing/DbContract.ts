/**
 * Owns what every database of ours promises, whichever is behind it. Each test has a table name of its own, so that they
 * may share one database.
 */
import * as assert from "node:assert/strict"
import { Cause, Deferred, Effect, Exit, Fiber } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import * as Db from "../db/Db.ts"
import { type ContractTests, under } from "./Contract.ts"

let tables = 0

const table = Effect.fnUntraced(function* (columns: string) {
  const sql = yield* SqlClient.SqlClient
  const name = `contract_${++tables}`
  yield* sql.unsafe(`create table ${name} (${columns})`)
  return sql.literal(name)
})

const reasonOf = (effect: Effect.Effect<unknown, SqlError.SqlError, SqlClient.SqlClient>) =>
  Effect.map(Effect.flip(effect), (error) => error.reason)

const count = Effect.fnUntraced(function* (name: ReturnType<SqlClient.SqlClient["literal"]>) {
  const sql = yield* SqlClient.SqlClient
  const [row] = yield* sql<{ n: number }>`select count(*)::int as n from ${name}`
  return row?.n
})

/** Register it with `layer(myDb)("my database", dbContract)` of `@effect/vitest`. It makes tables and leaves them. */
export const dbContract = (it: ContractTests<Db.Db>): void => {
  under(it, "transactions", (it) => {
    it.effect("commit what succeeds", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key")
        yield* sql.withTransaction(sql`insert into ${t} values (1), (2)`)
        assert.strictEqual(yield* count(t), 2)
      })
    )

    it.effect("roll back what fails, and keep its error", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key")
        const error = yield* Effect.flip(
          sql.withTransaction(Effect.andThen(sql`insert into ${t} values (1)`, Effect.fail("no" as const)))
        )
        assert.strictEqual(error, "no")
        assert.strictEqual(yield* count(t), 0)
      })
    )

    it.effect("roll back what dies", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key")
        const exit = yield* Effect.exit(
          sql.withTransaction(Effect.andThen(sql`insert into ${t} values (1)`, Effect.die("boom")))
        )
        assert.ok(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.strictEqual(yield* count(t), 0)
      })
    )

    it.effect("roll back to the savepoint of the inner one that fails", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`insert into ${t} values (1)`
            yield* Effect.flip(sql.withTransaction(sql`insert into ${t} values (2), (1)`))
            yield* sql`insert into ${t} values (3)`
          })
        )
        const rows = yield* sql<{ id: number }>`select id from ${t} order by id`
        assert.deepStrictEqual(
          rows.map(({ id }) => id),
          [1, 3]
        )
      })
    )

    it.effect("roll back when interrupted, and free the connection", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key")
        // More often than the pool has connections.
        for (let round = 0; round < 12; round++) {
          const inside = yield* Deferred.make<void>()
          const fiber = yield* Effect.forkChild(
            sql.withTransaction(
              Effect.gen(function* () {
                yield* sql`insert into ${t} values (${round})`
                yield* Deferred.succeed(inside, undefined)
                return yield* Effect.never
              })
            )
          )
          yield* Deferred.await(inside)
          yield* Fiber.interrupt(fiber)
        }
        assert.strictEqual(yield* count(t), 0)
      })
    )

    it.effect("of many fibers do not see or undo one another's work", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key, balance int not null")
        yield* sql`insert into ${t} values (1, 0)`
        yield* Effect.forEach(
          Array.from({ length: 60 }, (_, i) => i),
          (i) =>
            Effect.exit(
              sql.withTransaction(
                Effect.gen(function* () {
                  const [row] = yield* sql<{
                    balance: number
                  }>`select balance from ${t} where id = 1 for update`
                  yield* Effect.yieldNow
                  yield* sql`update ${t} set balance = ${(row?.balance ?? 0) + 1} where id = 1`
                  // Every third one changes its mind.
                  if (i % 3 === 0) return yield* Effect.fail("undo")
                })
              )
            ),
          { concurrency: "unbounded", discard: true }
        )
        assert.deepStrictEqual(yield* sql`select balance from ${t}`, [{ balance: 40 }])
      })
    )

    it.effect("refuse more statements after a failed one, and COMMIT nothing", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key")
        const exit = yield* Effect.exit(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`insert into ${t} values (1)`
              yield* Effect.ignore(sql`insert into ${t} values (1)`)
            })
          )
        )
        assert.ok(Exit.isFailure(exit))
        assert.strictEqual(yield* count(t), 0)
      })
    )
  })

  under(it, "concurrency", (it) => {
    it.effect("answers each of many fibers with its own rows", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const answers = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, i) => i),
          (i) => sql<{ i: number }>`select ${i}::int as i`,
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          answers.map(([row]) => row?.i),
          Array.from({ length: 200 }, (_, i) => i)
        )
      })
    )

    it.effect("keeps working after statements are interrupted at any point", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        for (let turns = 0; turns < 20; turns++) {
          const fiber = yield* Effect.forkChild(sql`select ${turns}::int as i`)
          for (let i = 0; i < turns; i++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          assert.deepStrictEqual(yield* sql`select ${turns}::int as i`, [{ i: turns }])
        }
      })
    )
  })

  under(it, "values", (it) => {
    it.effect("keeps any text but NUL", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int primary key, body text not null")
        const texts = [
          "",
          'it\'s \\ "quoted" $1 ; --',
          "čšž 漢字 \u{1F600} a\u0301 \u202E",
          "\r\n\t\u0001\uFFFD",
          "x".repeat(100_000)
        ]
        yield* Effect.forEach(texts, (body, id) => sql`insert into ${t} ${sql.insert({ id, body })}`)
        const rows = yield* sql<{ body: string }>`select body from ${t} order by id`
        assert.deepStrictEqual(
          rows.map(({ body }) => body),
          texts
        )
        const nul = yield* Effect.exit(sql`insert into ${t} values (99, ${"a\u0000b"})`)
        assert.ok(Exit.isFailure(nul))
        assert.strictEqual(yield* count(t), texts.length)
      })
    )

    it.effect("keeps bytes", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("body bytea not null")
        const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => i % 256)
        yield* sql`insert into ${t} values (${bytes})`
        const [row] = yield* sql<{ body: Uint8Array }>`select body from ${t}`
        assert.deepStrictEqual(Uint8Array.from(row?.body ?? []), bytes)
      })
    )

    it.effect("reads json and jsonb as values", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("a json not null, b jsonb not null")
        const value = { text: "č \u{1F600}", list: [1, null, true, { deep: "x" }], number: 1.5 }
        yield* sql`insert into ${t} values (${JSON.stringify(value)}::json, ${JSON.stringify(value)}::jsonb)`
        assert.deepStrictEqual(yield* sql`select a, b from ${t}`, [{ a: value, b: value }])
      })
    )

    it.effect("reads timestamptz as a Date, to the millisecond", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("at timestamptz not null")
        const at = new Date("2026-02-03T04:05:06.789Z")
        yield* sql`insert into ${t} values (${at})`
        assert.deepStrictEqual(yield* sql`select at from ${t} where at = ${at}`, [{ at }])
      })
    )

    it.effect("reads int8 as a bigint and smaller ones as numbers", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const big = 9_007_199_254_740_993n
        assert.deepStrictEqual(
          yield* sql`select ${big}::int8 as big, ${7}::int4 as small, count(*) from (values (1)) as v`,
          [{ big, small: 7, count: 1n }]
        )
      })
    )

    it.effect("keeps null, booleans, floats, uuids and arrays", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const id = "0190b2f0-0000-7000-8000-000000000001"
        assert.deepStrictEqual(
          yield* sql`select ${null}::text as n, ${true}::bool as b, ${0.1}::float8 as f, ${id}::uuid as id, ${["a", "b"]}::text[] as l`,
          [{ n: null, b: true, f: 0.1, id, l: ["a", "b"] }]
        )
      })
    )
  })

  under(it, "results", (it) => {
    it.effect("come whole, however large", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const rows = yield* sql<{ i: number; body: string }>`
            select i, repeat('x', 1000) as body from generate_series(1, 20000) as i`
        assert.strictEqual(rows.length, 20_000)
        assert.ok(rows.every(({ i, body }, index) => i === index + 1 && body.length === 1000))
      })
    )

    it.effect("of a statement whose table has changed since it was prepared", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int")
        const read = sql`select * from ${t}`
        yield* sql`insert into ${t} values (1)`
        assert.deepStrictEqual(yield* read, [{ id: 1 }])
        yield* sql`alter table ${t} add column more text default 'm'`
        assert.deepStrictEqual(yield* read, [{ id: 1, more: "m" }])
      })
    )
  })

  under(it, "errors", (it) => {
    it.effect("say which constraint was violated", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const t = yield* table("id int constraint one_of_each primary key, n int check (n > 0) not null")
        yield* sql`insert into ${t} values (1, 1)`
        const unique = yield* reasonOf(sql`insert into ${t} values (1, 2)`)
        assert.strictEqual(unique._tag === "UniqueViolation" ? unique.constraint : unique._tag, "one_of_each")
        assert.strictEqual((yield* reasonOf(sql`insert into ${t} values (2, 0)`))._tag, "ConstraintError")
        assert.strictEqual((yield* reasonOf(sql`insert into ${t} values (2, null)`))._tag, "ConstraintError")
      })
    )

    it.effect("tell a bug from an outage", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        assert.strictEqual((yield* reasonOf(sql`selec 1`))._tag, "SqlSyntaxError")
        assert.strictEqual((yield* reasonOf(sql`select * from nowhere_at_all`))._tag, "SqlSyntaxError")
        const exit = yield* Effect.exit(Db.guard(sql`select 1 / 0`))
        const defect = Exit.isFailure(exit) ? Cause.findDefect(exit.cause) : undefined
        assert.ok(defect?._tag === "Success" && SqlError.isSqlError(defect.success))
      })
    )

    it.effect("leave the connection usable", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        for (let i = 0; i < 30; i++) yield* Effect.ignore(sql.unsafe(`select broken ${i} from`))
        assert.deepStrictEqual(yield* sql`select 1 as one`, [{ one: 1 }])
      })
    )
  })

  it.effect("serialization failures are known as such", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const raised = sql`do $$ begin raise exception 'conflict' using errcode = '40001'; end $$`.unprepared
      assert.strictEqual((yield* reasonOf(raised))._tag, "SerializationError")
      const error = yield* Effect.flip(Db.guard(raised))
      assert.strictEqual(error.reason, "conflict")
    })
  )

  it.effect("says what it is, without credentials", () =>
    Effect.gen(function* () {
      const { description } = yield* Db.DbInfo
      assert.match(description, /PostgreSQL \d+\.\d+/)
      assert.doesNotMatch(description, /@|password/)
    })
  )
}
