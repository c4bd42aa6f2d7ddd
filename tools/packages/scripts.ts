/** Trials of the README's snippets as scripts, of the command, and of the types. */
import { cp, writeFile } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import { transform } from "esbuild";
import { root } from "../workspace.ts";
import { run } from "./command.ts";
import { asScript, asWorker } from "./readme.ts";
import { answer, expectLines, linesOf, type Trial } from "./trial.ts";

export interface Snippets {
  /** Of the package's README: loads pico, logs the answer. */
  readonly package: string;
  /** Of the repository's: loads ./model.gguf, writes to standard output. */
  readonly repository: string;
}

interface Runtime {
  readonly name: string;
  readonly platform: string;
  readonly command: readonly [string, ...string[]];
  /** It runs TypeScript and knows `await using`. */
  readonly modern: boolean;
}

/** On each Node given, Deno, Bun; in the project in `folder`. */
export async function scriptTrials(
  folder: string,
  snippets: Snippets,
  nodes: readonly string[],
): Promise<Trial[]> {
  await cp(join(folder, "node_modules/@lowbit/pico/pico-Q8_0.gguf"), join(folder, "model.gguf"));
  const sources = { snippet: asScript(snippets.package), file: asScript(snippets.repository) };
  for (const [name, source] of Object.entries(sources)) {
    await writeFile(join(folder, `${name}.ts`), source);
    const { code } = await transform(source, { loader: "ts", target: "node20", format: "esm" });
    await writeFile(join(folder, `${name}.mjs`), code);
  }
  const runtimes = await Promise.all([...nodes.map((node) => nodeRuntime(node, folder)), deno(), bun()]);
  const commands = runtimes.filter(({ platform }) => platform === "node");
  return [
    ...runtimes.flatMap((runtime) => [
      { name: `${runtime.name}: README`, run: () => tryScript(folder, runtime, "snippet") },
      { name: `${runtime.name}: model.gguf`, run: () => tryFile(folder, runtime) },
    ]),
    ...commands.map((runtime) => ({
      name: `${runtime.name}: command`,
      run: () => tryCommand(folder, runtime),
    })),
    ...typeTrials(folder, snippets),
  ];
}

async function nodeRuntime(node: string, folder: string): Promise<Runtime> {
  const version = (await run(node, ["--version"], { cwd: folder })).stdout.trim().slice(1);
  const modern = Number(version.split(".")[0]) >= 24;
  return { name: `Node ${version}`, platform: "node", command: [node], modern };
}

async function deno(): Promise<Runtime> {
  const program = join(root, "node_modules/.bin/deno");
  const version = (await run(program, ["--version"], { cwd: root })).stdout.split(" ")[1] ?? "";
  return { name: `Deno ${version}`, platform: "deno", command: [program, "run", "-A"], modern: true };
}

async function bun(): Promise<Runtime> {
  const program = join(root, "node_modules/.bin/bun");
  const version = (await run(program, ["--version"], { cwd: root })).stdout.trim();
  return { name: `Bun ${version}`, platform: "bun", command: [program, "run"], modern: true };
}

async function output(folder: string, { command, modern }: Runtime, script: string): Promise<string> {
  const [program, ...flags] = command;
  const args = [...flags, `${script}.${modern ? "ts" : "mjs"}`];
  return (await run(program, args, { cwd: folder, env: { DENO_NO_UPDATE_CHECK: "1" } })).stdout;
}

async function tryScript(folder: string, runtime: Runtime, script: string): Promise<string> {
  return expectLines(linesOf(await output(folder, runtime, script)), runtime.platform);
}

async function tryFile(folder: string, runtime: Runtime): Promise<string> {
  const text = (await output(folder, runtime, "file")).trim();
  const found = `${runtime.platform} wasm`;
  if (!text.includes("Paris") || !text.endsWith(found))
    throw new Error(`It wrote ${JSON.stringify(text)}; expected were Paris and ${found}.`);
  return text.slice(0, -found.length);
}

async function tryCommand(folder: string, { command: [node] }: Runtime): Promise<string> {
  const args = ["run", "-p", "What is 12 + 7?", "--temperature", "0"];
  // The link that npm made, which looks for `node` on the PATH.
  const env = { PATH: `${dirname(node)}${delimiter}${process.env.PATH ?? ""}` };
  const { stdout } = await run(join(folder, "node_modules/.bin/lowbit"), args, { cwd: folder, env });
  if (stdout.trim() !== answer) throw new Error(`It wrote ${JSON.stringify(stdout)}.`);
  return answer;
}

const consumer = `import { type GenerateEvent, load, type Model } from "lowbit";
export async function first(): Promise<GenerateEvent | undefined> {
  const model: Model = await load("model.gguf");
  for await (const event of model.generate({ prompt: "a" })) return event;
  return undefined;
}
`;

/** All declarations are checked, as skipLibCheck is off. */
function typeTrials(folder: string, snippets: Snippets): Trial[] {
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  const strict = ["--noEmit", "--strict", "--target", "es2024", "--lib", "esnext,dom"];
  const bundler = ["--module", "preserve", "--moduleResolution", "bundler"];
  const check = async (source: string, name: string, flags: readonly string[]): Promise<string> => {
    await writeFile(join(folder, name), source);
    const { stdout } = await run(process.execPath, [compiler, ...strict, ...flags, name], { cwd: folder });
    return stdout.trim();
  };
  const worker = [...bundler, "--customConditions", "workerd,worker,browser"];
  return [
    {
      name: "Types: tsc, nodenext",
      run: () => check(consumer, "consumer-node.ts", ["--module", "nodenext"]),
    },
    { name: "Types: tsc, bundler", run: () => check(consumer, "consumer-bundler.ts", bundler) },
    {
      name: "Types: tsc, workerd",
      run: () => check(asWorker(snippets.package), "consumer-worker.ts", worker),
    },
    {
      name: "Types: deno check",
      run: async () => {
        await run(join(root, "node_modules/.bin/deno"), ["check", "--quiet", "snippet.ts"], { cwd: folder });
        return "";
      },
    },
  ];
}
