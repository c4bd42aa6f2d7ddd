import { cpus } from "node:os";
import { type Bandwidth, readBandwidth } from "./bandwidth.ts";
import { type Contestant, type Pass, type PassRequest, promptOf, tokensPerSecond } from "./contestant.ts";
import { dist as bundles } from "./engines/bundle.ts";
import { type EngineEntry, engines, missing } from "./engines/index.ts";
import { busyShare, coreTimes, crowded, type Gate, waitForQuiet } from "./idle.ts";
import type { BenchModel } from "./models.ts";
import type { Cell } from "./plan.ts";
import type { CellResult, EngineResult, Series } from "./results.ts";
import { passMs, type Rates, type Sizing, sizePasses } from "./sizing.ts";

/** Room in the context beside prompt and answer. */
const slackTokens = 64;
/** The engine's compiler needs some calls before it replaces its first, hasty code. */
const warmUp: Sizing = { promptTokens: 128, decodeTokens: 16, rounds: 1 };

/** An engine that takes part, and what has been seen of it. */
interface Runner {
  readonly name: string;
  readonly contestant: Contestant;
  readonly loadMs: number[];
  readonly openToFirstTokenMs: number[];
  readonly prefill: Record<string, Series>;
  readonly firstTokenMs: Record<string, number[]>;
  readonly decode: Record<string, Series>;
  readonly omitted: Record<string, string>;
  rates: Rates;
  /** A pass has failed: what was measured before stands. */
  failed: boolean;
}

type Say = (text: string) => void;

export interface CellOptions {
  /** Told what goes on. */
  readonly say: Say;
  /** Where the engines' bundles are. @default where `bundleEngines` puts them */
  readonly dist?: string;
  /** @default readBandwidth */
  readonly measureMemory?: (threads: number) => Promise<Bandwidth>;
}

/** Measures all engines on one file: starts them anew, warms them up, and gives each its passes, turn by turn in rounds. */
export async function runCell(
  cell: Cell,
  model: BenchModel,
  { say, dist = bundles, measureMemory = readBandwidth }: CellOptions,
): Promise<CellResult> {
  const begin = performance.now();
  const absent: Record<string, string> = {};
  const runners: Runner[] = [];
  const gates: Gate[] = [];
  const gate = async (): Promise<boolean> => {
    const seen = await waitForQuiet(cell.quietLimitMs);
    gates.push(seen);
    return seen.disturbed;
  };
  let bandwidth: Bandwidth;
  try {
    await gate();
    bandwidth = await measureMemory(cell.threads);
    await startAll(cell, model, dist, runners, absent, say);
    // What engines show while they warm up decides how much they are asked for.
    await gate();
    for (const runner of runners)
      await attempt(runner, "the warming up", () => warm(runner, cell, model, say));
    await measurePrompts(cell, model, runners, gate, say);
    for (const context of cell.contexts) {
      if (!cell.prompts.includes(context)) await measureContext(context, cell, model, runners, gate, say);
    }
    return {
      shape: cell.shape,
      type: cell.type,
      threads: cell.threads,
      date: new Date().toISOString(),
      seconds: Math.round((performance.now() - begin) / 1000),
      fileBytes: model.fileBytes,
      tokenBytes: model.tokenBytes,
      kvBytes: model.kvBytes,
      decodeTokens: cell.decodeTokens,
      bandwidth,
      gates,
      engines: runners.map(resultOf),
      absent,
    };
  } finally {
    for (const { contestant } of runners) await contestant.close().catch(() => {});
  }
}

