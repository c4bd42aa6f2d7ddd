import { type ChatMessage, type ChatTemplateOptions, LowbitError } from "@lowbit/core";
import { formatTime } from "./format-time.ts";
import { TemplateBudget, templateOverBudget } from "./template-budget.ts";
import { BudgetedInterpreter } from "./template-interpreter.ts";
import { parseTemplate, Scope } from "./template-library.ts";
import { planTemplate, type TemplatePlan } from "./template-plan.ts";

/** The vocabulary's special tokens, written out; a template sees them as `bos_token`, `eos_token`, … */
export interface ChatTemplateTokens {
  readonly bos?: string | undefined;
  readonly eos?: string | undefined;
  readonly unknown?: string | undefined;
  readonly padding?: string | undefined;
}

export type ChatRenderer = (messages: readonly ChatMessage[], options?: ChatTemplateOptions) => string;

// Several times the longest template in use; made of one-character tokens it parses into about 20 MiB.
const maxSource = 128 * 1024;
// The lexer's search for the `generation` tag is quadratic in a run of white space.
const maxWhitespaceWork = 1 << 24;
const baseSteps = 1 << 18;
const baseCharacters = 1 << 22;
// A budget that grows with the messages lets a long conversation pass and keeps the work linear in its length.
const stepsPerValue = 512;
const passesOverInput = 100;
const maxInputDepth = 100;

/**
 * Compiles a model's Jinja chat template into a function from messages to prompt text, with blocks trimmed as
 * Transformers does.
 *
 * The template is data from outside: it runs without access to anything but its variables, under a budget of
 * steps, characters and nesting that grows with the messages. The messages are only ever values; what looks like
 * a tag in them stays text. Parsing waits for the first rendering, so a model with a broken template still loads.
 *
 * The template sees `messages`, `tools`, `documents`, `add_generation_prompt`, the special tokens ("" where the
 * vocabulary has no begin or end token), `raise_exception`, `range`, `namespace`, `strftime_now` (UTC, from
 * `options.now`) and `options.variables`.
 *
 * @throws LowbitError `bad-argument` when rendering, with reason "template-syntax" (does not parse),
 * "template-raised" (the template refuses the messages; its own words are in the message), "template-failed" (any
 * other fault of the template), "template-budget" (too long, too deep, too much work or output) or
 * "template-input" (messages, tools or variables that are not plain data).
 */
export function chatTemplate(source: string, tokens: ChatTemplateTokens = {}): ChatRenderer {
  let plan: TemplatePlan | undefined;
  return (messages, options = {}) => {
    plan ??= compile(source);
    return render(plan, tokens, messages, options);
  };
}

function compile(source: string): TemplatePlan {
  if (source.length > maxSource)
    throw templateOverBudget(`it is ${source.length} characters long, more than ${maxSource}`);
  let whitespaceWork = 0;
  for (const { 0: run } of source.matchAll(/\s+/g)) whitespaceWork += run.length ** 2;
  if (whitespaceWork > maxWhitespaceWork) throw templateOverBudget("it holds too long runs of white space");
  try {
    return planTemplate(parseTemplate(source));
  } catch (error) {
    if (isExhaustion(error)) throw templateOverBudget("it nests too deep to be parsed");
    // The parser runs off the end of its tokens when a block stays open.
    const message = error instanceof TypeError ? "it ends inside a block or an expression" : messageOf(error);
    throw new LowbitError("bad-argument", `The chat template does not parse: ${message}.`, {
      plugin: "tokenizers",
      reason: "template-syntax",
      hint: "Correct the template, or give the model another one.",
      cause: error,
    });
  }
}

