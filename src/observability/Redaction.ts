/**
 * Owns what must never leave: finds secrets in text that goes to logs, spans and errors, and blots them out. It knows
 * those that this process was configured with, and the usual forms of those it was not.
 */
import { Context, Effect, Layer, Redacted } from "effect"
import { AppConfig, type Settings } from "../Config.ts"

const blot = "[redacted]"

/**
 * Forms that credentials come in, whoever's they are. Runs that may begin anywhere are bounded: else the time would grow
 * with the square of the length, and clients choose the length (of an address, 64 KiB).
 */
const forms: ReadonlyArray<readonly [form: RegExp, kept: string]> = [
  // The user and password of a URL, such as a database's.
  [/([a-z][a-z0-9+.-]{0,30}:\/\/)[^\s/@:]*:[^\s/@]+@/gi, `$1${blot}@`],
  [/\b(bearer|basic|apikey)\s+[a-z0-9._~+/=-]{8,}/gi, `$1 ${blot}`],
  [/\b(?:sk|pk|tvly|xox[a-z]|gh[a-z])[-_][a-z0-9_-]{8,}/gi, blot],
  [/\beyJ[\w-]{8,2000}\.[\w-]{8,}\.[\w-]*/g, blot],
  [
    /((?:api[-_]?key|x-api-key|access[-_]?token|refresh[-_]?token|token|secret|password|passwd|pwd|authorization)["']?\s*[=:]\s*["']?)[^\s"'&,;}]{3,}/gi,
    `$1${blot}`
  ]
]

const secretsOf = (settings: Settings): ReadonlyArray<string> => {
  const secrets = [settings.llm.apiKey, settings.tavilyApiKey, ...settings.apiKeys].flatMap((secret) =>
    secret === undefined ? [] : [Redacted.value(secret)]
  )
  if (settings.databaseUrl !== undefined) {
    const url = new URL(Redacted.value(settings.databaseUrl))
    secrets.push(url.href, url.password, decodeURIComponent(url.password))
    const parameter = url.searchParams.get("password")
    if (parameter !== null) secrets.push(parameter)
  }
  // Blotting out a very short one would garble every line, and it protects nothing.
  return [...new Set(secrets)].filter((secret) => secret.length >= 4).sort((a, b) => b.length - a.length)
}

export class Redaction extends Context.Service<
  Redaction,
  {
    readonly redact: (text: string) => string
  }
>()("voice-agent/observability/Redaction") {
  static readonly layer: Layer.Layer<Redaction, never, AppConfig> = Layer.effect(
    Redaction,
    Effect.map(AppConfig, (settings) => {
      const secrets = secretsOf(settings)
      return {
        redact: (text) => {
          let clean = text
          for (const secret of secrets) {
            if (clean.includes(secret)) clean = clean.replaceAll(secret, blot)
          }
          for (const [form, kept] of forms) clean = clean.replace(form, kept)
          return clean
        }
      }
    })
  )
}
