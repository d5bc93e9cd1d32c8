import { defineConfig } from "vitest/config"

/** Lets a run of the tests measure it that is not started by `npm run coverage`. */
const measured = process.env.COVERAGE === "1"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
    exclude: ["test/**/*.integration.test.ts", "**/node_modules/**"],
    // Files of one worker share its modules and its databases: to load and start them takes longer than most files run.
    isolate: false,
    // Much of a run is waiting, for processes and for time to pass. Measured, it is mostly work.
    maxWorkers: measured ? 2 : 4,
    testTimeout: 20_000,
    hookTimeout: 60_000,
    coverage: {
      enabled: measured,
      provider: "v8",
      include: ["src/**/*.ts"],
      // Run in processes of their own only.
      exclude: ["src/main.ts", "src/launch.ts"],
      reporter: ["text-summary", "json-summary"],
      reportOnFailure: true,
      thresholds: { lines: 90, branches: 85 }
    }
  }
})
