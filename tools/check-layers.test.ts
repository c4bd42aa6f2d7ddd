import { describe, expect, it } from "vitest";
import { checkLayers, layerOf } from "./check-layers.ts";
import type { Manifest, WorkspacePackage } from "./workspace.ts";
import { packageFolders } from "./workspace.ts";

function pack(folder: string, name: string, files: Record<string, string>, manifest: Partial<Manifest> = {}) {
  const sources = Object.entries(files).map(([file, text]) => ({ path: `${folder}/${file}`, text }));
  return { folder, manifest: { name, private: true, ...manifest }, sources } satisfies WorkspacePackage;
}

const core = pack("packages/core", "@lowbit/core", { "src/index.ts": "export const one: number = 1;\n" });
const usesCore = { dependencies: { "@lowbit/core": "workspace:*" } };

/** The problems of a workspace in which one package has this source. */
function problemsOf(
  folder: string,
  source: string,
  manifest: Partial<Manifest> = {},
  file = "src/index.ts",
): string[] {
  return checkLayers([core, pack(folder, "@lowbit/subject", { [file]: source }, manifest)]);
}

describe("checkLayers", () => {
  it("passes a package that imports downwards and declares it", () => {
    const source = 'import { one } from "@lowbit/core";\nexport const two: number = one + one;\n';
    expect(problemsOf("plugins/gguf", source, usesCore)).toEqual([]);
  });

  it("knows a layer for every package of this repository", () => {
    expect(packageFolders().filter((folder) => layerOf(folder) === undefined)).toEqual([]);
  });

  it("refuses a folder without a layer", () => {
    expect(problemsOf("packages/elsewhere", "")).toEqual([expect.stringContaining("no layer is known")]);
  });

  it.each([
    ["a static import", 'import { x } from "@lowbit/other";'],
    ["a type import", 'import type { X } from "@lowbit/other";'],
    ["a re-export", 'export * from "@lowbit/other";'],
    ["a dynamic import", 'const other = import("@lowbit/other");'],
    ["an import type", 'export type X = import("@lowbit/other").X;'],
    ["a subpath", 'import "@lowbit/other/deep";'],
  ])("refuses %s between packages of layer 2", (_, source) => {
    const other = pack("packages/models", "@lowbit/other", {});
    const subject = pack(
      "plugins/gguf",
      "@lowbit/gguf",
      { "src/a.ts": source },
      {
        dependencies: { "@lowbit/other": "workspace:*" },
      },
    );
    const problems = checkLayers([core, other, subject]);
    expect(problems).toContainEqual(
      expect.stringMatching(/^plugins\/gguf\/src\/a\.ts: .*imports only go down/),
    );
    expect(problems).toContainEqual(
      expect.stringMatching(/^plugins\/gguf\/package\.json: .*imports only go down/),
    );
  });

  it("lets tests import across layers if they declare it", () => {
    const other = pack("packages/models", "@lowbit/other", {});
    const test = 'import "@lowbit/other";';
    const declared = { devDependencies: { "@lowbit/other": "workspace:*" } };
    const files = { "src/a.test.ts": test };
    expect(checkLayers([core, other, pack("plugins/gguf", "@lowbit/gguf", files, declared)])).toEqual([]);
    expect(checkLayers([core, other, pack("plugins/gguf", "@lowbit/gguf", files)])).toEqual([
      expect.stringContaining("which nothing declares"),
    ]);
    expect(
      checkLayers([core, other, pack("plugins/gguf", "@lowbit/gguf", files)], { "@lowbit/other": "1" }),
    ).toEqual([]);
  });

  it("keeps kernels out of the engine", () => {
    const kernel = pack("kernels/wasm", "@lowbit/kernels-wasm", {});
    const engine = pack(
      "packages/engine",
      "@lowbit/engine",
      { "src/a.ts": 'import "@lowbit/kernels-wasm";' },
      {
        dependencies: { "@lowbit/kernels-wasm": "workspace:*" },
      },
    );
    expect(checkLayers([core, kernel, engine])).toContainEqual(
      expect.stringContaining("handed over by the caller"),
    );
  });

  it("keeps core free of dependencies and within its lines", () => {
    const text = "export {};\n".repeat(300);
    const files = Object.fromEntries(Array.from({ length: 10 }, (_, index) => [`src/${index}.ts`, text]));
    const heavy = pack("packages/core", "@lowbit/core", files, { dependencies: { tiny: "1.0.0" } });
    const problems = checkLayers([heavy]);
    expect(problems).toContainEqual(expect.stringContaining("core has no dependencies, but lists tiny"));
    expect(problems).toContainEqual(expect.stringContaining("3000 lines of source"));
  });

  it.each([
    ["a built-in", 'import fs from "node:fs";', "node:fs"],
    ["a built-in without its prefix", 'import fs from "fs";', "fs"],
    ["process", "export const p: string = process.cwd();", "process"],
    ["Buffer", "export const b: unknown = Buffer.from([]);", "Buffer"],
    ["a shorthand global", "export const o: unknown = { navigator };", "navigator"],
    ["eval", 'eval("1");', "eval"],
    ["new Function", 'new Function("1");', "Function"],
    ["WebAssembly from bytes", "await WebAssembly.compile(bytes);", "WebAssembly.compile"],
    ["a module from bytes", "new WebAssembly.Module(bytes);", "WebAssembly.Module"],
  ])("keeps %s out of portable code", (_, source, name) => {
    expect(problemsOf("packages/engine", source)).toEqual([expect.stringContaining(name)]);
  });

  it("sees that a name is a property, a type's member or declared in the file", () => {
    const source = `
      interface Node { document: string; process?: number }
      export const a = (node: Node): string => node.document;
      export const b = (self: number): number => self;
      export const c: { process: number } = { process: 1 };
      await WebAssembly.instantiate(module, {});
    `;
    expect(problemsOf("packages/engine", source)).toEqual([]);
  });

  it("allows built-ins in the Node adapter and in the command line", () => {
    const source = 'import fs from "node:fs";\nprocess.exit(fs ? 0 : 1);\n';
    expect(problemsOf("packages/platform", source, {}, "src/node.ts")).toEqual([]);
    expect(problemsOf("packages/platform", source, {}, "src/web.ts")).toHaveLength(2);
    expect(problemsOf("packages/cli", source)).toEqual([]);
  });

  it("keeps any and switched-off checks out of shipped code, not out of strings", () => {
    const loose = "export const a: any = 1;\n// @ts-ignore\nexport const b: Record<string, any> = {};\n";
    expect(problemsOf("packages/engine", loose)).toHaveLength(3);
    expect(problemsOf("packages/engine", 'export const any: string = "any: any";\n')).toEqual([]);
  });

  it("limits files to 400 lines, except tables", () => {
    const text = "export {};\n".repeat(401);
    expect(problemsOf("plugins/gguf", text)).toEqual([expect.stringContaining("401 lines")]);
    expect(problemsOf("plugins/gguf", text, {}, "src/tables/iq2.ts")).toEqual([]);
  });

  it("refuses relative imports that leave the package and imports of itself", () => {
    expect(problemsOf("plugins/gguf", 'import "../../../packages/core/src/index.ts";')).toEqual([
      expect.stringContaining("outside its package"),
    ]);
    expect(problemsOf("plugins/gguf", 'import "@lowbit/subject";')).toEqual([
      expect.stringContaining("its own package"),
    ]);
  });

  it("matches dependencies with imports", () => {
    const source = 'import "@lowbit/core";\nimport "extra";\n';
    expect(problemsOf("plugins/gguf", source, usesCore)).toEqual([
      expect.stringContaining("extra is imported"),
    ]);
    const unused = { dependencies: { "@lowbit/core": "workspace:*", extra: "1.0.0", gone: "2.0.0" } };
    expect(problemsOf("plugins/gguf", source, unused)).toEqual([expect.stringContaining("depends on gone")]);
    const loose = { dependencies: { "@lowbit/core": "^0.1.0", extra: "^1.0.0" } };
    expect(problemsOf("plugins/gguf", source, loose)).toEqual([
      expect.stringContaining('its version is "workspace:*"'),
      expect.stringContaining("not an exact version"),
    ]);
    const idle = { devDependencies: { "fast-check": "4.0.0" } };
    expect(problemsOf("plugins/gguf", "", idle)).toEqual([expect.stringContaining("no file imports it")]);
  });

  it("asks published packages for what npm needs", () => {
    const problems = problemsOf("packages/cli", "", { private: false, bin: { lowbit: "./src/main.ts" } });
    expect(problems).toHaveLength(5);
    expect(problems.join("\n")).toMatch(/licence[\s\S]*description[\s\S]*files[\s\S]*exports[\s\S]*bin/);
  });
});
