import { describe, expect, it } from "vitest";
import { type Ceiling, ceilings, checkSizes } from "./check-size.ts";
import { readWorkspace } from "./workspace.ts";

const core: Ceiling = {
  name: "core",
  file: "packages/core/src/index.ts",
  gzipBytes: 100_000,
  reason: "generous",
};

describe("checkSizes", () => {
  it("passes what is under its ceiling and reports its weight", async () => {
    const { problems, weighings } = await checkSizes([core]);
    expect(problems).toEqual([]);
    expect(weighings[0]?.gzipBytes).toBeGreaterThan(1000);
  });

  it("refuses what is over it, with figures and the reason", async () => {
    const { problems } = await checkSizes([{ ...core, gzipBytes: 100 }]);
    expect(problems).toEqual([
      expect.stringMatching(/core: \d+ bytes gzipped, over its ceiling of 100 \(generous\)/),
    ]);
  });

  it("refuses a file that is gone and a bundle for the web that needs Node", async () => {
    const { problems } = await checkSizes([
      { ...core, file: "packages/core/src/gone.ts" },
      { ...core, name: "node code", file: "tools/workspace.ts", whole: true },
    ]);
    expect(problems[0]).toContain("there is no packages/core/src/gone.ts");
    expect(problems[1]).toMatch(/^node code: cannot be bundled/);
  });

  it("weighs every package that is published", () => {
    const weighed = new Set(ceilings.map(({ name }) => name));
    const published = readWorkspace().filter(({ manifest }) => manifest.private !== true);
    expect(published.map(({ manifest }) => manifest.name).filter((name) => !weighed.has(name))).toEqual([]);
  });
});
