/**
 * Owns who may call: compares the key a caller presents with those configured, in constant time. Without any
 * configured, everyone may, and `Config.ts` keeps the server on loopback.
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto"
import { Effect, Layer, Redacted } from "effect"
import { UnauthorizedProblem } from "../api/Problems.ts"
import { Authorization } from "../api/Security.ts"
import { AppConfig } from "../Config.ts"

export const layerApiKeys: Layer.Layer<Authorization, never, AppConfig> = Layer.effect(
  Authorization,
  Effect.map(AppConfig, ({ apiKeys }) => {
    // Digests have one length, so that the comparison tells nothing of the keys', and a key of this process's own, so
    // that a digest is worth nothing elsewhere.
    const salt = randomBytes(32)
    const digest = (text: string) => createHmac("sha256", salt).update(text).digest()
    const accepted = apiKeys.map((key) => digest(Redacted.value(key)))
    const isAccepted = (presented: string) => {
      const candidate = digest(presented)
      return accepted.reduce((found, key) => timingSafeEqual(key, candidate) || found, false)
    }
    return Authorization.of({
      apiKey: (handler, { credential }) => {
        if (accepted.length === 0) return handler
        const presented = Redacted.value(credential)
        if (presented !== "" && isAccepted(presented)) return handler
        return new UnauthorizedProblem({
          detail: presented === "" ? "Send an API key in the X-API-Key header." : "The API key is not valid."
        })
      }
    })
  })
)
