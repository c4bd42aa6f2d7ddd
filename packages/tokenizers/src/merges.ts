import { PairTable } from "./merge.ts";
import { maxTokens, type Vocabulary, vocabularyError } from "./vocabulary.ts";

/**
 * The merges of a file by rank: "left right", cut at the first space after the first character, or [left, right].
 * Of a pair that occurs twice the first counts. Throws `file-corrupt`: "limit-exceeded", "invalid-type", "invalid-value".
 */
export function readMerges(merges: ArrayLike<unknown>, vocabulary: Vocabulary): PairTable {
  if (merges.length > maxTokens) {
    throw vocabularyError("limit-exceeded", `There are ${merges.length} merges; the limit is ${maxTokens}.`);
  }
  const pairs = new PairTable(merges.length);
  const idOf = (token: string, rank: number): number => {
    const id = vocabulary.id(token);
    if (id !== undefined) return id;
    throw vocabularyError(
      "invalid-value",
      `Merge ${rank} needs ${JSON.stringify(token)}, which is no token.`,
    );
  };
  for (let rank = 0; rank < merges.length; rank++) {
    const [left, right] = cutMerge(merges[rank], rank);
    pairs.add(idOf(left, rank), idOf(right, rank), rank, idOf(left + right, rank));
  }
  return pairs;
}

function cutMerge(merge: unknown, rank: number): readonly [left: string, right: string] {
  if (typeof merge === "string") {
    const cut = merge.indexOf(" ", 1);
    if (cut > 0) return [merge.slice(0, cut), merge.slice(cut + 1)];
    throw vocabularyError("invalid-value", `Merge ${rank}, ${JSON.stringify(merge)}, has no space.`);
  }
  if (Array.isArray(merge) && merge.length === 2) {
    const [left, right]: unknown[] = merge;
    if (typeof left === "string" && typeof right === "string") return [left, right];
  }
  throw vocabularyError("invalid-type", `Merge ${rank} is neither a string nor a pair of strings.`);
}
