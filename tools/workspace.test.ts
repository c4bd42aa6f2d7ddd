import { existsSync, readdirSync } from "node:fs";
import { join, posix } from "node:path";
import { describe, expect, it } from "vitest";
import { readText, readWorkspace, root } from "./workspace.ts";

const packages = readWorkspace();
const published = packages.filter(({ manifest }) => manifest.private !== true);

describe("the workspace", () => {
  it.each(published)(
    "$folder builds after the packages that it depends on, and has a README",
    ({ folder, manifest }) => {
      const config = JSON.parse(readText(`${folder}/tsconfig.build.json`)) as {
        references?: { path: string }[];
      };
      const references = (config.references ?? []).map(({ path }) => posix.join(folder, posix.dirname(path)));
      const needed = packages.filter((other) => other.manifest.name in (manifest.dependencies ?? {}));
      expect(references.sort()).toEqual(needed.map((other) => other.folder).sort());
      expect(existsSync(join(root, folder, "README.md"))).toBe(true);
    },
  );

  it("has a changeset whose packages exist", () => {
    const names = new Set(published.map(({ manifest }) => manifest.name));
    const changesets = readdirSync(join(root, ".changeset")).filter((name) => name.endsWith(".md"));
    for (const name of changesets) {
      const named = [...readText(`.changeset/${name}`).matchAll(/^"([^"]+)": (?:major|minor|patch)$/gm)];
      expect(named.length).toBeGreaterThan(0);
      expect(named.map((match) => match[1]).filter((entry) => !names.has(entry as string))).toEqual([]);
    }
  });

  it("pins the same Node for scripts as it tests", () => {
    const { dependencies } = JSON.parse(readText("package.json"));
    expect(process.version).toBe(`v${dependencies.node}`);
  });
});
