import { LowbitError } from "@lowbit/core";
import type { TemplateValue } from "./template-library.ts";

/** What one rendering may cost. */
export interface TemplateLimits {
  /** Nodes evaluated, plus list elements copied, plus a fixed price for work that one node hides. */
  readonly steps: number;
  /** UTF-16 units read or copied; also the longest string that may come into being. */
  readonly characters: number;
}

export function templateOverBudget(what: string): LowbitError {
  return new LowbitError("bad-argument", `The chat template runs over its budget: ${what}.`, {
    plugin: "tokenizers",
    reason: "template-budget",
    hint: "Use another template, or fewer and shorter messages.",
  });
}

/** The price list, and what is left to spend in one rendering. */
export class TemplateBudget {
  readonly limits: TemplateLimits;
  #steps: number;
  #characters: number;

  constructor(limits: TemplateLimits) {
    this.limits = limits;
    this.#steps = limits.steps;
    this.#characters = limits.characters;
  }

  /** Takes from the budget. Throws `bad-argument`, reason "template-budget", when it is spent. */
  charge(steps: number, characters = 0): void {
    this.#steps -= steps;
    this.#characters -= characters;
    // Negated, so that NaN fails too.
    if (!(this.#steps >= 0)) throw templateOverBudget(`it takes more than ${this.limits.steps} steps`);
    if (!(this.#characters >= 0))
      throw templateOverBudget(`it handles more than ${this.limits.characters} characters`);
  }

  /** Prices a filter or a method by the sizes of what it works on. */
  chargeOperation(
    name: string,
    self: TemplateValue,
    args: readonly TemplateValue[],
    keywords: ReadonlyMap<string, TemplateValue>,
  ): void {
    const content: unknown = self.value;
    const size = sizeOf(self);
    if (typeof content === "string") this.charge(1, content.length);
    const argument = (index: number, keyword: string): unknown =>
      (args[index] ?? keywords.get(keyword))?.value;
    const textArgument = (index: number, keyword: string): string => {
      const value = argument(index, keyword);
      return typeof value === "string" ? value : "";
    };
    switch (name) {
      case "tojson": {
        const { nodes, depth } = this.weigh(self);
        const indent = numberOf(argument(-1, "indent"), 0);
        const separators = argument(-1, "separators");
        let padding = indent * (depth + 1);
        if (Array.isArray(separators))
          for (const item of separators as TemplateValue[]) padding += textLength(item);
        this.charge(0, nodes * padding);
        return;
      }
      case "string":
        this.weigh(self);
        return;
      case "join": {
        // Joining a string takes it apart into one string per character.
        const pieces = typeof content === "string" ? content.length : size;
        if (typeof content === "string") this.charge(0, pieces * 8);
        else this.weigh(self);
        this.charge(0, pieces * textArgument(0, "separator").length);
        return;
      }
      case "indent": {
        if (typeof content !== "string") return;
        const lines = 1 + countOf(content, "\n");
        this.charge(lines, lines * numberOf(argument(0, "width"), 4));
        return;
      }
      case "split": {
        if (typeof content !== "string") return;
        const separator = textArgument(0, "sep");
        if (separator === "") this.charge(content.length);
        else this.charge(2 * this.chargeSearch(content, separator));
        return;
      }
      case "replace": {
        if (typeof content !== "string") return;
        const matches = this.chargeSearch(content, textArgument(0, "old"));
        this.charge(matches, matches * textArgument(1, "new").length);
        return;
      }
      case "startswith":
      case "endswith":
        if (Array.isArray(args[0]?.value))
          for (const item of args[0].value as TemplateValue[]) this.charge(1, textLength(item));
        return;
      case "sort":
      case "dictsort": {
        const rounds = 2 * Math.ceil(Math.log2(size + 2));
        const { characters } = this.weigh(self);
        this.charge(size * rounds * (1 + textArgument(2, "attribute").length / 8), characters * rounds);
        return;
      }
      case "selectattr":
      case "rejectattr":
        this.charge(size);
        for (const item of Array.isArray(content) ? (content as TemplateValue[]) : []) {
          const attributes: unknown = item.value;
          if (attributes instanceof Map) this.charge(0, textLength(attributes.get(textArgument(0, ""))));
        }
        return;
      case "map":
        this.charge(size * (1 + textArgument(-1, "attribute").length / 8));
        return;
      case "unique":
        for (const item of Array.isArray(content) ? (content as TemplateValue[]) : [])
          this.charge(1, textLength(item));
        return;
      case "items":
        this.charge(size * 4);
        return;
      case "keys":
      case "values":
      case "reverse":
        this.charge(size);
        return;
    }
  }

  chargeNamespace(source: TemplateValue | undefined): void {
    if (source === undefined) return;
    this.charge(sizeOf(source));
    // A pair may be written as a string of two characters; the library takes any string apart to see.
    const pairs: unknown = source.value;
    for (const item of Array.isArray(pairs) ? (pairs as TemplateValue[]) : [])
      this.charge(0, textLength(item) * 8);
  }

  /** Prices the search of `needle` in `text`, whose worst case is their product, and counts what it finds. */
  chargeSearch(text: string, needle: string): number {
    this.charge(1, text.length * Math.max(1, needle.length / 4));
    return countOf(text, needle);
  }

  /**
   * Prices printing a value. A list that holds another twice, and so on for forty levels, is small until it is
   * printed: so every occurrence is walked and paid for, and a list that holds itself spends the budget.
   */
  weigh(root: TemplateValue): { nodes: number; characters: number; depth: number } {
    const total = { nodes: 0, characters: 0, depth: 0 };
    const pending: { value: TemplateValue; depth: number }[] = [{ value: root, depth: 0 }];
    for (let entry = pending.pop(); entry !== undefined; entry = pending.pop()) {
      const { value, depth } = entry;
      const content: unknown = value.value;
      if (value.type === "FunctionValue") throw new Error("a function cannot be printed");
      let characters = typeof content === "string" ? content.length : 4;
      if (content instanceof Map) for (const key of content.keys()) characters += (key as string).length;
      this.charge(1 + sizeOf(value), characters);
      total.nodes++;
      total.characters += characters;
      total.depth = Math.max(total.depth, depth);
      if (Array.isArray(content) || content instanceof Map)
        for (const child of content.values())
          pending.push({ value: child as TemplateValue, depth: depth + 1 });
    }
    return total;
  }
}

/** Elements of a list or entries of a mapping, 0 for anything else. */
export function sizeOf(value: TemplateValue): number {
  const content: unknown = value.value;
  if (Array.isArray(content)) return content.length;
  return content instanceof Map ? content.size : 0;
}

function textLength(value: TemplateValue | undefined): number {
  const content: unknown = value?.value;
  return typeof content === "string" ? content.length : 0;
}

function numberOf(value: unknown, otherwise: number): number {
  if (typeof value !== "number") return otherwise;
  if (value < 0) throw new Error("an indent cannot be negative");
  return value;
}

function countOf(text: string, needle: string): number {
  if (needle === "") return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) count++;
  return count;
}
