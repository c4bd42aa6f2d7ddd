/** A stream of pseudo-random numbers that depends on nothing but its seed. */
export interface Random {
  /** Uniform in [0, 1), with 53 random bits. */
  next(): number;
}

/**
 * xoshiro128** (Blackman and Vigna), its state filled by SplitMix32 from both halves of the seed.
 * Only 32-bit integer arithmetic: the same on every engine.
 */
export function createRandom(seed: number): Random {
  let mix = (seed >>> 0) ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b1);
  const split = (): number => {
    mix = (mix + 0x9e3779b9) | 0;
    let z = mix;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return z ^ (z >>> 15);
  };
  let [a, b, c, d] = [split(), split(), split(), split()];
  const bits = (): number => {
    const scrambled = Math.imul(b, 5);
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9);
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
    return result >>> 0;
  };
  return {
    next() {
      const high = bits() >>> 5;
      return (high * 2 ** 26 + (bits() >>> 6)) / 2 ** 53;
    },
  };
}

/** A seed for a run that was given none; small enough to be read out and typed in again. */
export function randomSeed(): number {
  return Math.floor(Math.random() * 2 ** 32);
}
