import { type Command, InvalidArgumentError, Option } from "commander";
import type { SamplingOptions } from "lowbit";

/** A finite number as people write it; its range is the engine's affair. */
export function parseNumber(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

export function parseInteger(text: string): number {
  const value = parseNumber(text);
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError("It must be a whole number.");
  return value;
}

/** A whole number of at least one. */
export function parseCount(text: string): number {
  const value = parseInteger(text);
  if (value < 1) throw new InvalidArgumentError("It must be at least 1.");
  return value;
}

function collect(value: string, previous: readonly string[] = []): string[] {
  return [...previous, value];
}

function collectBias(text: string, previous: Readonly<Record<number, number>> = {}): Record<number, number> {
  const match = /^(\d+)=(.+)$/.exec(text);
  if (match === null)
    throw new InvalidArgumentError("It is written <token id>=<number>, for example 17=-2.5.");
  return { ...previous, [parseInteger(match[1] as string)]: parseNumber(match[2] as string) };
}

/** Options of every command that loads a model. */
export interface LoadFlags {
  readonly backend: string;
  readonly context?: number;
  readonly kv?: "f32" | "f16" | "q8_0";
  readonly threads?: number;
  readonly cache?: boolean;
}

/** For commands that read weights. */
export function addCacheOption(command: Command): Command {
  return command.option("--no-cache", "read what is remote from where it is, keeping nothing");
}

/** For commands that write text. */
export interface DraftFlags {
  readonly draft?: string;
}

export function addDraftOption(command: Command): Command {
  return command.option(
    "--draft <model>",
    "a smaller model of the same vocabulary that guesses ahead: the same text, sooner",
  );
}

export function addLoadOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--backend <name>", "what runs the model")
        .choices(["auto", "wasm", "reference"])
        .default("auto"),
    )
    .option(
      "-c, --context <tokens>",
      "tokens of context to make room for (default: what fits, up to 4096)",
      parseCount,
    )
    .addOption(
      new Option("--kv <type>", "number type of the key/value cache").choices(["f32", "f16", "q8_0"]),
    )
    .option(
      "--threads <count>",
      "threads that compute, at most one for each processor (default: what serves the model)",
      parseCount,
    );
}

/** Flags of `addSamplingOptions`, as the parser names them. */
export interface SamplingFlags extends Omit<SamplingOptions, "logitBias"> {
  readonly logitBias?: Record<number, number>;
  readonly maxTokens?: number;
  readonly guessTokens?: number;
  readonly contextOverflow?: "stop" | "shift";
  readonly keepTokens?: number;
  readonly stop?: string[];
}

export function addSamplingOptions(command: Command): Command {
  return command
    .option("-n, --max-tokens <count>", "end after so many tokens", parseCount)
    .option("-t, --temperature <number>", "0 always takes the likeliest token (default: 0.8)", parseNumber)
    .option("--seed <number>", "same seed, same text (default: a random one)", parseInteger)
    .option("--top-k <count>", "keep the k likeliest tokens; 0 keeps all (default: 40)", parseInteger)
    .option("--top-p <share>", "keep the smallest set with this probability (default: 0.95)", parseNumber)
    .option(
      "--min-p <share>",
      "keep tokens at least this share as likely as the best (default: 0.05)",
      parseNumber,
    )
    .option("--typical-p <share>", "locally typical sampling; 1 is off (default: 1)", parseNumber)
    .option(
      "--repetition-penalty <number>",
      "divides the logits of recent tokens; 1 is off (default: 1)",
      parseNumber,
    )
    .option("--presence-penalty <number>", "subtracted once from tokens seen (default: 0)", parseNumber)
    .option(
      "--frequency-penalty <number>",
      "subtracted for each time a token was seen (default: 0)",
      parseNumber,
    )
    .option(
      "--penalty-window <tokens>",
      "tokens the penalties look back over; -1 is all (default: 64)",
      parseInteger,
    )
    .option("--logit-bias <id=number>", "add to the logit of a token (repeatable)", collectBias)
    .option(
      "--guess-tokens <count>",
      "guess so many tokens ahead, from the text so far or with the draft (default: 0, with a draft 4)",
      parseInteger,
    )
    .addOption(
      new Option("--context-overflow <how>", "where the context is full (default: stop)").choices([
        "stop",
        "shift",
      ]),
    )
    .option("--keep-tokens <count>", "tokens of the beginning that a shift keeps (default: 4)", parseInteger)
    .option("--stop <text>", "end before this text (repeatable)", collect);
}

const samplingNames = [
  "temperature",
  "topK",
  "topP",
  "minP",
  "typicalP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "penaltyWindow",
  "logitBias",
  "seed",
  "maxTokens",
  "guessTokens",
  "contextOverflow",
  "keepTokens",
  "stop",
] as const;

/** Only what was given: the engine has the defaults. */
export function samplingOf(flags: SamplingFlags): SamplingFlags {
  return Object.fromEntries(
    samplingNames.filter((name) => flags[name] !== undefined).map((name) => [name, flags[name]]),
  );
}
