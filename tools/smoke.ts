/**
 * Tries what users would install: packs every published package, lays the archives out as npm would, and asks pico a
 * question on each Node given (default: this one). Run `npm run build` first.
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readManifest, readWorkspace, root, type WorkspacePackage } from "./workspace.ts";

const program = `
import { load } from "lowbit";
import { picoGguf } from "@lowbit/pico";
await using model = await load(picoGguf);
const { text } = await model.complete({ messages: [{ role: "user", content: "What is 12 + 7?" }], temperature: 0 });
console.log(JSON.stringify({ text, backend: model.info.backendDescription }));
`;
/** Node 20 has no \`await using\`: the same by hand. */
const plainProgram: string = program
  .replace("await using model", "const model")
  .concat("await model.dispose();\n");

const consumer = `
import { type GenerateEvent, load, type Model } from "lowbit";
export async function first(): Promise<GenerateEvent | undefined> {
  const model: Model = await load("model.gguf");
  for await (const event of model.generate({ prompt: "a" })) return event;
  return undefined;
}
`;

/** Packs the packages and unpacks them below a fresh folder's node_modules. */
function layOut(packages: readonly WorkspacePackage[]): string {
  const folder = mkdtempSync(join(tmpdir(), "lowbit-smoke-"));
  const archives = join(folder, "archives");
  mkdirSync(archives);
  const local = new Set(packages.map(({ manifest }) => manifest.name));
  const pnpm = ["--yes", readManifest("").packageManager ?? "pnpm"];
  for (const { folder: source, manifest } of packages) {
    if (!existsSync(join(root, source, "dist")))
      throw new Error(`${source} has no dist; run npm run build first.`);
    execFileSync("npx", [...pnpm, "pack", "--pack-destination", archives], {
      cwd: join(root, source),
      stdio: "pipe",
    });
    const target = join(folder, "node_modules", manifest.name);
    mkdirSync(target, { recursive: true });
    const archive = `${manifest.name.replace("@", "").replace("/", "-")}-${manifest.version}.tgz`;
    execFileSync("tar", ["-xzf", join(archives, archive), "--strip-components=1", "-C", target]);
    for (const name of Object.keys(manifest.dependencies ?? {})) {
      if (local.has(name)) continue;
      const installed = realpathSync(join(root, source, "node_modules", name));
      cpSync(installed, join(folder, "node_modules", name), { recursive: true, dereference: true });
    }
  }
  rmSync(archives, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "type": "module", "private": true }\n');
  writeFileSync(join(folder, "program.js"), program);
  writeFileSync(join(folder, "plain.js"), plainProgram);
  writeFileSync(join(folder, "consumer.ts"), consumer);
  return folder;
}

function run(node: string, args: readonly string[], cwd: string): string {
  const result = spawnSync(node, args, { cwd, encoding: "utf8" });
  if (result.error !== undefined) throw result.error;
  if (result.status !== 0)
    throw new Error(`${node} ${args.join(" ")} failed:\n${result.stdout}${result.stderr}`);
  return result.stdout.trim();
}

function expectAnswer(text: string, what: string): void {
  if (text !== "12 + 7 = 19.") throw new Error(`${what}: pico answered ${JSON.stringify(text)}.`);
}

const nodes = process.argv.length > 2 ? process.argv.slice(2) : [process.execPath];
const folder = layOut(readWorkspace().filter(({ manifest }) => manifest.private !== true));
try {
  const tests = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) =>
    /lowbit.*\.test\./.test(path),
  );
  if (tests.length > 0) throw new Error(`test files are published: ${tests.join(", ")}`);
  for (const node of nodes) {
    const version = run(node, ["--version"], folder);
    const old = Number(version.slice(1).split(".")[0]) < 24;
    const answer = JSON.parse(run(node, [old ? "plain.js" : "program.js"], folder)) as {
      text: string;
      backend: unknown;
    };
    expectAnswer(answer.text, `${version}, package`);
    console.log(`ok   ${version}: ${JSON.stringify(answer.backend)}`);
    const command = "node_modules/@lowbit/cli/dist/main.js";
    expectAnswer(
      run(node, [command, "run", "-p", "What is 12 + 7?", "--temperature", "0"], folder),
      `${version}, command`,
    );
    console.log(`ok   ${version}: the command`);
  }
  const types = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2023", "--lib", "esnext,dom"];
  run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), ...types, "consumer.ts"], folder);
  console.log("ok   types, as a project that checks its libraries sees them");
} finally {
  rmSync(folder, { recursive: true, force: true });
}