async function startAll(
  cell: Cell,
  model: BenchModel,
  dist: string,
  runners: Runner[],
  absent: Record<string, string>,
  say: Say,
): Promise<void> {
  const longest = Math.max(warmUp.promptTokens, ...cell.prompts, ...cell.contexts);
  const options = {
    modelPath: model.path,
    contextLength: longest + cell.decodeTokens + slackTokens,
    threads: cell.threads,
    firstPrompt: promptOf(8, 9999, model.vocabularySize),
  };
  for (let load = 1; load <= cell.loads; load++) {
    for (const name of cell.engines) {
      const entry = engines[name] as EngineEntry;
      const reason = absent[name] ?? missing(entry, model.isFolder);
      if (reason !== undefined) {
        absent[name] = reason;
        continue;
      }
      say(`starting ${entry.title}${cell.loads > 1 ? `, ${load} of ${cell.loads}` : ""}`);
      try {
        const contestant = await entry.start(options, dist);
        const runner = runners.find((candidate) => candidate.name === name) ?? newRunner(name, contestant);
        runner.loadMs.push(contestant.loadMs);
        runner.openToFirstTokenMs.push(contestant.openToFirstTokenMs);
        if (load === 1) runners.push(runner);
        else await contestant.close();
      } catch (error) {
        absent[name] = reasonOf(error);
        say(`${entry.title} is left out: ${absent[name]}`);
      }
    }
  }
}

/** The first line of what an engine said, without what the way from a page puts before it. */
function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return (message.split("\n")[0] as string).replace(/^page\.evaluate: (Error: )?/, "");
}

/** Goes on without an engine that fails, and says so. */
async function attempt(runner: Runner, what: string, body: () => Promise<void>): Promise<void> {
  if (runner.failed) return;
  try {
    await body();
  } catch (error) {
    runner.failed = true;
    runner.omitted[`from ${what} on`] = reasonOf(error);
  }
}

function newRunner(name: string, contestant: Contestant): Runner {
  return {
    name,
    contestant,
    loadMs: [],
    openToFirstTokenMs: [],
    prefill: {},
    firstTokenMs: {},
    decode: {},
    omitted: {},
    rates: { prefill: 1, decode: 1 },
    failed: false,
  };
}

/** A short pass says how fast the engine is about, a longer one warms it up, if that does not take all of the time. */
async function warm(runner: Runner, cell: Cell, model: BenchModel, say: Say): Promise<void> {
  say(`warming up ${titleOf(runner)}`);
  const pass = async (prompt: number, decodeTokens: number, seed: number): Promise<void> => {
    const request = { prompt: promptOf(prompt, seed, model.vocabularySize), decodeTokens, keep: false };
    runner.rates = ratesOf(await runner.contestant.pass(request));
  };
  await pass(32, 4, 9998);
  if (passMs(warmUp, runner.rates) < limitOf(runner, cell))
    await pass(warmUp.promptTokens, warmUp.decodeTokens, 9997);
}

function ratesOf(pass: Pass): Rates {
  return {
    prefill: tokensPerSecond(pass.promptTokens, pass.promptMs),
    decode: tokensPerSecond(Math.max(1, pass.decodedTokens), pass.decodeMs),
  };
}

/** Prompts that no engine has seen, and decoding behind those whose length is also a context's. */
async function measurePrompts(
  cell: Cell,
  model: BenchModel,
  runners: readonly Runner[],
  gate: () => Promise<boolean>,
  say: Say,
): Promise<void> {
  const sizings = new Map<Runner, Map<number, Sizing>>();
  for (const runner of runners) {
    if (runner.failed) continue;
    const own = new Map<number, Sizing>();
    sizings.set(runner, own);
    for (const promptTokens of cell.prompts) {
      const decodeTokens = cell.contexts.includes(promptTokens) ? cell.decodeTokens : 0;
      const wanted = { promptTokens, decodeTokens, rounds: cell.rounds };
      const sizing = sizePasses(wanted, runner.rates, limitOf(runner, cell), true);
      if ("reason" in sizing) runner.omitted[`prompt ${promptTokens}`] = sizing.reason;
      else own.set(promptTokens, sizing);
    }
  }
  for (let round = 0; round < cell.rounds; round++) {
    say(`round ${round + 1} of ${cell.rounds}`);
    const disturbed = await gate();
    for (const runner of turned(runners, round)) {
      for (const [size, sizing] of sizings.get(runner) ?? []) {
        if (round >= sizing.rounds) continue;
        const { promptTokens, decodeTokens } = sizing;
        const prompt = promptOf(promptTokens, round * 7 + size, model.vocabularySize);
        await attempt(runner, `prompt ${size}`, async () => {
          const { pass, busy } = await timed(runner, cell, { prompt, decodeTokens, keep: false });
          const marked = disturbed || busy;
          add(runner.prefill, size, promptTokens, rate(pass, "prompt"), marked);
          runner.firstTokenMs[size] = [...(runner.firstTokenMs[size] ?? []), pass.firstTokenMs];
          if (decodeTokens > 0) add(runner.decode, size, promptTokens, rate(pass, "decode"), marked);
        });
      }
    }
  }
}

