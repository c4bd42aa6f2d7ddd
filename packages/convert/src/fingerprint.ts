import type { Checkpoint, LinearWeight, PlainJson } from "@lowbit/core";

/**
 * What tells a source from others without its weights: names, shapes, sizes, configuration. A fine-tuned copy has the same, so weights
 * are compared by `weightSum`, too.
 */
export function sourceFingerprint(source: Checkpoint, roles: readonly string[]): PlainJson {
  const entries = source
    .entries()
    .map(({ name, shape, bytes, type }) => [name, shape.join(), bytes, type.name]);
  const text = JSON.stringify([source.format, source.config, entries, roles]);
  return checksum([new TextEncoder().encode(text)]);
}

/** A checksum of everything that a weight is. */
export function weightSum(weight: LinearWeight | Float32Array): string {
  if (weight instanceof Float32Array) return checksum([bytesOf(weight)]);
  const { segments, bias, rowScale, permute } = weight;
  const head = JSON.stringify(segments.map(({ type, from, to }) => [type.name, from, to]));
  const parts = [new TextEncoder().encode(head), ...segments.map(({ blocks }) => blocks)];
  for (const extra of [bias, rowScale, permute]) if (extra) parts.push(bytesOf(extra));
  return checksum(parts);
}

function bytesOf(values: Float32Array | Int32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** 64 bits, by two multiplicative hashes over words: tells contents apart, not attackers. */
function checksum(parts: readonly Uint8Array[]): string {
  const state = new Uint32Array([0x811c9dc5, 0x9e3779b1]);
  for (const bytes of parts) {
    const words = Math.floor(bytes.length / 4);
    const rest = new Uint32Array([...bytes.subarray(4 * words), bytes.length]);
    // A copy of a piece at a time where the bytes are unaligned.
    const aligned = bytes.byteOffset % 4 === 0;
    const piece = aligned ? words : 2 ** 16;
    for (let from = 0; from < words; from += piece) {
      const count = Math.min(piece, words - from);
      const place = aligned ? bytes : bytes.slice(4 * from, 4 * (from + count));
      addWords(state, new Uint32Array(place.buffer, place.byteOffset, count));
    }
    addWords(state, rest);
  }
  return Array.from(state, (half) => half.toString(16).padStart(8, "0")).join("");
}

function addWords(state: Uint32Array, words: Uint32Array): void {
  let a = state[0]! | 0;
  let b = state[1]! | 0;
  for (let i = 0; i < words.length; i++) {
    const word = words[i]! | 0;
    a = Math.imul(a ^ word, 0x01000193);
    b = (Math.imul((b << 13) | (b >>> 19), 5) + (word ^ a)) | 0;
  }
  state[0] = a;
  state[1] = b;
}
