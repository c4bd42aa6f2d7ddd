/** How the absmaxes of a weight are quantized themselves: absmax = map[code] · outer + offset, rounded to f32 at each step. */
export interface Nested {
  readonly blockSize: number;
  readonly offset: number;
  /** One scale for each `blockSize` absmaxes. */
  readonly outer: Float32Array;
  /** 256 rising levels. Files differ in their last bits, as the processors did that made them. */
  readonly map: Float32Array;
}

/** The reference's 8-bit floats: a sign, a decimal exponent in unary, and the rest a linear fraction; 0 and 1 besides. Sorted. */
export const dynamicMap: Float32Array = makeMap();

function makeMap(): Float32Array {
  const { fround } = Math;
  const values = [0, 1];
  for (let digits = 0; digits < 7; digits++) {
    const count = 2 ** digits;
    for (let i = 0; i < count; i++) {
      const mean = fround(fround(border(i, count) + border(i + 1, count)) / 2);
      const value = fround(mean * fround(10 ** (digits - 6)));
      values.push(value, -value);
    }
  }
  return Float32Array.from(values).sort();
}

/**
 * Border i of `count` equal parts of [0.1, 1], rounded as torch's linspace does on most machines, so that the map has the usual bytes:
 * from the nearer end with one rounding, but in whole pairs of 8 lanes each lane adds its steps to the first one's value.
 */
function border(i: number, count: number): number {
  const { fround } = Math;
  const first = fround(0.1);
  const step = fround(fround(1 - first) / count);
  const steps = count + 1;
  const lane = i < steps - (steps % 16) ? i % 8 : 0;
  const start = i - lane;
  const base = start < steps >> 1 ? fround(first + step * start) : fround(1 - step * (count - start));
  return fround(base + fround(step * lane));
}

/** Absmaxes from their codes. */
export function unnest(codes: Uint8Array, nested: Nested): Float32Array {
  const { blockSize, outer, map } = nested;
  return Float32Array.from(codes, (code, b) => value(nested, map[code]!, outer[Math.floor(b / blockSize)]!));
}

function value({ offset }: Nested, level: number, outer: number): number {
  return Math.fround(Math.fround(level * outer) + offset);
}

/** Quantizes absmaxes: their mean is the offset, the rest is scaled blockwise. */
export function nest(absmax: Float32Array, blockSize: number): { nested: Nested; codes: Uint8Array } {
  const offset = Math.fround(absmax.reduce((sum, value) => sum + value, 0) / Math.max(1, absmax.length));
  const rest = absmax.map((value) => value - offset);
  const outer = new Float32Array(Math.ceil(absmax.length / blockSize));
  for (const [b, value] of rest.entries()) {
    const o = Math.floor(b / blockSize);
    outer[o] = Math.max(outer[o]!, Math.abs(value));
  }
  const codes = Uint8Array.from(rest, (value, b) => {
    const scale = outer[Math.floor(b / blockSize)]!;
    return nearest(dynamicMap, scale === 0 ? 0 : Math.fround(value / scale));
  });
  return { nested: { blockSize, offset, outer, map: dynamicMap }, codes };
}

/** Code of the nearest level; the lower one of two. */
function nearest(map: Float32Array, level: number): number {
  let low = 0;
  let high = map.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (map[middle]! < level) low = middle + 1;
    else high = middle;
  }
  return low > 0 && level - map[low - 1]! <= map[low]! - level ? low - 1 : low;
}

/** The codes that make exactly these absmaxes, or undefined where some absmax has none. */
export function nestedCodes(absmax: Float32Array, nested: Nested): Uint8Array | undefined {
  const { blockSize, offset, outer, map } = nested;
  if (outer.length !== Math.ceil(absmax.length / blockSize)) return undefined;
  const codes = new Uint8Array(absmax.length);
  for (let b = 0; b < codes.length; b++) {
    const scale = outer[Math.floor(b / blockSize)]!;
    const guess = nearest(map, scale === 0 ? 0 : (absmax[b]! - offset) / scale);
    const code = [guess, guess - 1, guess + 1].find(
      (code) => code in map && value(nested, map[code]!, scale) === absmax[b],
    );
    if (code === undefined) return undefined;
    codes[b] = code;
  }
  return codes;
}
