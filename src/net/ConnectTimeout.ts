/**
 * Owns the mark by which a transport says that connecting took too long. `AiError` has no reason for it, so it travels
 * as the cause of a `NetworkError`.
 */
export class ConnectTimeout extends Error {
  override readonly name = "ConnectTimeout"
  constructor(url: string, millis: number) {
    super(`No connection to ${url} within ${millis} ms`)
  }
}
