import { LowbitError } from "@lowbit/core";

/**
 * Streams of b-bit codes in little-endian 32-bit words, as GPTQ, AWQ, EXL2 and compressed-tensors pack them: code i takes bits
 * [i·b, i·b + b) of the concatenated words and may straddle two. Word w of a stream lies at `words[at + w·stride]`, so that a
 * stream may run down a column of a matrix (stride = its columns) or along a row (stride 1).
 */
export interface BitStream {
  /** 1 to 8. */
  readonly bits: number;
  /** @default 0 */
  readonly at?: number;
  /** @default 1 */
  readonly stride?: number;
}

/** Words that `count` codes take. */
export function wordsOf(count: number, bits: number): number {
  return Math.ceil((count * bits) / 32);
}

/** Fills `codes` from the start of a stream. Throws `bad-argument` where the stream would leave `words`. */
export function readCodes(words: Uint32Array, stream: BitStream, codes: Uint8Array): Uint8Array {
  const { bits, at = 0, stride = 1 } = stream;
  check(words.length, stream, codes.length);
  const mask = 2 ** bits - 1;
  if (32 % bits === 0) {
    const each = 32 / bits;
    for (let i = 0, from = at; i < codes.length; from += stride) {
      let word = words[from]!;
      for (const end = Math.min(i + each, codes.length); i < end; i++, word >>>= bits) codes[i] = word & mask;
    }
    return codes;
  }
  let pending = 0;
  let have = 0;
  let from = at;
  for (let i = 0; i < codes.length; i++) {
    if (have >= bits) {
      codes[i] = pending & mask;
      pending >>>= bits;
      have -= bits;
    } else {
      const word = words[from]!;
      from += stride;
      const missing = bits - have;
      codes[i] = (pending | (word << have)) & mask;
      pending = word >>> missing;
      have = 32 - missing;
    }
  }
  return codes;
}

/** The inverse: overwrites the stream's words whole; the last one's unused bits become 0. Codes are cut to their bits. */
export function writeCodes(words: Uint32Array, stream: BitStream, codes: Uint8Array): void {
  const { bits, at = 0, stride = 1 } = stream;
  check(words.length, stream, codes.length);
  const mask = 2 ** bits - 1;
  let to = at;
  if (32 % bits === 0) {
    for (let i = 0; i < codes.length; to += stride) {
      let word = 0;
      for (let shift = 0; shift < 32 && i < codes.length; shift += bits)
        word |= (codes[i++]! & mask) << shift;
      words[to] = word;
    }
    return;
  }
  let pending = 0;
  let have = 0;
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i]! & mask;
    pending |= code << have;
    have += bits;
    if (have < 32) continue;
    words[to] = pending;
    to += stride;
    have -= 32;
    pending = have === 0 ? 0 : code >>> (bits - have);
  }
  if (have > 0) words[to] = pending;
}

/** Little-endian words of bytes that may lie anywhere; a view where they are aligned. */
export function wordsFrom(bytes: Uint8Array): Uint32Array {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >> 2);
}

function check(length: number, { bits, at = 0, stride = 1 }: BitStream, count: number): void {
  const words = wordsOf(count, bits);
  const valid = Number.isInteger(bits) && bits >= 1 && bits <= 8 && at >= 0 && stride >= 1;
  if (valid && (words === 0 || at + (words - 1) * stride < length)) return;
  throw new LowbitError(
    "bad-argument",
    `A stream of ${count} codes of ${bits} bits from word ${at} in steps of ${stride} leaves its ${length} words.`,
    { reason: "range" },
  );
}
