import { readFile } from "node:fs/promises";
import { LowbitError, perplexity } from "@lowbit/core";
import { Command } from "commander";
import type { Model } from "lowbit";
import { formatBytes, formatPairs } from "../format.ts";
import { type Io, writeJson } from "../io.ts";
import { interruptible, loadModel, modelLabel } from "../model.ts";
import { addCacheOption, addLoadOptions, type LoadFlags, parseCount } from "../options.ts";
import { createProgress } from "../progress.ts";

interface BenchFlags extends LoadFlags {
  readonly promptTokens: number;
  readonly tokens: number;
  readonly repeat: number;
  readonly perplexity?: string;
  readonly chunk: number;
  readonly json?: boolean;
}

export function benchCommand(io: Io): Command {
  const command = new Command("bench")
    .description("how fast a model loads, reads and writes, or its perplexity on a text")
    .argument("[model]", "file, folder, URL or hf:org/repository of a model (default: pico)")
    .option("--prompt-tokens <count>", "tokens to read", parseCount, 128)
    .option("--tokens <count>", "tokens to write", parseCount, 64)
    .option("--repeat <count>", "measured rounds, after one to warm up; medians are reported", parseCount, 3)
    .option("--perplexity <file>", "measure the perplexity on this text instead, as llama-perplexity does")
    .option("--chunk <tokens>", "tokens in a chunk of the perplexity measurement", parseCount, 256);
  return addCacheOption(addLoadOptions(command))
    .option("--json", "print one JSON object")
    .action((model: string | undefined, flags: BenchFlags) => bench(io, model, flags));
}

async function bench(io: Io, model: string | undefined, flags: BenchFlags): Promise<void> {
  await interruptible(io, async (signal) => {
    const started = performance.now();
    const loaded = await loadModel(io, model, withContext(flags), signal);
    const loadMs = performance.now() - started;
    try {
      if (flags.perplexity === undefined)
        await measureSpeed(io, loaded, modelLabel(model), loadMs, flags, signal);
      else await measurePerplexity(io, loaded, modelLabel(model), flags.perplexity, flags, signal);
    } finally {
      await loaded.dispose();
    }
  });
}

/** Room for what is measured, where the user asked for no other. */
function withContext(flags: BenchFlags): LoadFlags {
  const needed = flags.perplexity === undefined ? flags.promptTokens + flags.tokens : flags.chunk;
  return { ...flags, context: flags.context ?? needed };
}

interface Speeds {
  readonly promptTokensPerSecond: number;
  readonly tokensPerSecond: number;
}

async function measureSpeed(
  io: Io,
  model: Model,
  label: string,
  loadMs: number,
  flags: BenchFlags,
  signal: AbortSignal,
): Promise<void> {
  const progress = createProgress(io);
  const rounds: Speeds[] = [];
  for (let round = 0; round <= flags.repeat; round++) {
    progress.update("measuring", round, flags.repeat + 1, "rounds");
    const speeds = await measureRound(model, round, flags, signal);
    // The first round pays for the engine's compilers.
    if (round > 0) rounds.push(speeds);
  }
  progress.clear();
  const { info } = model;
  const result = {
    model: label,
    architecture: info.architecture,
    parameters: info.parameters,
    bitsPerWeight: info.bitsPerWeight,
    backend: info.backend,
    backendDescription: info.backendDescription,
    memoryBytes: info.plan.totalBytes,
    loadMs,
    promptTokens: flags.promptTokens,
    tokens: flags.tokens,
    promptTokensPerSecond: median(rounds.map((round) => round.promptTokensPerSecond)),
    tokensPerSecond: median(rounds.map((round) => round.tokensPerSecond)),
    rounds,
  };
  if (flags.json) return writeJson(io, result);
  const spread = (values: number[]) =>
    `${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)}`;
  const speed = (name: keyof Speeds) =>
    `${result[name].toFixed(1)} tokens/s (${spread(rounds.map((round) => round[name]))})`;
  io.stdout.write(
    `${formatPairs([
      ["model", `${label}, ${info.architecture}, ${info.bitsPerWeight.toFixed(2)} bits per weight`],
      ["backend", `${info.backend} (${info.backendDescription}), ${formatBytes(info.plan.totalBytes)}`],
      ["load", `${loadMs.toFixed(0)} ms`],
      [`read ${flags.promptTokens}`, speed("promptTokensPerSecond")],
      [`write ${flags.tokens}`, speed("tokensPerSecond")],
    ])}\n`,
  );
}

/** A fixed prompt that no earlier round has left in the cache, and tokens that no end token cuts short. */
async function measureRound(
  model: Model,
  round: number,
  flags: BenchFlags,
  signal: AbortSignal,
): Promise<Speeds> {
  const { vocabularySize } = model.info;
  const logitBias = Object.fromEntries(
    [...model.tokenizer.endTokens].map((id) => [id, Number.NEGATIVE_INFINITY]),
  );
  const prompt = Array.from(
    { length: flags.promptTokens },
    (_, index) => (index * 7919 + (round + 1) * 104_729) % vocabularySize,
  );
  // The first token comes from the prompt's own logits: one more than is measured.
  const request = { prompt, maxTokens: flags.tokens + 1, temperature: 0, logitBias, signal };
  const { timings } = await model.complete(request);
  return {
    promptTokensPerSecond: timings.promptTokensPerSecond,
    tokensPerSecond: (flags.tokens * 1000) / timings.generateMs,
  };
}

async function measurePerplexity(
  io: Io,
  model: Model,
  label: string,
  file: string,
  flags: BenchFlags,
  signal: AbortSignal,
): Promise<void> {
  const text = await readText(file);
  const { tokenizer } = model;
  const progress = createProgress(io);
  const begins = tokenizer.bos !== undefined && tokenizer.encode("")[0] === tokenizer.bos;
  const result = await perplexity(
    (tokens, from, to) => model.forward(tokens, { rows: [from, to], signal }),
    tokenizer.encode(text),
    {
      context: flags.chunk,
      ...(begins ? { bos: tokenizer.bos as number } : {}),
      signal,
      onProgress: ({ chunk, chunks }) => progress.update("measuring", chunk, chunks, "chunks"),
    },
  ).finally(() => progress.clear());
  if (flags.json) return writeJson(io, { model: label, file, chunkTokens: flags.chunk, ...result });
  const { chunks, standardError, scoredTokens } = result;
  const value = `${result.perplexity.toFixed(4)} ± ${standardError.toFixed(4)}`;
  io.stdout.write(`perplexity ${value} (${scoredTokens} tokens, ${chunks} chunks of ${flags.chunk})\n`);
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw new LowbitError("not-found", `The text ${file} cannot be read.`, {
      reason: "missing-file",
      cause: error,
    });
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] as number) + (sorted[Math.ceil(middle)] as number)) / 2;
}
