/**
 * Elementary functions of IEEE operations alone, in a fixed order: `Math.sin` and its kin differ between engines in the last
 * bits, and logits should not. Relative error below 4e-15 where no other bound is given (math.test.ts).
 */
export interface PortableMath {
  exp(x: number): number;
  log(x: number): number;
  /** base > 0. Relative error below 1e-15 · (4 + |y · ln base|). */
  pow(base: number, y: number): number;
  /** Absolute error below 1e-15 up to |x| = 1.6e6, then |x| · 2^-52. */
  sin(x: number): number;
  /** As `sin`. */
  cos(x: number): number;
  tanh(x: number): number;
  /** Φ(x), the standard normal distribution function. */
  normalCdf(x: number): number;
}

// fdlibm's splits: the leading parts have 32 and 33 bits, so that products with small integers are exact.
const ln2High = 0.6931471803691238;
const ln2Low = 1.9082149292705877e-10;
const halfPi1 = 1.5707963267341256;
const halfPi2 = 6.077100506303966e-11;
const halfPi3 = 2.0222662487111665e-21;

const view = new DataView(new ArrayBuffer(8));

/** 2^k for a normal result: −1022 ≤ k ≤ 1023. */
function powerOfTwo(k: number): number {
  view.setUint32(0, (k + 1023) << 20);
  view.setUint32(4, 0);
  return view.getFloat64(0);
}

/** c[0] + c[1]·x + c[2]·x² + … */
function polynomial(x: number, coefficients: readonly number[]): number {
  let value = 0;
  for (let i = coefficients.length - 1; i >= 0; i--) value = value * x + coefficients[i]!;
  return value;
}

/** ±1 / (first + i·step)!: the coefficients of a Taylor series. */
function inverseFactorials(first: number, step: number, sign: 1 | -1, count: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    let factorial = 1;
    for (let f = 2; f <= first + i * step; f++) factorial *= f;
    return (i % 2 === 0 ? 1 : sign) / factorial;
  });
}

// First terms left out: r^15/15! at ln 2 / 2, and r^19/19!, r^20/20! at π/4; all below 1e-18.
const expm1Series = inverseFactorials(1, 1, 1, 14);
const sinSeries = inverseFactorials(1, 2, -1, 9);
const cosSeries = inverseFactorials(0, 2, -1, 10);
/** Of 2·artanh(s)/s in s², |s| ≤ 0.1716: the first term left out is below 1e-18. */
const artanhSeries: readonly number[] = Array.from({ length: 12 }, (_, i) => 2 / (2 * i + 1));

/** e^r − 1 for |r| ≤ ln 2 / 2. */
function expm1Small(r: number): number {
  return r * polynomial(r, expm1Series);
}

function exp(x: number): number {
  if (!(x > -746)) return Number.isNaN(x) ? x : 0;
  if (x > 710) return Number.POSITIVE_INFINITY;
  const k = Math.floor(x / Math.LN2 + 0.5);
  const r = x - k * ln2High - k * ln2Low;
  // 2^k in two factors, so that results reach down to the subnormals and up to the largest.
  const half = k >> 1;
  return (1 + expm1Small(r)) * powerOfTwo(half) * powerOfTwo(k - half);
}

function log(x: number): number {
  if (!(x > 0) || x === Number.POSITIVE_INFINITY) {
    if (x === 0) return Number.NEGATIVE_INFINITY;
    return x > 0 ? x : Number.NaN;
  }
  const shift = x < 2 ** -1000 ? 100 : 0;
  view.setFloat64(0, x * powerOfTwo(shift));
  const high = view.getUint32(0);
  // Mantissa to [√½, √2): one step down where it is above √2 (0x6a09e66 in the high word's fraction).
  const up = (high & 0xfffff) > 0x6a09e ? 1 : 0;
  view.setUint32(0, (high & 0xfffff) | ((1023 - up) << 20));
  const k = (high >>> 20) - 1023 + up - shift;
  const m = view.getFloat64(0);
  const s = (m - 1) / (m + 1);
  return k * ln2High + (s * polynomial(s * s, artanhSeries) + k * ln2Low);
}

function pow(base: number, y: number): number {
  return exp(y * log(base));
}

/** sin(x + quarter·π/2). */
function sinQuarter(x: number, quarter: number): number {
  const k = Math.floor(x / (Math.PI / 2) + 0.5);
  const r = x - k * halfPi1 - k * halfPi2 - k * halfPi3;
  const turn = (((k + quarter) % 4) + 4) % 4;
  const z = r * r;
  const value = turn % 2 === 0 ? r * polynomial(z, sinSeries) : polynomial(z, cosSeries);
  return turn < 2 ? value : -value;
}

function tanh(x: number): number {
  const size = Math.abs(x);
  let value: number;
  if (2 * size <= 0.34) {
    const e = expm1Small(2 * size);
    value = e / (e + 2);
  } else {
    value = 1 - 2 / (exp(2 * size) + 1);
  }
  return x < 0 ? -value : value;
}

function normalCdf(x: number): number {
  const z = Math.abs(x) * Math.SQRT1_2;
  if (!(z < 40)) return x < 0 ? 0 : x > 0 ? 1 : x;
  if (z < 2) {
    // erf(z) = 2/√π · e^(−z²) · Σ 2^i z^(2i+1) / (1·3·…·(2i+1)): no cancellation.
    let term = z;
    let sum = z;
    for (let i = 1; i < 60; i++) {
      term *= (2 * z * z) / (2 * i + 1);
      sum += term;
    }
    const erf = (2 / Math.sqrt(Math.PI)) * exp(-z * z) * sum;
    return x < 0 ? (1 - erf) / 2 : (1 + erf) / 2;
  }
  // erfc(z) = e^(−z²)/√π / (z + ½/(z + 1/(z + 3/2/(z + …)))), from the inside out.
  let fraction = z;
  for (let i = 80; i >= 1; i--) fraction = z + i / 2 / fraction;
  const tail = exp(-z * z) / Math.sqrt(Math.PI) / fraction / 2;
  return x < 0 ? tail : 1 - tail;
}

export const portableMath: PortableMath = {
  exp,
  log,
  pow,
  sin: (x) => sinQuarter(x, 0),
  cos: (x) => sinQuarter(x, 1),
  tanh,
  normalCdf,
};
