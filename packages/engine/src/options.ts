import { type GenerateRequest, type KvType, LowbitError, type Plugin } from "@lowbit/core";
import { randomSeed } from "./random.ts";
import type { SamplingSettings } from "./sampler.ts";
import { listText } from "./text.ts";

export interface LoadProgress {
  /** open: finding out what the files are; weights: reading and handing over; ready: done. */
  readonly phase: "open" | "weights" | "ready";
  /** Bytes of the file's weights that the backend has. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** The weight that was just handed over, e.g. "layers.3.attn.q". */
  readonly role?: string;
}

export interface LoadOptions {
  /** Name of a backend, or "auto" for the first that runs here. @default "auto" */
  backend?: "auto" | (string & {});
  /** Most tokens of one text, prompt and answer. @default the model's own, at most 4,096, and no more than fits */
  contextLength?: number;
  /** How keys and values are kept. @default "f16" */
  kvCache?: KvType;
  /** Full contexts that the cache holds, for generations that run at the same time. @default 1 */
  sequences?: number;
  /** Memory that the model may take. @default the platform's */
  memoryLimitBytes?: number;
  /** Asked before the engine's own. */
  plugins?: readonly Plugin[];
  /** Run two tokens once the model is loaded, and refuse it if nothing sensible comes out. @default true */
  selfCheck?: boolean;
  signal?: AbortSignal;
  onProgress?: (progress: LoadProgress) => void;
}

/** A check of one option's value: undefined, or what is allowed. */
export type Rule = (value: unknown) => string | undefined;
type Rules<T> = { readonly [Name in keyof Required<T>]: Rule };

const integer =
  (low: number, high: number): Rule =>
  (value) =>
    Number.isInteger(value) && (value as number) >= low && (value as number) <= high
      ? undefined
      : high >= 2 ** 31 - 1
        ? `a whole number from ${low}`
        : `a whole number from ${low} to ${high}`;

const number =
  (low: number, high: number, text = `a number from ${low} to ${high}`): Rule =>
  (value) =>
    typeof value === "number" && value >= low && value <= high ? undefined : text;

const boolean: Rule = (value) => (typeof value === "boolean" ? undefined : "true or false");
const anyFunction: Rule = (value) => (typeof value === "function" ? undefined : "a function");
const array: Rule = (value) => (Array.isArray(value) ? undefined : "an array");
const text: Rule = (value) => (typeof value === "string" ? undefined : "a string");
/** For options tables elsewhere. */
export const isSignal: Rule = (value) =>
  typeof value === "object" && value !== null && "aborted" in value ? undefined : "an AbortSignal";
const oneOf =
  (...names: string[]): Rule =>
  (value) =>
    names.includes(value as string) ? undefined : `one of ${listText(names)}`;

const largest = Number.MAX_SAFE_INTEGER;

const samplingRules = {
  temperature: number(0, 100),
  topK: integer(0, 2 ** 31 - 1),
  topP: number(0, 1),
  minP: number(0, 1),
  typicalP: number(0, 1),
  repetitionPenalty: number(0.01, 100),
  presencePenalty: number(-100, 100),
  frequencyPenalty: number(-100, 100),
  penaltyWindow: integer(-1, 2 ** 31 - 1),
  logitBias: biasRule,
  seed: integer(0, largest),
} as const;

const generateRules: Rules<GenerateRequest> = {
  ...samplingRules,
  prompt: (value) =>
    typeof value === "string" || (Array.isArray(value) && value.every((id) => Number.isInteger(id)))
      ? undefined
      : "a string or an array of token ids",
  messages: messagesRule,
  tools: array,
  maxTokens: integer(1, largest),
  stop: (value) =>
    Array.isArray(value) &&
    value.length <= 64 &&
    value.every((stop) => typeof stop === "string" && stop !== "" && stop.length <= 1024)
      ? undefined
      : "an array of at most 64 strings, each of 1 to 1024 characters",
  logprobs: boolean,
  signal: isSignal,
};

const loadRules: Rules<LoadOptions> = {
  backend: text,
  contextLength: integer(1, largest),
  kvCache: oneOf("f32", "f16", "q8_0"),
  sequences: integer(1, 1024),
  memoryLimitBytes: integer(1, largest),
  plugins: array,
  selfCheck: boolean,
  signal: isSignal,
  onProgress: anyFunction,
};

