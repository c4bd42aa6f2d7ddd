import type { Tokenizer } from "@lowbit/core";

/** How a family of models writes tool calls. */
export interface Dialect {
  readonly name: string;
  /** What begins a section of calls; empty where the answer itself is the call. */
  readonly opens: readonly string[];
  /** What ends one; a section without end goes on to the end of the answer. */
  readonly closes: readonly string[];
  /** Passed over between calls, beside white space and `, ; [ ]`. A call without marks may stand in a fence. */
  readonly fillers: readonly string[];
  /** Name of the arguments' key where calls are objects. */
  readonly argumentsKey: "arguments" | "parameters";
  /** The tool's name in what stands before the arguments, where calls are no objects with a name. */
  nameOf?(header: string): string;
  /** An answer that is nothing but a JSON object may be a call. */
  readonly bare?: boolean;
  /** Arguments are not JSON, but bare keys, and strings between two of these. */
  readonly quote?: string;
  /** How forced calls are written; JSON objects where nothing is said. `\n?` is an optional line break. */
  readonly forced: {
    /** Around all calls. */
    readonly section?: readonly [readonly string[], readonly string[]];
    /** Around each call. */
    readonly call?: readonly [readonly string[], readonly string[]];
    /** Between name and arguments, where a call is no object. */
    readonly between?: readonly string[];
    /** Before a further call; without it there is only one. */
    readonly separator?: readonly string[];
  };
}

const begin = "<｜tool▁calls▁begin｜>";
const end = "<｜tool▁calls▁end｜>";
const callBegin = "<｜tool▁call▁begin｜>";
const callEnd = "<｜tool▁call▁end｜>";
const separator = "<｜tool▁sep｜>";

export const generic: Dialect = {
  name: "json",
  opens: [],
  closes: [],
  fillers: [],
  argumentsKey: "arguments",
  bare: true,
  forced: {},
};

/** What dialects with marks have in common. */
const marks = { closes: [], fillers: [], argumentsKey: "arguments" } as const;

const hermes: Dialect = {
  ...marks,
  name: "hermes",
  opens: ["<tool_call>"],
  closes: ["</tool_call>"],
  forced: {
    call: [
      ["<tool_call>", "\n?"],
      ["\n?", "</tool_call>"],
    ],
    separator: ["\n?"],
  },
};

const llama: Dialect = {
  ...generic,
  name: "llama",
  opens: ["<|python_tag|>"],
  fillers: [],
  argumentsKey: "parameters",
};

const mistral: Dialect = {
  ...marks,
  name: "mistral",
  opens: ["[TOOL_CALLS]"],
  fillers: ["[TOOL_CALLS]"],
  nameOf: (header) => header.split(/\[(?:CALL_ID|ARGS)\]/)[0] ?? "",
  forced: { section: [["[TOOL_CALLS]", "["], ["]"]], separator: [", "] },
};

const mistralNamed: Dialect = {
  ...mistral,
  name: "mistral, names",
  forced: { call: [["[TOOL_CALLS]"], []], between: ["[ARGS]"], separator: [] },
};

const deepseek: Dialect = {
  ...marks,
  name: "deepseek",
  opens: [begin, callBegin],
  closes: [end],
  fillers: [callBegin, callEnd, "```"],
  nameOf(header) {
    const [before = "", after = ""] = header.split(separator);
    return after.trim() === "" ? before : (after.trim().split("\n")[0] ?? "");
  },
  forced: { section: [[begin], [end]], call: [[callBegin], [callEnd]], between: [separator], separator: [] },
};

const deepseekFenced: Dialect = {
  ...deepseek,
  name: "deepseek, fenced",
  forced: {
    section: [[begin], [end]],
    call: [
      [callBegin, "function", separator],
      ["\n```", callEnd],
    ],
    between: ["\n```json\n"],
    separator: ["\n?"],
  },
};

const phi: Dialect = {
  ...marks,
  name: "phi",
  opens: ["<|tool_call|>", "functools"],
  closes: ["<|/tool_call|>"],
  forced: {
    section: [
      ["<|tool_call|>", "["],
      ["]", "<|/tool_call|>"],
    ],
    separator: [", "],
  },
};

/** Forced calls are JSON: the schema's automaton knows no other writing. */
const gemma: Dialect = {
  ...marks,
  name: "gemma",
  opens: ["<start_function_call>"],
  closes: ["<end_function_call>"],
  nameOf: (header) => header.replace(/^call:/, ""),
  quote: "<escape>",
  forced: generic.forced,
};

const gemma4: Dialect = {
  ...gemma,
  name: "gemma 4",
  opens: ["<|tool_call>"],
  closes: ["<tool_call|>"],
  quote: '<|"|>',
};

/** The first whose sign occurs in the chat template, else in the vocabulary. */
const signs: readonly (readonly [Dialect, ...string[]])[] = [
  [gemma, "<start_function_call>"],
  [gemma4, "<|tool_call>"],
  [deepseek, begin],
  [mistralNamed, "[ARGS]"],
  [mistral, "[TOOL_CALLS]"],
  [phi, "<|tool_call|>", "<|tool|>"],
  [hermes, "<tool_call>"],
  [llama, "<|python_tag|>", "Environment: ipython"],
];

export function dialectOf(tokenizer: Tokenizer): Dialect {
  const template = tokenizer.chatTemplate ?? "";
  if (template.includes(begin)) return template.includes("```json") ? deepseekFenced : deepseek;
  const written = signs.find(([, ...marks]) => marks.some((mark) => template.includes(mark)));
  const known =
    written ?? signs.find(([, ...marks]) => marks.some((mark) => tokenizer.id(mark) !== undefined));
  return known?.[0] ?? generic;
}

/** Marks around reasoning; the pair that the model knows. */
export function reasoningMarks(tokenizer: Tokenizer): readonly [string, string] | undefined {
  const pairs = [
    ["<think>", "</think>"],
    ["[THINK]", "[/THINK]"],
  ] as const;
  return pairs.find(
    ([open, close]) =>
      tokenizer.chatTemplate?.includes(close) ||
      (tokenizer.id(open) !== undefined && tokenizer.id(close) !== undefined),
  );
}
