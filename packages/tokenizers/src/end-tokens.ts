import { endTokenNames } from "@lowbit/core";
import type { Vocabulary } from "./vocabulary.ts";

/** What a code model writes when it has nothing more to fill in. */
const codeNames: readonly string[] = ["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"];

/** Ids of the tokens whose names end a turn or a text. */
export function endTokensByName(vocabulary: Vocabulary): Set<number> {
  const ids = new Set<number>();
  for (const name of endTokenNames) {
    const id = vocabulary.id(name);
    if (id !== undefined) ids.add(id);
  }
  // Here <|end|> closes a message within the answer, which goes on until one of the others.
  const all = (...wanted: string[]): boolean => wanted.every((name) => vocabulary.id(name) !== undefined);
  if (all("<|end|>", "<|return|>", "<|call|>") || all("<|end|>", "<|flush|>", "<|calls|>")) {
    ids.delete(vocabulary.id("<|end|>")!);
  }
  return ids;
}

/** The tokens that end a generation: those that the source names, and those known by name. */
export function endTokensOf(vocabulary: Vocabulary, named: Iterable<number | undefined>): Set<number> {
  const ids = endTokensByName(vocabulary);
  for (const name of codeNames) {
    const id = vocabulary.id(name);
    if (id !== undefined) ids.add(id);
  }
  for (const id of named) if (id !== undefined) ids.add(id);
  return ids;
}
