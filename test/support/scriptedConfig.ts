/**
 * Owns the settings of servers under test: a free port, and a scripted model behind them.
 */
import { ConfigProvider, Layer } from "effect"
import type { ScriptedServer } from "voice-agent-api/testing"
import { AppConfig } from "../../src/Config.ts"

/** `settings` are environment values. */
export const scriptedConfig = (
  model: Pick<ScriptedServer, "baseUrl">,
  settings: Readonly<Record<string, string>>
) =>
  AppConfig.layer.pipe(
    Layer.provide(
      ConfigProvider.layer(
        ConfigProvider.fromUnknown({
          PORT: "0",
          LLM_BASE_URL: model.baseUrl,
          LLM_MODEL: "scripted",
          ...settings
        })
      )
    )
  )
