/**
 * `npm run bench`: decode and prefill speed of lowbit and its peers on one file, on one thread, in one run. Each round gives
 * every engine one pass, in an order that turns, so that a busy machine slows all alike. Results are medians, and JSON.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { modelShapes } from "@lowbit/testing/tiny-model";
import { inspect } from "lowbit";
import { type Contestant, type ContestantFactory, median, type Pass, tokensPerSecond } from "./contestant.ts";
import { benchModel, type ShapeName } from "./models.ts";
import { lowbit } from "./peers/lowbit.ts";
import { nodeLlamaCpp } from "./peers/node-llama-cpp.ts";
import { browserAvailable, wllama231, wllamaCurrent } from "./peers/wllama.ts";

const folder: string = resolve(dirname(fileURLToPath(import.meta.url)), "..");

const contestants: Readonly<Record<string, ContestantFactory>> = {
  lowbit,
  wllama231,
  wllama: wllamaCurrent,
  "node-llama-cpp": nodeLlamaCpp,
};

const help = `npm run bench -- [options]
  --shape <name>    random weights of this true shape: ${Object.keys(modelShapes).join(", ")} (default smollm2-135m)
  --type <name>     their quantization type (default Q4_0); the embedding is Q8_0
  --model <file>    a GGUF file instead
  --prompt <count>  tokens to read (default 128)
  --tokens <count>  tokens to write (default 64)
  --rounds <count>  measured rounds, after one to warm up (default 5)
  --only <names>    of ${Object.keys(contestants).join(",")} (default all)
  --out <file>      where the JSON goes (default bench/results/<model>.json)
`;

interface Settings {
  readonly modelPath: string;
  readonly vocabularySize: number;
  readonly promptTokens: number;
  readonly tokens: number;
  readonly rounds: number;
  readonly names: readonly string[];
  readonly out: string;
}

async function settingsOf(args: readonly string[]): Promise<Settings | undefined> {
  const string = { type: "string" } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      shape: { ...string, default: "smollm2-135m" },
      type: { ...string, default: "Q4_0" },
      model: string,
      prompt: { ...string, default: "128" },
      tokens: { ...string, default: "64" },
      rounds: { ...string, default: "5" },
      only: { ...string, default: Object.keys(contestants).join(",") },
      out: string,
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return undefined;
  const names = values.only.split(",");
  const unknown = names.find((name) => !Object.hasOwn(contestants, name));
  if (unknown !== undefined) throw new Error(`There is no engine ${JSON.stringify(unknown)}.\n${help}`);
  const modelPath =
    values.model === undefined ? await benchModel(shapeOf(values.shape), values.type) : resolve(values.model);
  const name = modelPath.slice(modelPath.lastIndexOf("/") + 1).replace(/\.gguf$/, "");
  const { config } = await inspect(modelPath);
  if (config === undefined) throw new Error(`${modelPath} is of an architecture that lowbit does not know.`);
  return {
    modelPath,
    vocabularySize: config.vocabularySize,
    promptTokens: count(values.prompt, "prompt"),
    tokens: count(values.tokens, "tokens"),
    rounds: count(values.rounds, "rounds"),
    names,
    out: resolve(values.out ?? join(folder, "results", `${name}.json`)),
  };
}

function shapeOf(name: string): ShapeName {
  if (Object.hasOwn(modelShapes, name)) return name as ShapeName;
  throw new Error(`There is no shape ${JSON.stringify(name)}.\n${help}`);
}

function count(text: string, name: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new Error(`--${name} is ${text}; it must be a whole number from 1.`);
  return value;
}

/** Ids that no round shares a prefix with another, so that no cache helps. */
function promptOf(length: number, round: number, vocabularySize: number): number[] {
  const [from, span] = [Math.floor(vocabularySize / 4), Math.floor(vocabularySize / 2)];
  return Array.from({ length }, (_, index) => from + ((index * 7919 + (round + 1) * 104_729) % span));
}

interface Result {
  readonly name: string;
  readonly version: string;
  readonly loadMs: number;
  readonly promptTokensPerSecond: number;
  readonly tokensPerSecond: number;
  readonly passes: readonly Pass[];
}

async function measure(settings: Settings): Promise<{ results: Result[]; absent: Record<string, string> }> {
  const { modelPath, vocabularySize, promptTokens, tokens, rounds } = settings;
  const running: { contestant: Contestant; passes: Pass[] }[] = [];
  const absent: Record<string, string> = {};
  try {
    for (const name of settings.names) {
      if (name.startsWith("wllama") && !browserAvailable()) {
        absent[name] = "it runs only in a browser, and none is at /usr/bin/chromium or in LOWBIT_CHROMIUM";
        continue;
      }
      console.error(`loading ${name} …`);
      const start = contestants[name] as ContestantFactory;
      const contextLength = promptTokens + tokens + 32;
      running.push({ contestant: await start({ modelPath, contextLength, threads: 1 }), passes: [] });
    }
    for (let round = 0; round <= rounds; round++) {
      console.error(round === 0 ? "warming up …" : `round ${round} of ${rounds} …`);
      for (let turn = 0; turn < running.length; turn++) {
        const { contestant, passes } = running[(turn + round) % running.length] as (typeof running)[number];
        const pass = await contestant.pass(promptOf(promptTokens, round, vocabularySize), tokens);
        if (round > 0) passes.push(pass);
      }
    }
    return { results: running.map(({ contestant, passes }) => resultOf(contestant, passes)), absent };
  } finally {
    for (const { contestant } of running) await contestant.close();
  }
}

function resultOf({ name, version, loadMs }: Contestant, passes: readonly Pass[]): Result {
  return {
    name,
    version,
    loadMs,
    promptTokensPerSecond: median(passes.map((pass) => tokensPerSecond(pass.promptTokens, pass.promptMs))),
    tokensPerSecond: median(passes.map((pass) => tokensPerSecond(pass.decodedTokens, pass.decodeMs))),
    passes,
  };
}

const settings = await settingsOf(process.argv.slice(2));
if (settings === undefined) {
  console.log(help);
} else {
  const loadBefore = loadavg()[0];
  const { results, absent } = await measure(settings);
  const machine = {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    node: process.version,
    loadBefore,
    loadAfter: loadavg()[0],
  };
  const { modelPath, out, ...options } = settings;
  const model = relative(folder, modelPath);
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(
    out,
    `${JSON.stringify({ machine, model, ...options, threads: 1, results, absent }, null, 2)}\n`,
  );
  console.table(
    results.map((result) => ({
      engine: result.name,
      version: result.version,
      "load ms": Math.round(result.loadMs),
      [`read ${settings.promptTokens}, tokens/s`]: Number(result.promptTokensPerSecond.toFixed(1)),
      [`write ${settings.tokens}, tokens/s`]: Number(result.tokensPerSecond.toFixed(1)),
    })),
  );
  for (const [name, reason] of Object.entries(absent)) console.log(`${name} was left out: ${reason}.`);
  console.log(`written to ${relative(process.cwd(), out)}`);
}
