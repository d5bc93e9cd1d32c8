/**
 * Owns what must never leave: finds secrets in text that goes to logs, spans and errors, and blots them out. It knows
 * those that this process was configured with, and the usual forms of those it was not.
 */
import { Context, Effect, Layer, Redacted } from "effect"
import { AppConfig, type Settings } from "../Config.ts"

export const blot = "[redacted]"

interface Form {
  readonly pattern: RegExp
  readonly kept: string
  /** Characters of which a match has one at least. Most texts have none, and are not searched. */
  readonly hints: ReadonlyArray<string>
}

/**
 * Forms that credentials come in, whoever's they are. Runs that may begin anywhere are bounded: else the time would grow
 * with the square of the length, and clients choose the length (of an address, 64 KiB).
 */
const forms: ReadonlyArray<Form> = [
  {
    // The user and password of a URL, such as a database's.
    pattern: /([a-z][a-z0-9+.-]{0,30}:\/\/)(?:[^\s/@?#"'<>\\]+@)+/gi,
    kept: `$1${blot}@`,
    hints: ["@"]
  },
  { pattern: /\b(bearer|basic|apikey)\s+[a-z0-9._~+/=-]{8,}/gi, kept: `$1 ${blot}`, hints: [" "] },
  {
    pattern: /\b(?:sk|pk|tvly|xox[a-z]|gh[a-z])[-_][a-z0-9_-]{8,}/gi,
    kept: blot,
    hints: ["-", "_"]
  },
  { pattern: /\beyJ[\w-]{8,2000}\.[\w-]{8,}\.[\w-]*/g, kept: blot, hints: ["eyJ"] },
  {
    pattern:
      /((?:api[-_]?key|token|secret|password|passwd|pwd|authorization)\\?["']?\s*[=:]\s*\\?["']?)[^\s"'&,;}\\]{3,}/gi,
    kept: `$1${blot}`,
    hints: ["=", ":"]
  }
]

/** Whether what goes by this name is a secret, whatever it looks like. */
export const isSecretName = (name: string): boolean =>
  /(?:api[-_]?key|access[-_]?token|refresh[-_]?token|^token|secret|password|passwd|authorization|cookie)$/i.test(
    name
  )

/** For what is told before there is a configuration: by form alone. */
export const redactForms = (text: string): string =>
  forms.reduce(
    (clean, { hints, kept, pattern }) =>
      hints.some((hint) => clean.includes(hint)) ? clean.replace(pattern, kept) : clean,
    text
  )

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** What is secret of an address: its password, or a user that stands alone, and what its parameters say is one. */
const secretsOfUrl = (address: string): ReadonlyArray<string> => {
  const url = new URL(address)
  const userinfo = url.password === "" ? url.username : url.password
  const basic = Buffer.from(`${decoded(url.username)}:${decoded(url.password)}`).toString("base64")
  const parameters = [...url.searchParams].flatMap(([name, value]) => (isSecretName(name) ? [value] : []))
  return [userinfo, decoded(userinfo), ...(userinfo === "" ? [] : [basic]), ...parameters]
}

/** As it is, and as it stands in JSON and in addresses. */
const spellings = (secret: string): ReadonlyArray<string> => [
  secret,
  JSON.stringify(secret).slice(1, -1),
  encodeURIComponent(secret)
]

const secretsOf = ({ apiKeys, databaseUrl, llm, tavilyApiKey, tracing }: Settings): ReadonlyArray<string> => {
  const keys = [llm.apiKey, tavilyApiKey, ...apiKeys].flatMap((key) =>
    key === undefined ? [] : [Redacted.value(key)]
  )
  const addresses = [databaseUrl && Redacted.value(databaseUrl), llm.baseUrl, tracing.endpoint].flatMap(
    (address) => (address === undefined ? [] : secretsOfUrl(address))
  )
  // Blotting out a very short one would garble every line, and it protects nothing.
  const secrets = [...keys, ...addresses].filter((secret) => secret.length >= 4).flatMap(spellings)
  return [...new Set(secrets)].sort((a, b) => b.length - a.length)
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
          return redactForms(clean)
        }
      }
    })
  )
}
