import { basename, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { modelShapes } from "@lowbit/testing/tiny-model";
import { folderTypes } from "./models.ts";
import { allEngines, type Cell, defaults, mainShape, mainTypes, matrix, quick } from "./plan.ts";
import { fileTypes } from "./recipe.ts";

export type Settings =
  | { readonly action: "help" }
  /** Makes the page from what earlier runs have written. */
  | { readonly action: "report"; readonly inputs: readonly string[] }
  | {
      readonly action: "run";
      readonly cells: readonly Cell[];
      readonly out: string;
      /** Measure anew what is already there. */
      readonly fresh: boolean;
      /** Write the models alone, which may take longer than to measure them. */
      readonly prepare: boolean;
      /** No cell is begun later than this. */
      readonly minutes: number;
    };

const results: string = fileURLToPath(new URL("../results/", import.meta.url));

export const help: string = `npm run bench -- [options]

What is measured; without any of these: ${mainShape} in ${mainTypes.join(", ")}
  --quick             one small model, two minutes: does everything work?
  --matrix            every shape and type, what claims rest on first
  --shape <names>     random weights of these true shapes: ${Object.keys(modelShapes).join(", ")}
  --type <names>      in these types: ${[...fileTypes, ...Object.keys(folderTypes)].join(", ")}
  --model <path>      a GGUF file or a folder of your own instead
  --threads <counts>  threads of each engine (1,2)
  --only <names>      engines, of ${allEngines.join(", ")}

How; --quick and --matrix have their own values
  --prompt <counts>   tokens of prompts (${defaults.prompts.join(",")})
  --context <counts>  tokens of contexts to decode at (${defaults.contexts.join(",")})
  --tokens <count>    tokens to decode (${defaults.decodeTokens})
  --rounds <count>    rounds, in which every engine has its turn (${defaults.rounds})
  --loads <count>     fresh starts of each engine (${defaults.loads})
  --limit <seconds>   longest that one measurement of one engine may take (${defaults.limitMs / 1000})
  --wait <seconds>    longest that a round waits for a quiet machine (${defaults.quietLimitMs / 1000})
  --minutes <count>   no file is begun after so much measuring; the next run goes on there

Where
  --out <file>        JSON, written after each file; a run goes on with what is there (bench/results/*.json)
  --prepare           write the models and measure nothing: conversions to folders take minutes
  --fresh             measure anew what is there
  --report            make docs/performance.md from bench/results/matrix.json, or from the files that follow
`;

const own = ["prompt", "context", "tokens", "rounds", "loads", "limit", "wait"] as const;

/** Throws an Error that says what is wrong with an argument. */
export function settingsOf(args: readonly string[]): Settings {
  const string = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      ...{
        quick: flag,
        matrix: flag,
        fresh: flag,
        report: flag,
        prepare: flag,
        help: { ...flag, short: "h" },
      },
      ...{ shape: string, type: string, model: string, threads: string, only: string },
      ...{ prompt: string, context: string, tokens: string, rounds: string, loads: string },
      ...{ limit: string, wait: string, minutes: string, out: string },
    },
  });
  if (values.help) return { action: "help" };
  if (values.report) {
    const inputs = positionals.length > 0 ? positionals : [`${results}matrix.json`];
    return { action: "report", inputs: inputs.map((path) => resolve(path)) };
  }
  if (positionals.length > 0)
    throw new Error(`What is ${JSON.stringify(positionals[0])}? --help says what there is.`);
  const threads = counts("threads", values.threads ?? "1,2");
  const engines = values.only === undefined ? undefined : names("only", values.only, allEngines);
  const wanted = Object.fromEntries(own.flatMap((name) => (values[name] ? [[name, values[name]]] : [])));
  const changes: Partial<Cell> = { ...measurement(wanted), ...(engines && { engines }) };
  const { cells, name } = cellsOf(values, threads);
  return {
    action: "run",
    cells: cells.map((cell) => {
      const kept = engines && cell.engines.filter((engine) => engines.includes(engine));
      return { ...cell, ...changes, ...(kept && (values.quick || values.matrix) && { engines: kept }) };
    }),
    out: resolve(values.out ?? `${results}${name}.json`),
    fresh: values.fresh,
    prepare: values.prepare,
    minutes: values.minutes === undefined ? Number.POSITIVE_INFINITY : count("minutes", values.minutes),
  };
}

interface Choice {
  readonly quick: boolean;
  readonly matrix: boolean;
  readonly shape?: string | undefined;
  readonly type?: string | undefined;
  readonly model?: string | undefined;
}

function cellsOf(values: Choice, threads: readonly number[]): { cells: Cell[]; name: string } {
  const { shape, type, model } = values;
  const ways = [values.quick, values.matrix, model !== undefined, shape !== undefined || type !== undefined];
  if (ways.filter(Boolean).length > 1)
    throw new Error("Only one of --quick, --matrix, --model, and --shape with --type can be chosen.");
  if (values.quick) return { cells: quick(threads), name: "quick" };
  if (values.matrix) return { cells: matrix(threads), name: "matrix" };
  const cell = (chosenShape: string, chosenType: string): Cell[] =>
    threads.map((count) => ({ ...defaults, shape: chosenShape, type: chosenType, threads: count }));
  if (model !== undefined) return { cells: cell(resolve(model), ""), name: basename(model) };
  const shapes = shape === undefined ? [mainShape] : names("shape", shape, Object.keys(modelShapes));
  const known = [...fileTypes, ...Object.keys(folderTypes)];
  const types = type === undefined ? mainTypes : names("type", type, known);
  return {
    cells: shapes.flatMap((one) => types.flatMap((other) => cell(one, other))),
    name: shape === undefined && type === undefined ? "main" : `${shapes.join("+")}-${types.join("+")}`,
  };
}

function measurement(values: Readonly<Partial<Record<(typeof own)[number], string>>>): Partial<Cell> {
  const { prompt, context, tokens, rounds, loads, limit, wait } = values;
  return {
    ...(prompt && { prompts: counts("prompt", prompt) }),
    ...(context && { contexts: counts("context", context) }),
    ...(tokens && { decodeTokens: count("tokens", tokens) }),
    ...(rounds && { rounds: count("rounds", rounds) }),
    ...(loads && { loads: count("loads", loads) }),
    ...(limit && { limitMs: count("limit", limit) * 1000 }),
    ...(wait && { quietLimitMs: count("wait", wait) * 1000 }),
  };
}

function names(option: string, text: string, known: readonly string[]): string[] {
  const list = text.split(",");
  const stranger = list.find((name) => !known.includes(name));
  if (stranger === undefined) return list;
  throw new Error(`--${option}: there is no ${JSON.stringify(stranger)}; there are ${known.join(", ")}.`);
}

function counts(option: string, text: string): number[] {
  return text.split(",").map((item) => count(option, item));
}

function count(option: string, text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new Error(`--${option} is ${JSON.stringify(text)}; it must be a whole number from 1.`);
}
