import type { Tokenizer } from "@lowbit/core";

/** The tokens of a vocabulary as a tree of bytes, laid out in the order of a walk. Special and end tokens are not in it. */
export interface TokenTree {
  readonly tokenCount: number;
  /** Of the longest token, in bytes. */
  readonly longest: number;
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  /** First node that is not below this one. */
  readonly end: Int32Array;
  /** A token that ends here, or −1. */
  readonly token: Int32Array;
  /** Another token with the same bytes, or −1. */
  readonly twin: Int32Array;
}

export function createTokenTree(tokenizer: Tokenizer): TokenTree {
  const { vocabularySize, endTokens } = tokenizer;
  // Strings of one character a byte sort and compare faster than arrays.
  const texts: string[] = [];
  const ids: number[] = [];
  for (let id = 0; id < vocabularySize; id++) {
    const bytes = tokenizer.isSpecial(id) || endTokens.has(id) ? undefined : tokenizer.bytes(id);
    texts.push(bytes === undefined ? "" : String.fromCharCode(...bytes));
    if (texts[id] !== "") ids.push(id);
  }
  ids.sort((a, b) => (texts[a]! < texts[b]! ? -1 : texts[a] === texts[b] ? a - b : 1));

  const most = ids.reduce((sum, id) => sum + texts[id]!.length, 0);
  const byte = new Uint8Array(most);
  const depth = new Uint16Array(most);
  const end = new Int32Array(most);
  const token = new Int32Array(most).fill(-1);
  const twin = new Int32Array(vocabularySize).fill(-1);
  const open: number[] = [];
  let count = 0;
  let longest = 1;
  let last = "";
  for (const id of ids) {
    const text = texts[id]!;
    let shared = 0;
    while (shared < last.length && text.charCodeAt(shared) === last.charCodeAt(shared)) shared++;
    while (open.length > shared) end[open.pop()!] = count;
    for (let at = shared; at < text.length; at++) {
      byte[count] = text.charCodeAt(at);
      depth[count] = at;
      open.push(count++);
    }
    const node = open[open.length - 1]!;
    twin[id] = token[node]!;
    token[node] = id;
    longest = Math.max(longest, text.length);
    last = text;
  }
  while (open.length > 0) end[open.pop()!] = count;
  return {
    tokenCount: vocabularySize,
    longest,
    byte: byte.slice(0, count),
    depth: depth.slice(0, count),
    end: end.slice(0, count),
    token: token.slice(0, count),
    twin,
  };
}
