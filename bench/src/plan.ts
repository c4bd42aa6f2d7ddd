import type { ShapeName } from "./recipe.ts";

/** One file with one number of threads, and what is measured on it. */
export interface Cell {
  /** A true shape of random weights, or the path of a model of one's own. */
  readonly shape: ShapeName | (string & {});
  /** "" for a model of one's own. */
  readonly type: string;
  readonly threads: number;
  readonly engines: readonly string[];
  /** Tokens of prompts. */
  readonly prompts: readonly number[];
  /** Tokens of contexts that are decoded at. */
  readonly contexts: readonly number[];
  readonly decodeTokens: number;
  readonly rounds: number;
  /** Fresh starts, whose times to load are measured. */
  readonly loads: number;
  /** Longest that one measurement of one engine may take, all rounds together. */
  readonly limitMs: number;
  /** Longest that a round waits for a quiet machine. */
  readonly quietLimitMs: number;
}

export const lowbitEngines: readonly string[] = ["lowbit", "lowbit-chromium"];
export const allEngines: readonly string[] = [...lowbitEngines, "wllama231", "wllama", "node-llama-cpp"];

export const defaults: Omit<Cell, "shape" | "type" | "threads"> = {
  engines: allEngines,
  prompts: [128, 512],
  contexts: [128, 2048],
  decodeTokens: 32,
  rounds: 5,
  loads: 1,
  limitMs: 120_000,
  quietLimitMs: 30_000,
};

/** What the claims rest on. */
export const mainShape: ShapeName = "qwen2.5-0.5b";
export const mainTypes: readonly string[] = ["Q4_0", "Q4_K_M", "Q8_0"];

/**
 * Everything, the cells that claims rest on first: five rounds and the time they take. The others show how it is elsewhere, in two rounds
 * and as much of them as fits in seconds, types beyond the main ones with the first number of threads alone. The current wllama, several times slower than its older build, is in one type of each shape.
 */
export function matrix(threads: readonly number[]): Cell[] {
  const main = mainTypes.flatMap((type) =>
    threads.map((count): Cell => {
      const engines = type === "Q4_0" ? allEngines : allEngines.filter((name) => name !== "wllama");
      const loads = type === "Q4_K_M" && count === 1 ? 5 : 1;
      return { ...defaults, shape: mainShape, type, threads: count, engines, loads };
    }),
  );
  const brief = { ...defaults, rounds: 2, limitMs: 6_000, quietLimitMs: 3_000 };
  const others = (shape: ShapeName, types: readonly string[]): Cell[] =>
    types.flatMap((type) =>
      (mainTypes.includes(type) ? threads : threads.slice(0, 1)).map((count): Cell => {
        const folder = !/^Q/.test(type);
        const engines = folder
          ? lowbitEngines
          : allEngines.filter((name) => name !== "wllama" || (type === "Q4_0" && count === 1));
        return { ...brief, shape, type, threads: count, engines };
      }),
    );
  const folders = ["GPTQ-4-g128", "EXL2-4.25"];
  return [
    ...main,
    ...others(mainShape, ["Q6_K", ...folders]),
    ...others("smollm2-135m", [...mainTypes, "Q6_K", ...folders]),
    ...others("llama-3.2-1b", [...mainTypes, "Q6_K", ...folders]),
  ];
}

/** Does everything work? About two minutes. */
export function quick(threads: readonly number[]): Cell[] {
  return threads.map((count) => ({
    ...defaults,
    shape: "smollm2-135m",
    type: "Q4_0",
    threads: count,
    engines: allEngines.filter((name) => name !== "wllama" || count === 1),
    prompts: [128],
    contexts: [128, 512],
    decodeTokens: 16,
    rounds: 2,
    limitMs: 12_000,
    quietLimitMs: 1_000,
  }));
}
