/**
 * Owns the framing of a server-sent event stream: bytes in, the data of each event out. Written for the hot path: one
 * string per network chunk, no object per event.
 *
 * Does not know what the data means. `effect/encoding` `Sse` reads the same format, but makes an object per event and
 * keeps `retry` and `id`, which no model server uses.
 */
import { StringDecoder } from "node:string_decoder"

/**
 * Longest event kept while its end has not come, in UTF-16 units. A server that never ends a line must not fill the memory.
 */
const maxEventLength = 10 * 1024 * 1024

class SseTooLong extends Error {
  override readonly name = "SseTooLong"
  constructor() {
    super(`An event of the stream is longer than ${maxEventLength} characters`)
  }
}

/**
 * Reads LF and CRLF line ends, comments, several `data` lines per event, `data:` with and without a space, and
 * characters cut anywhere between two chunks.
 */
export class SseReader {
  readonly #onData: (data: string, event: string) => void
  readonly #decoder = new StringDecoder("utf8")
  /** The start of a line whose end has not come. */
  #rest = ""
  #data: string | undefined = undefined
  #event = ""
  #isFirst = true

  /** `onData` gets the data of each event, and its name, which is empty for most. */
  constructor(onData: (data: string, event: string) => void) {
    this.#onData = onData
  }

  /** Throws `SseTooLong`. */
  feed(chunk: Uint8Array): void {
    const piece = this.#decoder.write(Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk))
    if (piece === "") return
    let text = this.#rest === "" ? piece : this.#rest + piece
    if (this.#isFirst) {
      this.#isFirst = false
      if (text.charCodeAt(0) === 0xfeff) text = text.slice(1)
    }
    let at = 0
    for (;;) {
      const end = text.indexOf("\n", at)
      if (end === -1) break
      this.#line(text, at, end > at && text.charCodeAt(end - 1) === 13 ? end - 1 : end)
      at = end + 1
    }
    this.#rest = at === 0 ? text : text.slice(at)
    if (this.#rest.length + (this.#data?.length ?? 0) > maxEventLength) throw new SseTooLong()
  }

  /** The body is over: what stands without a closing blank line counts too, as many servers leave it out. */
  end(): void {
    const text = this.#rest + this.#decoder.end()
    this.#rest = ""
    if (text !== "") this.#line(text, 0, text.endsWith("\r") ? text.length - 1 : text.length)
    this.#dispatch()
  }

  #line(text: string, start: number, end: number): void {
    if (start === end) {
      this.#dispatch()
      return
    }
    if (text.startsWith("data:", start)) {
      const from = text.charCodeAt(start + 5) === 32 ? start + 6 : start + 5
      const value = text.slice(from, end)
      this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`
    } else if (text.startsWith("event:", start)) {
      this.#event = text.slice(start + 6, end).trim()
    }
  }

  #dispatch(): void {
    const data = this.#data
    const event = this.#event
    this.#data = undefined
    this.#event = ""
    if (data !== undefined && data !== "") this.#onData(data, event)
  }
}