/** A request whose every value has been checked, defaults filled in. */
export interface GenerateSettings {
  readonly sampling: SamplingSettings;
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly logprobs: boolean;
  readonly signal: AbortSignal | undefined;
}

export function checkLoadOptions(options: LoadOptions): void {
  check("load", options, loadRules);
}

/** Throws `bad-argument` for a wrong value or an unknown name. */
export function generateSettings(
  call: string,
  request: GenerateRequest,
  vocabularySize: number,
): GenerateSettings {
  check(call, request, generateRules);
  if ((request.prompt === undefined) === (request.messages === undefined)) {
    throw new LowbitError("bad-argument", `${call} takes either prompt or messages.`, {
      reason: "prompt",
      hint: request.prompt === undefined ? "Give one of them." : "Leave one of them out.",
    });
  }
  if (request.tools !== undefined && request.messages === undefined) {
    throw new LowbitError("bad-argument", `${call}: tools go with messages, not with a prompt.`, {
      reason: "tools",
    });
  }
  for (const id of Object.keys(request.logitBias ?? {})) {
    if (Number(id) >= vocabularySize) {
      throw wrongValue(call, "logitBias", id, `token ids below ${vocabularySize}`);
    }
  }
  return {
    sampling: {
      temperature: request.temperature ?? 0.8,
      topK: request.topK ?? 40,
      topP: request.topP ?? 0.95,
      minP: request.minP ?? 0.05,
      typicalP: request.typicalP ?? 1,
      repetitionPenalty: request.repetitionPenalty ?? 1,
      presencePenalty: request.presencePenalty ?? 0,
      frequencyPenalty: request.frequencyPenalty ?? 0,
      penaltyWindow: request.penaltyWindow ?? 64,
      logitBias: request.logitBias ?? {},
      seed: request.seed ?? randomSeed(),
    },
    maxTokens: request.maxTokens ?? Number.POSITIVE_INFINITY,
    stop: request.stop ?? [],
    logprobs: request.logprobs ?? false,
    signal: request.signal,
  };
}

/** Checks `options` against a table of rules; undefined values count as absent. */
export function check<T extends object>(
  call: string,
  options: T,
  rules: Readonly<Record<string, Rule>>,
): void {
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw wrongValue(call, "options", options, "an object");
  }
  for (const [name, value] of Object.entries(options)) {
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (rule === undefined) {
      throw new LowbitError("bad-argument", `${call} has no option ${JSON.stringify(name)}.`, {
        reason: "unknown-option",
        hint: `It knows ${listText(Object.keys(rules), 40)}.`,
      });
    }
    const allowed = value === undefined ? undefined : rule(value);
    if (allowed !== undefined) throw wrongValue(call, name, value, allowed);
  }
}

/** "generate: temperature is -1; it must be a number from 0 to 100." */
export function wrongValue(call: string, name: string, value: unknown, allowed: string): LowbitError {
  return new LowbitError("bad-argument", `${call}: ${name} is ${show(value)}; it must be ${allowed}.`, {
    reason: name,
  });
}

function show(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint" || value === undefined) return String(value);
  if (typeof value === "function" || typeof value === "symbol") return `a ${typeof value}`;
  let shown: string;
  try {
    shown = JSON.stringify(value);
  } catch {
    return "an object that is not plain data";
  }
  return shown.length > 80 ? `${shown.slice(0, 77)}…` : shown;
}

function biasRule(value: unknown): string | undefined {
  const allowed =
    "an object of token id → number from -1000000 to 1000000, or -Infinity, which forbids the token";
  if (typeof value !== "object" || value === null || Array.isArray(value)) return allowed;
  const good = Object.entries(value).every(
    ([id, bias]) =>
      /^\d{1,9}$/.test(id) &&
      typeof bias === "number" &&
      (Math.abs(bias) <= 1e6 || bias === Number.NEGATIVE_INFINITY),
  );
  return good ? undefined : allowed;
}

function messagesRule(value: unknown): string | undefined {
  const good =
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((message: unknown) => {
      if (typeof message !== "object" || message === null) return false;
      const { role, content } = message as { role?: unknown; content?: unknown };
      return typeof role === "string" && typeof content === "string";
    });
  return good ? undefined : "a non-empty array of { role, content } with strings";
}
