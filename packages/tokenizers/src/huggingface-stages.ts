import { gpt2Pattern, LowbitError } from "@lowbit/core";
import { byteLevelStage } from "./byte-level.ts";
import { precompiledNormalizer } from "./charsmap.ts";
import type { JsonFields } from "./json-fields.ts";
import type { Stage } from "./model.ts";
import { compilePattern } from "./pattern.ts";
import { spaceMark } from "./sentencepiece.ts";
import { mapStage, type SplitBehavior, splitStage } from "./stages.ts";
import { vocabularyError } from "./vocabulary.ts";
import { bertNormalizerStage, bertSplitStages, lowercase } from "./wordpiece.ts";

/** Characters; what a normalizer may put in place of one. */
const maxInsertion = 64;
const maxParts = 32;

/** The stages of a `normalizer` or `pre_tokenizer` of tokenizer.json. Throws for a kind that isn't known. */
export function stagesOf(part: JsonFields | undefined): readonly Stage[] {
  if (part === undefined) return [];
  const type = part.string("type") ?? "";
  if (type === "Sequence") {
    const parts = [...part.objects("normalizers"), ...part.objects("pretokenizers")];
    if (parts.length > maxParts || parts.some((inner) => inner.string("type") === "Sequence")) {
      throw vocabularyError(
        "limit-exceeded",
        `${part.at} has ${parts.length} parts, or sequences in a sequence.`,
      );
    }
    return parts.flatMap(stagesOf);
  }
  const build = builders.get(type);
  if (build !== undefined) return build(part);
  throw new LowbitError(
    "format-unsupported",
    `${part.at} is a ${JSON.stringify(type)}, which is not known.`,
    {
      reason: "unknown-tokenizer",
      plugin: "tokenizers",
      hint: `Known are ${[...builders.keys()].join(", ")}.`,
    },
  );
}

/** Names of normalizers and pre-tokenizers don't overlap, but for ByteLevel, which means the same. */
const builders: ReadonlyMap<string, (part: JsonFields) => readonly Stage[]> = new Map([
  ...["NFC", "NFD", "NFKC", "NFKD"].map(
    (form) => [form, () => [mapStage((text) => text.normalize(form))]] as const,
  ),
  ["Lowercase", () => [mapStage(lowercase)]],
  ["StripAccents", () => [mapStage((text) => text.replace(/\p{M}/gu, ""))]],
  ["Strip", strip],
  ["Replace", replace],
  ["Prepend", prepend],
  ["Precompiled", (part) => [mapStage(precompiledNormalizer(base64(part)))]],
  ["BertNormalizer", bertNormalizer],
  ["ByteLevel", byteLevel],
  ["Split", split],
  ["Digits", digits],
  ["Punctuation", (part) => [splitStage(/[\p{P}!-/:-@[-`{-~]/gu, behaviorOf(part))]],
  ["Whitespace", () => [splitStage(compilePattern("\\w+|[^\\w\\s]+"), "Removed", true)]],
  ["WhitespaceSplit", () => [splitStage(compilePattern("\\s+"), "Removed")]],
  ["BertPreTokenizer", () => bertSplitStages()],
  ["Metaspace", metaspace],
] as const);

function strip(part: JsonFields): readonly Stage[] {
  const left = part.boolean("strip_left") ?? true;
  const right = part.boolean("strip_right") ?? true;
  return [
    mapStage((text) => {
      const kept = left ? text.replace(/^\p{White_Space}+/u, "") : text;
      return right ? kept.trimEnd() : kept;
    }),
  ];
}

function replace(part: JsonFields): readonly Stage[] {
  const pattern = patternOf(part);
  const content = insertion(part, "content");
  return [mapStage((text) => text.replace(pattern, () => content))];
}

function prepend(part: JsonFields): readonly Stage[] {
  const text = insertion(part, "prepend");
  return [mapStage((piece) => text + piece)];
}

function insertion(part: JsonFields, name: string): string {
  const text = part.string(name) ?? "";
  if (text.length <= maxInsertion) return text;
  throw vocabularyError(
    "limit-exceeded",
    `${part.at}.${name} is ${text.length} characters long; the limit is ${maxInsertion}.`,
  );
}

function base64(part: JsonFields): Uint8Array {
  const text = part.string("precompiled_charsmap") ?? "";
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch (cause) {
    throw vocabularyError(
      "invalid-value",
      `${part.at}.precompiled_charsmap is not base64: ${String(cause)}.`,
    );
  }
}

function bertNormalizer(part: JsonFields): readonly Stage[] {
  const lower = part.boolean("lowercase") ?? true;
  return [
    bertNormalizerStage({
      cleanText: part.boolean("clean_text") ?? true,
      splitChinese: part.boolean("handle_chinese_chars") ?? true,
      stripAccents: part.boolean("strip_accents") ?? lower,
      lowercase: lower,
    }),
  ];
}

function byteLevel(part: JsonFields): readonly Stage[] {
  const isNormalizer = part.at.includes("normalizer");
  const stages: Stage[] = [];
  if (!isNormalizer && (part.boolean("add_prefix_space") ?? true)) {
    stages.push(mapStage((text) => (text.startsWith(" ") ? text : ` ${text}`)));
  }
  if (!isNormalizer && (part.boolean("use_regex") ?? true))
    stages.push(splitStage(compilePattern(gpt2Pattern)));
  return [...stages, byteLevelStage()];
}

function split(part: JsonFields): readonly Stage[] {
  return [splitStage(patternOf(part), behaviorOf(part), part.boolean("invert") ?? false)];
}

function digits(part: JsonFields): readonly Stage[] {
  return [splitStage(part.boolean("individual_digits") ? /\p{N}/gu : /\p{N}+/gu)];
}

function metaspace(part: JsonFields): readonly Stage[] {
  const mark = part.string("replacement") ?? spaceMark;
  if ([...mark].length !== 1) {
    throw vocabularyError(
      "invalid-value",
      `${part.at}.replacement is ${JSON.stringify(mark)}; expected one character.`,
    );
  }
  const legacy = part.boolean("add_prefix_space") === false ? "never" : "always";
  const scheme = part.string("prepend_scheme") ?? legacy;
  const stages = [
    mapStage((text, beginning) => {
      const marked = text.replaceAll(" ", mark);
      const wanted = scheme === "always" || (scheme === "first" && beginning);
      return wanted && !marked.startsWith(mark) ? mark + marked : marked;
    }),
  ];
  if (part.boolean("split") ?? true) stages.push(splitStage(literal(mark), "MergedWithNext"));
  return stages;
}

const behaviors: readonly string[] = [
  "Removed",
  "Isolated",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
];

function behaviorOf(part: JsonFields): SplitBehavior {
  const behavior = part.string("behavior") ?? "Isolated";
  if (behaviors.includes(behavior)) return behavior as SplitBehavior;
  throw vocabularyError("invalid-value", `${part.at}.behavior is ${JSON.stringify(behavior)}.`);
}

function patternOf(part: JsonFields): RegExp {
  const pattern = part.object("pattern");
  const text = pattern?.string("String");
  const expression = pattern?.string("Regex");
  if (text !== undefined && text !== "") return literal(text);
  if (expression !== undefined) return compilePattern(expression);
  throw vocabularyError("invalid-value", `${part.at}.pattern is neither a string nor a regular expression.`);
}

function literal(text: string): RegExp {
  return new RegExp(text.replace(/[$()*+./?[\\\]^{|}]/g, "\\$&"), "gu");
}
