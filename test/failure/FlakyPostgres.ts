/**
 * Owns a PostgreSQL that goes away when told: the server at `TEST_DATABASE_URL`, reached through a proxy, with a schema
 * of the test's own, dropped afterwards.
 */
import * as crypto from "node:crypto"
import { connect, createServer, type Server, type Socket } from "node:net"
import { type Context, Effect, Redacted, type Scope } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient } from "effect/sql"
import * as Db from "../../src/db/Db.ts"
import * as Migrations from "../../src/db/Migrations.ts"

export interface FlakyPostgres {
  /** Through the proxy. */
  readonly db: Context.Context<Db.Db>
  /** Past the proxy: always there. */
  readonly direct: SqlClient.SqlClient
  /** Breaks all connections and takes no more. */
  readonly leave: Effect.Effect<void>
  /** Takes connections and bytes, and passes none on. Those that were open stay open. */
  readonly freeze: Effect.Effect<void>
  /** Is well again, after either. */
  readonly comeBack: Effect.Effect<void>
}

class Proxy {
  readonly #target: { readonly host: string; readonly port: number }
  readonly #sockets = new Set<Socket>()
  #server: Server | undefined
  #isFrozen = false
  port = 0

  constructor(target: { readonly host: string; readonly port: number }) {
    this.#target = target
  }

  listen(): Promise<void> {
    const server = createServer((client) => {
      const upstream = connect(this.#target)
      for (const [from, to] of [
        [client, upstream],
        [upstream, client]
      ] as const) {
        this.#sockets.add(from)
        if (this.#isFrozen) from.pause()
        from.on("data", (piece) => to.write(piece))
        from.on("error", () => to.destroy())
        from.on("close", () => {
          this.#sockets.delete(from)
          to.destroy()
        })
      }
    })
    this.#server = server
    return new Promise((resolve) =>
      server.listen(this.port, "127.0.0.1", () => {
        const address = server.address()
        this.port = typeof address === "object" ? (address?.port ?? 0) : 0
        resolve()
      })
    )
  }

  leave() {
    this.#server?.close()
    this.#server = undefined
    for (const socket of this.#sockets) socket.destroy()
  }

  freeze() {
    this.#isFrozen = true
    for (const socket of this.#sockets) socket.pause()
  }

  async comeBack() {
    this.#isFrozen = false
    for (const socket of this.#sockets) socket.resume()
    if (this.#server === undefined) await this.listen()
  }
}

/** `url`: `TEST_DATABASE_URL`. */
export const make = (url: string): Effect.Effect<FlakyPostgres, never, Scope.Scope> =>
  Effect.gen(function* () {
    const schema = `flaky_${crypto.randomBytes(6).toString("hex")}`
    const search_path = `${schema}, public`
    const at = new URL(url)
    const proxy = new Proxy({ host: at.hostname, port: Number(at.port === "" ? 5432 : at.port) })
    yield* Effect.acquireRelease(
      Effect.promise(() => proxy.listen()),
      () => Effect.sync(() => proxy.leave())
    )
    at.hostname = "127.0.0.1"
    at.port = String(proxy.port)

    const direct = yield* Effect.map(
      Db.postgres(Redacted.make(url), { poolSize: 4, parameters: { search_path } }),
      (context) => Effect.runSync(Effect.provide(SqlClient.SqlClient, context))
    )
    yield* Effect.acquireRelease(direct.unsafe(`create schema ${schema}`), () =>
      Effect.orDie(direct.unsafe(`drop schema ${schema} cascade`))
    )
    const db = yield* Db.postgres(Redacted.make(at.href), { poolSize: 4, parameters: { search_path } })
    yield* Effect.provide(Migrations.up(), db)
    return {
      db,
      direct,
      leave: Effect.sync(() => proxy.leave()),
      freeze: Effect.sync(() => proxy.freeze()),
      comeBack: Effect.promise(() => proxy.comeBack())
    }
  }).pipe(Effect.provide(Reactivity.layer), Effect.orDie)
