import { type GenerateRequest, type KvType, LowbitError, type Plugin } from "@lowbit/core";
import type { Model } from "./model.ts";
import { randomSeed } from "./random.ts";
import type { SamplingSettings } from "./sampler.ts";
import { listText } from "./text.ts";

export interface LoadProgress {
  /**
   * open: finding out what the files are; download: a platform with a cache is fetching one of them; weights: reading and handing
   * over; ready: done.
   */
  readonly phase: "open" | "download" | "weights" | "ready";
  /** Bytes of the file's weights that the backend has; of the file, where it is downloaded. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** The weight that was just handed over, e.g. "layers.3.attn.q". */
  readonly role?: string;
  /** The file that is downloaded. */
  readonly file?: string;
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
  /**
   * Threads of the WebAssembly backend, at most as many as there are processors; results do not depend on it. "auto": as many as serve the model,
   * one where threads cannot share memory. @default "auto"
   */
  threads?: number | "auto";
  /** Memory that the model may take. @default the platform's */
  memoryLimitBytes?: number;
  /**
   * A smaller model of the same vocabulary: it guesses what comes next and this one checks the guesses in one pass, so that the same text
   * comes faster (`guessTokens`). It stays the caller's, to be disposed after this one; give it as many `sequences`.
   */
  draft?: Model;
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

/** For calls that take a prompt, too. */
export const requestRules: Rules<GenerateRequest> = {
  ...samplingRules,
  prompt: (value) =>
    typeof value === "string" || (Array.isArray(value) && value.every((id) => Number.isInteger(id)))
      ? undefined
      : "a string or an array of token ids",
  messages: messagesRule,
  tools: array,
  toolChoice: (value) =>
    ["auto", "none", "required"].includes(value as string) || typeof field(value, "name") === "string"
      ? undefined
      : '"auto", "none", "required" or { name }',
  responseFormat: formatRule,
  maxTokens: integer(1, largest),
  guessTokens: integer(0, 31),
  contextOverflow: oneOf("stop", "shift"),
  keepTokens: integer(0, largest),
  stop: (value) =>
    Array.isArray(value) &&
    value.length <= 64 &&
    value.every((stop) => typeof stop === "string" && stop !== "" && stop.length <= 1024)
      ? undefined
      : "an array of at most 64 strings, each of 1 to 1024 characters",
  logprobs: boolean,
  topLogprobs: integer(0, 100),
  signal: isSignal,
};

const loadRules: Rules<LoadOptions> = {
  backend: text,
  contextLength: integer(1, largest),
  kvCache: oneOf("f32", "f16", "q8_0"),
  sequences: integer(1, 1024),
  threads: (value) =>
    value === "auto" ? undefined : integer(1, 1024)(value) && 'a whole number from 1 to 1024, or "auto"',
  memoryLimitBytes: integer(1, largest),
  draft: (value) => (typeof field(value, "generate") === "function" ? undefined : "a loaded model"),
  plugins: array,
  selfCheck: boolean,
  signal: isSignal,
  onProgress: anyFunction,
};

/** A request whose every value has been checked, defaults filled in. */
export interface GenerateSettings {
  readonly sampling: SamplingSettings;
  readonly maxTokens: number;
  /** Absent: as the model was loaded. */
  readonly guessTokens: number | undefined;
  readonly contextOverflow: "stop" | "shift";
  /** Absent: the engine's choice. */
  readonly keepTokens: number | undefined;
  /** The answer may have to keep to a form. */
  readonly constrained: boolean;
  readonly stop: readonly string[];
  readonly logprobs: boolean;
  readonly topLogprobs: number;
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
  check(call, request, requestRules);
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
  const forced = ![undefined, "auto", "none"].includes(request.toolChoice as string | undefined);
  if (forced && request.tools === undefined) {
    throw new LowbitError("bad-argument", `${call}: toolChoice asks for a call, but there are no tools.`, {
      reason: "tools",
      hint: "Give tools, too.",
    });
  }
  if (request.topLogprobs !== undefined && request.topLogprobs > 0 && !request.logprobs) {
    throw wrongValue(call, "topLogprobs", request.topLogprobs, "0 where logprobs is not true");
  }
  if (request.keepTokens !== undefined && request.contextOverflow !== "shift") {
    throw wrongValue(call, "keepTokens", request.keepTokens, 'absent where contextOverflow is not "shift"');
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
    guessTokens: request.guessTokens,
    contextOverflow: request.contextOverflow ?? "stop",
    keepTokens: request.keepTokens,
    constrained: forced || (request.responseFormat ?? { type: "text" }).type !== "text",
    stop: request.stop ?? [],
    logprobs: request.logprobs ?? false,
    topLogprobs: request.topLogprobs ?? 0,
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

function formatRule(value: unknown): string | undefined {
  switch (field(value, "type")) {
    case "text":
    case "json_object":
      return undefined;
    case "json_schema": {
      const schema = field(value, "schema");
      const strict = field(value, "strict");
      const good = ["object", "boolean", "function"].includes(typeof schema) && schema !== null;
      if (good && (strict === undefined || typeof strict === "boolean")) return undefined;
      return '{ type: "json_schema", schema } with a JSON Schema, and strict true or false if it is there';
    }
    case "regex":
      return typeof field(value, "pattern") === "string" ? undefined : '{ type: "regex", pattern }';
    default:
      return 'an object with type "text", "json_object", "json_schema" or "regex"';
  }
}

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
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
