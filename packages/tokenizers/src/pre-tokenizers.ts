import { LowbitError, preTokenizers } from "@lowbit/core";
import type { Stage } from "./model.ts";
import { compilePattern } from "./pattern.ts";
import { splitStage } from "./stages.ts";

export interface NamedPreTokenizer {
  readonly stages: readonly Stage[];
  readonly ignoreMerges: boolean;
  readonly addBos: boolean;
}

/** Throws `format-unsupported`/"unknown-pre-tokenizer" where the name is missing or not known. */
export function namedPreTokenizer(name: string | undefined): NamedPreTokenizer {
  const family = preTokenizers.find(({ names }) => name !== undefined && names.includes(name));
  if (family === undefined) {
    const known = preTokenizers.flatMap(({ names }) => names).sort();
    const found =
      name === undefined ? "names no pre-tokenizer" : `wants the pre-tokenizer ${JSON.stringify(name)}`;
    throw new LowbitError(
      "format-unsupported",
      `The file ${found} (tokenizer.ggml.pre); known are ${known.join(", ")}.`,
      {
        reason: "unknown-pre-tokenizer",
        plugin: "tokenizers",
        hint: "If the model splits text like one of these, set tokenizer.ggml.pre to that name.",
      },
    );
  }
  return {
    stages: family.patterns.map((pattern) => splitStage(compilePattern(pattern))),
    ignoreMerges: family.ignoreMerges ?? false,
    addBos: family.addBos ?? false,
  };
}
