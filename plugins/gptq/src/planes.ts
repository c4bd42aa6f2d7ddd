import { type BitStream, readCodes, wordsOf, writeCodes } from "@lowbit/packing";

/**
 * Planes of GPTQModel's "gptq_p": 32 codes take `bits` words, cut into planes from low to high bits. In a plane of width w, word i
 * holds codes i·32/w to (i + 1)·32/w − 1, each w bits. Widths of 2, 4 and 8 are one plane and equal the continuous stream.
 */
const planesOf: Readonly<Record<number, readonly number[]>> = {
  2: [2],
  3: [2, 1],
  4: [4],
  5: [4, 1],
  6: [4, 2],
  7: [4, 2, 1],
  8: [8],
};

/** As core's `readCodes`, for a stream in planes. A count that is no multiple of 32 leaves the last words' rest unused. */
export function readPlanes(words: Uint32Array, stream: BitStream, codes: Uint8Array): Uint8Array {
  const { bits, at = 0, stride = 1 } = stream;
  const plane = new Uint8Array(32);
  for (let first = 0; first < codes.length; first += 32) {
    const count = Math.min(32, codes.length - first);
    let word = at + wordsOf(first, bits) * stride;
    let shift = 0;
    codes.fill(0, first, first + count);
    for (const width of planesOf[bits] ?? []) {
      readCodes(words, { bits: width, at: word, stride }, plane);
      for (let i = 0; i < count; i++) codes[first + i] = codes[first + i]! | (plane[i]! << shift);
      word += width * stride;
      shift += width;
    }
  }
  return codes;
}

/** The inverse. */
export function writePlanes(words: Uint32Array, stream: BitStream, codes: Uint8Array): void {
  const { bits, at = 0, stride = 1 } = stream;
  for (let first = 0; first < codes.length; first += 32) {
    let word = at + wordsOf(first, bits) * stride;
    let shift = 0;
    for (const width of planesOf[bits] ?? []) {
      const plane = Uint8Array.from({ length: 32 }, (_, i) => (codes[first + i] ?? 0) >> shift);
      writeCodes(words, { bits: width, at: word, stride }, plane);
      word += width * stride;
      shift += width;
    }
  }
}