/** Decoding behind a long text, which each engine reads once and then keeps, if that takes no more than half of its time. */
async function measureContext(
  context: number,
  cell: Cell,
  model: BenchModel,
  runners: readonly Runner[],
  gate: () => Promise<boolean>,
  say: Say,
): Promise<void> {
  const prompt = promptOf(context, 9996, model.vocabularySize);
  const ready: Runner[] = [];
  for (const runner of runners) {
    const wanted = { promptTokens: context, decodeTokens: cell.decodeTokens, rounds: 1 };
    const sizing = sizePasses(wanted, runner.rates, limitOf(runner, cell) / 2, false);
    if ("reason" in sizing) {
      runner.omitted[`context ${context}`] = sizing.reason;
      continue;
    }
    if (runner.failed) continue;
    say(`${titleOf(runner)} reads ${context} tokens`);
    await attempt(runner, `context ${context}`, async () => {
      await runner.contestant.pass({ prompt, decodeTokens: 4, keep: true });
      ready.push(runner);
    });
  }
  for (let round = 0; round < cell.rounds; round++) {
    say(`round ${round + 1} of ${cell.rounds} at ${context} tokens`);
    const disturbed = await gate();
    for (const runner of turned(ready, round)) {
      const request = { prompt, decodeTokens: cell.decodeTokens, keep: true };
      await attempt(runner, `context ${context}`, async () => {
        const { pass, busy } = await timed(runner, cell, request);
        if (pass.promptTokens > context / 4)
          throw new Error(`it read ${pass.promptTokens} tokens again that it should have kept`);
        add(runner.decode, context, context, rate(pass, "decode"), disturbed || busy);
      });
    }
  }
}

async function timed(
  { contestant }: Runner,
  { threads }: Cell,
  request: PassRequest,
): Promise<{ pass: Pass; busy: boolean }> {
  const before = coreTimes();
  const pass = await contestant.pass(request);
  return { pass, busy: crowded(busyShare(before), cpus().length, threads) };
}

/** Each round begins with another engine. */
function turned(runners: readonly Runner[], round: number): Runner[] {
  const from = runners.length === 0 ? 0 : round % runners.length;
  return [...runners.slice(from), ...runners.slice(0, from)];
}

function add(
  series: Record<string, Series>,
  key: number,
  tokens: number,
  sample: number,
  disturbed: boolean,
): void {
  const { samples = [], disturbed: marks = [] } = series[key] ?? {};
  series[key] = { tokens, samples: [...samples, round(sample)], disturbed: [...marks, disturbed] };
}

function rate(pass: Pass, part: "prompt" | "decode"): number {
  return part === "prompt"
    ? tokensPerSecond(pass.promptTokens, pass.promptMs)
    : tokensPerSecond(pass.decodedTokens, pass.decodeMs);
}

function resultOf(runner: Runner): EngineResult {
  const { name, contestant, prefill, decode, omitted } = runner;
  const peak = contestant.peakMemoryBytes();
  const { downloadBytes } = contestant;
  return {
    name,
    version: contestant.version,
    description: contestant.description,
    loadMs: runner.loadMs.map(round),
    openToFirstTokenMs: runner.openToFirstTokenMs.map(round),
    ...(peak !== undefined && { peakMemoryBytes: peak }),
    ...(downloadBytes !== undefined && { downloadBytes }),
    prefill,
    firstTokenMs: Object.fromEntries(
      Object.entries(runner.firstTokenMs).map(([size, samples]) => [size, samples.map(round)]),
    ),
    decode,
    omitted,
  };
}

function limitOf({ name }: Runner, { limitMs }: Cell): number {
  return limitMs * (engines[name]?.share ?? 1);
}

function titleOf({ name }: Runner): string {
  return engines[name]?.title ?? name;
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}
