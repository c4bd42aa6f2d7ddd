import type { PlainJson } from "@lowbit/core";

/** An object of a JSON file to write. */
export type JsonFields = { readonly [key: string]: PlainJson };

/** The shortest decimal that rounds to the same f32: 1e-05 rather than 0.000009999999747378752. */
export function shortest(value: number): number {
  const rounded = Math.fround(value);
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(rounded.toPrecision(digits));
    if (Math.fround(short) === rounded) return short;
  }
  return rounded;
}
