/**
 * Owns what log lines look like: for people in development, JSON for machines.
 */
import { Effect, Layer, Logger, References } from "effect"
import { AppConfig } from "../Config.ts"

export const layerLogging: Layer.Layer<never, never, AppConfig> = Layer.unwrap(
  Effect.map(AppConfig, ({ logFormat, logLevel }) =>
    Layer.merge(
      Logger.layer([logFormat === "json" ? Logger.consoleJson : Logger.consolePretty()]),
      Layer.succeed(References.MinimumLogLevel, logLevel)
    )
  )
)
