import { defineConfig } from "vitest/config";

const config: ReturnType<typeof defineConfig> = defineConfig({
  test: {
    include: ["{packages,plugins,kernels,models}/*/src/**/*.test.ts", "{tools,bench,examples}/**/*.test.ts"],
    testTimeout: 60_000,
    // A second, the default, is short where other programs start meanwhile.
    expect: { poll: { timeout: 20_000 } },
    maxWorkers: 2,
  },
});
export default config;
