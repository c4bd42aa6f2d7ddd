import { stripTypeScriptTypes } from "node:module";
import { describe, expect, it } from "vitest";
import { readText } from "../workspace.ts";
import { asScript, asWorker, firstSnippet } from "./readme.ts";

const snippet = 'import { load } from "lowbit"; // why\n\nconst model = await load();\nconsole.log(1);';

describe("the README's snippet", () => {
  it("is the first that is marked, and must be there", () => {
    expect(firstSnippet("x.md", "```ts\na\n```\n```ts runnable\nb\n```\n```ts runnable\nc\n```\n")).toBe("b");
    expect(() => firstSnippet("x.md", "# x\n")).toThrow("x.md has no snippet");
  });

  it("is unchanged in a script", () => {
    expect(asScript(snippet).startsWith(`${snippet}\n`)).toBe(true);
  });

  it("keeps every line in a Worker: imports at the top, the rest in the handler", () => {
    const lines = asWorker(snippet)
      .split("\n")
      .map((line) => line.trim());
    const [handler, text] = [lines.indexOf("export default {"), lines.indexOf("const model = await load();")];
    expect(lines[0]).toBe('import { load } from "lowbit"; // why');
    expect(text).toBeGreaterThan(handler);
    expect(lines[text + 1]).toBe("console.log(1);");
  });

  it("refuses an import of several lines, which would be torn", () => {
    expect(() => asWorker('import {\n  load,\n} from "lowbit";')).toThrow("several lines");
  });

  it("of the package is TypeScript in both forms", () => {
    const path = "packages/lowbit/README.md";
    const code = firstSnippet(path, readText(path));
    expect(() => [asScript(code), asWorker(code)].map((form) => stripTypeScriptTypes(form))).not.toThrow();
  });
});
