/**
 * Owns the data directory that new embedded databases start from: what initdb makes, which is the same for everyone and
 * takes PGlite three seconds and 300 MB to make. It is in the repository, packed, for the version of PGlite it was made
 * with; with any other version initdb runs as ever.
 *
 * After a new version of PGlite is installed, make it anew: `node src/db/EmbeddedTemplate.ts`. A test says so.
 */
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as os from "node:os"
import * as path from "node:path"
import * as zlib from "node:zlib"
import { PGlite } from "@electric-sql/pglite"
import { NodeFS } from "@electric-sql/pglite/nodefs"

/** Small segments: a database of ours writes little, and recovery and the first start handle whole ones. */
export const initDbParams = ["--no-sync", "--no-instructions", "--wal-segsize=1"]

/** Where the template for the installed version is, or would be. */
export const file = (): string => {
  const entry = createRequire(import.meta.url).resolve("@electric-sql/pglite")
  const { version } = JSON.parse(fs.readFileSync(path.join(path.dirname(entry), "../package.json"), "utf8"))
  return path.join(import.meta.dirname, `pglite-${version}.tar.zst`)
}

/** A tarball, or `undefined` when there is none for the installed version. */
export const read = (): Uint8Array<ArrayBuffer> | undefined => {
  try {
    return new Uint8Array(zlib.zstdDecompressSync(fs.readFileSync(file())))
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined
    throw error
  }
}

/** Writes the template out as files, all of them forced to disk; `false` when there is none. The folder must exist. */
export const unpack = (folder: string): boolean => {
  const tarball = read()
  if (tarball === undefined) return false
  const text = (from: number, to: number) =>
    Buffer.from(tarball.buffer, from, to - from)
      .toString()
      .replace(/\0.*$/s, "")
  for (let at = 0; at < tarball.length && tarball[at] !== 0; ) {
    const target = path.join(folder, text(at, at + 100))
    const size = Number.parseInt(text(at + 124, at + 136), 8)
    const isFolder = text(at + 156, at + 157) === "5"
    if (isFolder) {
      fs.mkdirSync(target, { recursive: true, mode: 0o700 })
    } else {
      fs.mkdirSync(path.dirname(target), { recursive: true, mode: 0o700 })
      fs.writeFileSync(target, tarball.subarray(at + 512, at + 512 + size), { mode: 0o600, flush: true })
    }
    at += 512 + Math.ceil(size / 512) * 512
  }
  return true
}

const make = async (): Promise<void> => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "pglite-template-"))
  try {
    const pg = await PGlite.create({ fs: new NodeFS(folder), initDbStartParams: initDbParams })
    // The databases that others would be copied from: two thirds of the files, for a server that has one database.
    await pg.exec("update pg_database set datistemplate = false")
    await pg.exec("drop database template0")
    await pg.exec("drop database template1")
    await pg.exec("vacuum")
    // Closed before it is packed, so that nobody who starts from it has to recover.
    await pg.close()
    const packer = await PGlite.create({ fs: new NodeFS(folder), noInitDb: true })
    const tarball = await (await packer.dumpDataDir("none")).arrayBuffer()
    fs.writeFileSync(
      file(),
      zlib.zstdCompressSync(new Uint8Array(tarball), {
        params: { [zlib.constants.ZSTD_c_compressionLevel]: 19 }
      })
    )
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

if (process.argv[1] === import.meta.filename) {
  await make()
  console.log(file())
  process.exit()
}
