import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, it } from "vitest";

const repository: string = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");

/** Where tests look for models and golden vectors that the repository does not hold. */
export const dataRoot: string = process.env.LOWBIT_TEST_DATA ?? resolve(repository, "../shared");

/** Absolute path of outside test data, or undefined where it is absent. */
export function testData(path: string): string | undefined {
  const full = join(dataRoot, path);
  return existsSync(full) ? full : undefined;
}

/** A suite that needs outside data; where it is absent the suite is skipped and its name says why. */
export function describeWithData(name: string, paths: readonly string[], body: () => void): void {
  const missing = paths.filter((path) => testData(path) === undefined);
  if (missing.length === 0) describe(name, body);
  // The body is not run: it may read the data while it registers its tests.
  else {
    describe.skip(`${name} (skipped: no ${missing.join(", ")} under LOWBIT_TEST_DATA)`, () => {
      it("needs outside data", () => undefined);
    });
  }
}
