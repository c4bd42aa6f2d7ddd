import { utf8 } from "./model.ts";
import { vocabularyError } from "./vocabulary.ts";

/** Bytes; the longest replacement in SentencePiece's own maps has 33. */
const maxReplacement = 256;

/**
 * SentencePiece's precompiled normalizer: u32 size of a double-array trie in bytes, the trie's u32 units,
 * then NUL-ended replacements. At each place the longest prefix that the trie knows is replaced.
 * A unit holds: bits 0–7 the label, bit 8 whether a value follows, bits 10–30 the offset of the children
 * (times 256 if bit 9 is set), bit 31 marks a value.
 */
export function precompiledNormalizer(map: Uint8Array): (text: string) => string {
  const view = new DataView(map.buffer, map.byteOffset, map.byteLength);
  const size = map.length < 4 ? -1 : view.getUint32(0, true);
  if (size < 4 || size % 4 !== 0 || size + 4 >= map.length) {
    throw vocabularyError(
      "invalid-value",
      `The precompiled charsmap has ${map.length} bytes, of which ${size} would be its trie.`,
    );
  }
  const units = new Uint32Array(size / 4);
  for (let i = 0; i < units.length; i++) units[i] = view.getUint32(4 + i * 4, true);
  const replacements = map.subarray(4 + size);
  // The last one need not end in a NUL if nothing refers to it, but a copy must end somewhere.
  if (replacements.at(-1) !== 0) {
    throw vocabularyError(
      "invalid-value",
      "The replacements of the precompiled charsmap don't end in a NUL.",
    );
  }

  const unit = (index: number): number => {
    const value = units[index];
    if (value === undefined) {
      throw vocabularyError(
        "invalid-offset",
        `The precompiled charsmap points at unit ${index} of ${units.length}.`,
      );
    }
    return value;
  };
  const children = (value: number): number => (value >>> 10) << ((value & 0x200) >>> 6);

  /** Length of the longest prefix at `start`, and where its replacement is. */
  const match = (bytes: Uint8Array, start: number): readonly [length: number, at: number] => {
    let length = 0;
    let at = 0;
    let node = children(unit(0));
    for (let i = start; i < bytes.length; i++) {
      const byte = bytes[i]!;
      if (byte === 0) break;
      node = (node ^ byte) >>> 0;
      const value = unit(node);
      if ((value & 0x800000ff) >>> 0 !== byte) break;
      node = (node ^ children(value)) >>> 0;
      if ((value & 0x100) !== 0) {
        length = i - start + 1;
        at = unit(node) & 0x7fffffff;
      }
    }
    return [length, at];
  };

  return (text) => {
    const bytes = utf8(text);
    const output: number[] = [];
    for (let at = 0; at < bytes.length; ) {
      const [length, replacement] = match(bytes, at);
      if (length > 0) {
        const end = replacements.indexOf(0, replacement);
        if (replacement >= replacements.length || end - replacement > maxReplacement) {
          throw vocabularyError(
            "invalid-offset",
            `The precompiled charsmap has no replacement at ${replacement}.`,
          );
        }
        for (let i = replacement; i < end; i++) output.push(replacements[i]!);
        at += length;
      } else {
        do output.push(bytes[at++]!);
        while (at < bytes.length && (bytes[at]! & 0xc0) === 0x80);
      }
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(output));
  };
}
