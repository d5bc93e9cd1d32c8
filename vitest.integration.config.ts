import { defineConfig } from "vitest/config"

/** The promises that other servers have a part in, on real ones, in containers. `npm run test:integration` */
export default defineConfig({
  test: {
    include: [
      "test/**/*.integration.test.ts",
      // On the PostgreSQL of this run, where `npm test` has the embedded one, or skips them.
      "test/critical-paths.test.ts",
      "test/db/{Db,Db.contract,DbUnavailable,Migrations}.test.ts",
      "test/agent/{TurnsRepo,TurnsFaults,twoServers,turns}.test.ts",
      "test/failure/{sql,away}.test.ts",
      "test/traces/traceStore.test.ts"
    ],
    globalSetup: ["test/integration/Containers.ts"],
    // All share one server of each kind, and some take it away.
    fileParallelism: false,
    isolate: false,
    reporters: ["verbose"],
    testTimeout: 60_000,
    hookTimeout: 60_000
  }
})