function render(
  plan: TemplatePlan,
  tokens: ChatTemplateTokens,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
): string {
  if (!Array.isArray(messages)) throw badInput(`messages are ${typeof messages}, not an array`);
  for (const [index, message] of messages.entries())
    if (typeof message !== "object" || message === null || typeof message.role !== "string")
      throw badInput(`message ${index} is not an object with a string as its role`);
  const variables = options.variables ?? {};
  const now = options.now ?? new Date();
  if (Number.isNaN(now.getTime())) throw badInput("`now` is not a valid time");
  const input = { values: 0, characters: 0 };
  measure([messages, options.tools ?? [], variables], "input", 0, input);

  const budget = new TemplateBudget({
    steps: baseSteps + stepsPerValue * input.values,
    characters: baseCharacters + passesOverInput * input.characters,
  });
  const fixed: Record<string, unknown> = {
    messages,
    // Transformers gives None where there are none, and templates ask for that.
    tools: options.tools ?? null,
    documents: null,
    add_generation_prompt: options.addGenerationPrompt ?? true,
    range: (...bounds: unknown[]) => range(budget, bounds),
    raise_exception: raise,
    strftime_now: (format: unknown) => {
      if (typeof format !== "string") throw new Error("strftime_now takes a format string");
      budget.charge(1, format.length * 8);
      return formatTime(now, format);
    },
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
  };
  const replaceable: Record<string, unknown> = { bos_token: tokens.bos ?? "", eos_token: tokens.eos ?? "" };
  if (tokens.unknown !== undefined) replaceable.unk_token = tokens.unknown;
  if (tokens.padding !== undefined) replaceable.pad_token = tokens.padding;
  const scope = new Scope();
  for (const [name, value] of Object.entries(fixed)) scope.set(name, value);
  for (const [name, value] of Object.entries(replaceable))
    if (!Object.hasOwn(variables, name)) scope.set(name, value);
  for (const [name, value] of Object.entries(variables)) {
    if (name === "namespace" || (Object.hasOwn(fixed, name) && name !== "documents"))
      throw badInput(`the variable ${JSON.stringify(name)} belongs to the renderer`);
    scope.setVariable(name, new Scope().set("value", value));
  }
  try {
    return String(new BudgetedInterpreter(scope, plan, budget).run(plan.program).value);
  } catch (error) {
    if (LowbitError.is(error)) throw error;
    if (isExhaustion(error)) throw templateOverBudget(messageOf(error));
    throw new LowbitError("bad-argument", `The chat template failed: ${messageOf(error)}.`, {
      plugin: "tokenizers",
      reason: "template-failed",
      hint: "Check that the messages have the roles and fields that this model's template expects.",
      cause: error,
    });
  }
}

/** Counts what is handed to the template, and refuses what is not plain data or nests without end. */
function measure(
  value: unknown,
  where: string,
  depth: number,
  total: { values: number; characters: number },
) {
  total.values++;
  if (typeof value === "string") total.characters += value.length;
  if (typeof value === "function" || typeof value === "symbol" || typeof value === "bigint")
    throw badInput(`${where} holds a ${typeof value}`);
  if (typeof value !== "object" || value === null) return;
  if (depth > maxInputDepth) throw badInput(`the data nests more than ${maxInputDepth} levels deep`);
  if (!Array.isArray(value) && Symbol.iterator in value)
    throw badInput(
      `${where} holds a ${value.constructor?.name ?? "iterable"}, not an array or a plain object`,
    );
  for (const [key, item] of Object.entries(value)) {
    total.characters += key.length;
    measure(item, key.slice(0, 40), depth + 1, total);
  }
}

function range(budget: TemplateBudget, bounds: unknown[]): number[] {
  const [first, second, third] = bounds;
  const [start, stop, step] = bounds.length < 2 ? [0, first, 1] : [first, second, third ?? 1];
  if (
    !Number.isSafeInteger(start) ||
    !Number.isSafeInteger(stop) ||
    !Number.isSafeInteger(step) ||
    step === 0
  )
    throw new Error("range() takes whole numbers and a step other than 0");
  const [from, by] = [start as number, step as number];
  const count = Math.max(0, Math.ceil(((stop as number) - from) / by));
  budget.charge(2 * count);
  return Array.from({ length: count }, (_, index) => from + index * by);
}

function raise(message: unknown): never {
  const text = typeof message === "string" ? printable(message) : "(no message)";
  throw new LowbitError("bad-argument", `The chat template refuses the messages: ${text}`, {
    plugin: "tokenizers",
    reason: "template-raised",
  });
}

function badInput(what: string): LowbitError {
  return new LowbitError("bad-argument", `A chat template cannot be rendered: ${what}.`, {
    plugin: "tokenizers",
    reason: "template-input",
    hint: "Pass messages, tools and variables as plain JSON-like data.",
  });
}

/** Stack or string exhaustion as the engines report it. */
function isExhaustion(error: unknown): boolean {
  return error instanceof RangeError || (error instanceof Error && error.name === "InternalError");
}

function messageOf(error: unknown): string {
  return printable(error instanceof Error ? error.message : String(error)).replace(/\.$/, "");
}

/** A template's words end up in logs and terminals: short, and without control characters. */
function printable(text: string): string {
  return text.slice(0, 500).replace(/[^\P{Cc}\n\t]/gu, "\uFFFD");
}
