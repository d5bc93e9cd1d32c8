/**
 * Launches the server, and keeps what was compiled of its sources for the next start, which takes half the time then.
 * Plain JavaScript, so that the types of all others need to be stripped but once.
 */
import { enableCompileCache } from "node:module"
import { join } from "node:path"

// Where nothing can be written it does without.
enableCompileCache(join(import.meta.dirname, "../node_modules/.cache/voice-agent-api"))
await import("./main.ts")
