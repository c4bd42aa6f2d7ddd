import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { type Archive, openArchive } from "./archives.ts";
import { lintArchive } from "./lint.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

const manifest = {
  name: "@lowbit/sample",
  version: "0.1.0",
  license: "MIT",
  type: "module",
  sideEffects: false,
  engines: { node: ">=22" },
  exports: { ".": { types: "./dist/index.d.ts", default: "./dist/index.js" } },
  dependencies: { "@lowbit/core": "0.1.0" },
};
const files = {
  "README.md": "# sample\n",
  LICENSE: "MIT License\n",
  "dist/index.js": "export const one = 1;\n",
  "dist/index.d.ts": "export declare const one: number;\n",
};

/** An archive of a good package with these changes; a file that is undefined is left out. */
function pack(
  changes: Record<string, unknown> = {},
  changedFiles: Record<string, string | undefined> = {},
): Promise<Archive> {
  const folder = mkdtempSync(join(tmpdir(), "lowbit-lint-"));
  folders.push(folder);
  const all = {
    ...files,
    "package.json": JSON.stringify({ ...manifest, ...changes }),
    ...changedFiles,
  };
  for (const [path, text] of Object.entries(all)) {
    if (text === undefined) continue;
    mkdirSync(dirname(join(folder, "package", path)), { recursive: true });
    writeFileSync(join(folder, "package", path), text);
  }
  const path = join(folder, "sample.tgz");
  execFileSync("tar", ["-czf", path, "-C", folder, "package"]);
  return openArchive(manifest.name, path);
}

const versions: ReadonlyMap<string, string> = new Map([
  ["@lowbit/core", "0.1.0"],
  ["@lowbit/sample", "0.1.0"],
]);

describe("an archive", () => {
  it("passes if nothing is wrong", async () => {
    expect(await lintArchive(await pack(), versions)).toEqual([]);
  });

  it.each<[string, Record<string, unknown>, Record<string, string | undefined>, RegExp]>([
    ["without a README", {}, { "README.md": undefined }, /no README\.md/],
    ["without a licence", {}, { LICENSE: undefined }, /no LICENSE/],
    ["with a test", {}, { "dist/index.test.js": "" }, /index\.test\.js is published/],
    ["with the compiler's notes", {}, { "dist/.tsbuildinfo": "{}" }, /tsbuildinfo is published/],
    ["with sources", {}, { "src/index.ts": "" }, /src\/index\.ts is published/],
    ["without engines", { engines: undefined }, {}, /engines\.node/],
    ["with side effects", { sideEffects: undefined }, {}, /sideEffects/],
    ["of the workspace's own form", { dependencies: { "@lowbit/core": "workspace:*" } }, {}, /workspace:\*/],
    ["of another release", { dependencies: { "@lowbit/core": "0.0.9" } }, {}, /0\.1\.0 is released with it/],
    [
      "on a private package",
      { dependencies: { "@lowbit/testing": "0.1.0" } },
      {},
      /testing is not published/,
    ],
    [
      "whose exports lead nowhere",
      { exports: { ".": { types: "./dist/index.d.ts", default: "./dist/gone.js" } } },
      {},
      /publint: .*gone\.js/,
    ],
    ["without types", { exports: { ".": "./dist/index.js" } }, { "dist/index.d.ts": undefined }, /attw: /],
    [
      "whose declarations import a missing file",
      {},
      { "dist/index.d.ts": 'export { one } from "./gone.js";\n' },
      /attw: InternalResolutionError/,
    ],
  ])("fails %s", async (_, changes, changedFiles, problem) => {
    expect((await lintArchive(await pack(changes, changedFiles), versions)).join("\n")).toMatch(problem);
  });

  it("fails if a general condition stands before a special one", async () => {
    const target = { types: "./dist/index.d.ts", default: "./dist/index.js" };
    const exports = { ".": { browser: target, workerd: target, default: target } };
    expect(await lintArchive(await pack({ exports }), versions)).toEqual([
      'package.json: exports["."] must have its conditions in the order workerd, browser, default.',
    ]);
    const misspelt = { ".": { worker: target, default: target } };
    expect(await lintArchive(await pack({ exports: misspelt }), versions)).toEqual([
      'package.json: exports["."] has the unknown condition worker.',
    ]);
  });
});
