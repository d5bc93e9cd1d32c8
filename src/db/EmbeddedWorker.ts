/**
 * Owns the embedded PostgreSQL itself: PGlite, in a thread of its own, so that a statement, a checkpoint or an fsync
 * never holds up the event loop that streams tokens, and so that a statement that never ends can be ended from outside.
 *
 * Does not know sessions or connections: `Embedded.ts`, the only one to start it, sends whole protocol messages, one
 * at a time.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { parentPort, workerData } from "node:worker_threads"
import { PGlite, type PGliteOptions } from "@electric-sql/pglite"
import { NodeFS } from "@electric-sql/pglite/nodefs"
import * as EmbeddedTemplate from "./EmbeddedTemplate.ts"

export interface WorkerInput {
  /** `undefined`: in memory. */
  readonly dataDir: string | undefined
  /** Whether a new database may start from the packed one, in place of initdb. */
  readonly template: boolean
}

export type Request = { readonly _tag: "Exec"; readonly message: Uint8Array } | { readonly _tag: "Close" }

export type Response =
  | { readonly _tag: "Started"; readonly version: string }
  | { readonly _tag: "Failed"; readonly message: string }
  | { readonly _tag: "Data"; readonly bytes: Uint8Array }
  | { readonly _tag: "Done"; readonly bytes: Uint8Array }

/** As WASI counts them. */
const errno = { EINVAL: 28, EIO: 29 }

/**
 * PGlite turns fsync off, and its file system ignores it: what is committed survives the process, not the machine.
 * Here an fsync of Postgres is one of the operating system.
 */
class DurableFS extends NodeFS {
  override async init(...[pg, options]: Parameters<NodeFS["init"]>) {
    const { emscriptenOpts } = await super.init(pg, options)
    const preRun = [
      ...(emscriptenOpts.preRun ?? []),
      (mod: { NODEFS: unknown }) => {
        const { stream_ops } = mod.NODEFS as { stream_ops: Record<string, unknown> }
        stream_ops.fsync = (stream: { readonly nfd: number }) => {
          try {
            fs.fsyncSync(stream.nfd)
            return 0
          } catch (error) {
            // Not thrown: PGlite would pass over it. Postgres is to know what it has not written.
            return error instanceof Error && "code" in error && error.code === "EINVAL"
              ? errno.EINVAL
              : errno.EIO
          }
        }
      }
    ]
    return { emscriptenOpts: { ...emscriptenOpts, preRun } }
  }
}

/** PGlite reads no other source of settings before these, so they hold for old data directories too. */
const setting = (name: string, value: string) => ["-c", `${name}=${value}`]

const startParams = (durable: boolean) => [
  ...PGlite.defaultStartParams.filter((param) => param !== "-F"),
  // Of the file calls that can force WAL out, this is the one that the file system above sees.
  ...setting("wal_sync_method", "fsync"),
  ...setting("fsync", durable ? "on" : "off"),
  // The default, 128 MB, is resident from the first start on. The operating system caches the files as well.
  ...setting("shared_buffers", "16MB"),
  ...setting("max_connections", "5"),
  // Bounds the files in pg_wal, and with them the time recovery takes after a crash.
  ...setting("max_wal_size", "64MB"),
  ...setting("min_wal_size", "32MB")
]

/** Forces the folders to disk, which hold the names, and the files where they are not there yet. */
const syncTree = (directory: string, files: boolean) => {
  const sync = (file: string) => {
    const fd = fs.openSync(file, "r")
    try {
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  }
  for (const entry of fs.readdirSync(directory, { withFileTypes: true, recursive: true })) {
    if (files || entry.isDirectory()) sync(path.join(entry.parentPath, entry.name))
  }
  sync(directory)
  sync(path.dirname(directory))
}

/** Postgres says on stderr why it does not start; PGlite's own error does not. */
const create = async (options: PGliteOptions): Promise<PGlite> => {
  let fatal: string | undefined
  const onStderr = (text: string) => {
    fatal ??= /(?:FATAL:|PANIC:|^postgres:) +(.*)/.exec(text)?.[1]
    return false
  }
  try {
    return await PGlite.create({ ...options, initDbStartParams: EmbeddedTemplate.initDbParams, onStderr })
  } catch (error) {
    throw fatal === undefined ? error : new Error(fatal, { cause: error })
  }
}

/** A marker tells a data directory that was left half made by a kill. Nobody has used such a one: it is made anew. */
const open = async (dataDir: string, useTemplate: boolean): Promise<PGlite> => {
  const marker = `${dataDir}.initializing`
  if (fs.existsSync(marker)) fs.rmSync(dataDir, { recursive: true, force: true })
  const isNew = !fs.existsSync(path.join(dataDir, "PG_VERSION"))
  let unpacked = false
  if (isNew) {
    fs.mkdirSync(dataDir, { recursive: true, mode: 0o700 })
    fs.writeFileSync(marker, "")
    unpacked = useTemplate && EmbeddedTemplate.unpack(dataDir)
  }
  const pg = await create({ fs: new DurableFS(dataDir), startParams: startParams(true) })
  if (isNew) {
    syncTree(dataDir, !unpacked)
    fs.rmSync(marker)
  }
  return pg
}

const openMemory = (useTemplate: boolean): Promise<PGlite> => {
  const template = useTemplate ? EmbeddedTemplate.read() : undefined
  return create({
    startParams: startParams(false),
    ...(template === undefined ? {} : { loadDataDir: new Blob([template]) })
  })
}

/** Large results go over in parts of this size, while the statement still runs. */
const partSize = 256 * 1024

const serve = async (port: NonNullable<typeof parentPort>, input: WorkerInput) => {
  const send = (response: Response, transfer: ReadonlyArray<ArrayBuffer> = []) =>
    port.postMessage(response, transfer)
  const pg = await (input.dataDir === undefined
    ? openMemory(input.template)
    : open(input.dataDir, input.template))
  const { rows } = await pg.query<{ server_version: string }>("show server_version")

  const exec = async (message: Uint8Array) => {
    let parts: Array<Uint8Array> = []
    let size = 0
    const take = () => {
      const bytes = new Uint8Array(size)
      let offset = 0
      for (const part of parts) {
        bytes.set(part, offset)
        offset += part.length
      }
      parts = []
      size = 0
      return bytes
    }
    await pg.execProtocolRawStream(message, {
      onRawData: (bytes) => {
        // What comes in is a view of the memory that Postgres goes on writing to.
        parts.push(bytes.slice())
        size += bytes.length
        if (size < partSize) return
        const part = take()
        send({ _tag: "Data", bytes: part }, [part.buffer])
      }
    })
    const rest = take()
    send({ _tag: "Done", bytes: rest }, [rest.buffer])
  }

  const run = async (request: Request) => {
    switch (request._tag) {
      case "Exec":
        return exec(request.message)
      case "Close":
        // Ends as a shutdown of PostgreSQL does, with a checkpoint: the next start has nothing to recover.
        await pg.close()
        port.close()
    }
  }
  port.on("message", (request: Request) => {
    run(request).catch((error: unknown) => send({ _tag: "Failed", message: String(error) }))
  })
  send({ _tag: "Started", version: rows[0]?.server_version ?? "unknown" })
}

if (parentPort !== null) {
  const port = parentPort
  serve(port, workerData as WorkerInput).catch((error: unknown) =>
    port.postMessage({
      _tag: "Failed",
      message: error instanceof Error ? error.message : String(error)
    } satisfies Response)
  )
}
