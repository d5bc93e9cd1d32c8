import { defineConfig } from "vitest/config"

/** Tests that need more than this process: other servers, containers. `npm run test:integration` */
export default defineConfig({
  test: {
    include: ["test/**/*.integration.test.ts"],
    testTimeout: 60_000,
    // The first run of a container fetches its image.
    hookTimeout: 300_000
  }
})
