import { LowbitError, portableMath, type RopeConfig, type RopeScaling } from "@lowbit/core";

const { cos, log, pow, sin } = portableMath;

/** How a layer turns its queries and keys. */
export interface Rotation {
  /** Radians per position for each pair of dimensions; f64. */
  readonly frequencies: Float64Array;
  /** Multiplies cos and sin, and so scales q·k by its square. */
  readonly magnitude: number;
}

/**
 * The rotation of a model's layers. `factors` are the divisors of the frequencies, one for each pair, where the model has
 * some. Throws `bad-argument` if their number is wrong.
 */
export function rotationOf(rope: RopeConfig, factors?: Float32Array): Rotation {
  const pairs = rope.dimensions / 2;
  if (factors !== undefined && factors.length !== pairs) {
    throw new LowbitError(
      "bad-argument",
      `The rotation has ${pairs} pairs of dimensions, but ${factors.length} factors.`,
      { reason: "shape", hint: "The checkpoint's rope factors do not belong to its hyper-parameters." },
    );
  }
  const plain = Float64Array.from({ length: pairs }, (_, i) => pow(rope.base, (-2 * i) / rope.dimensions));
  const divided = factors === undefined ? plain : plain.map((frequency, i) => frequency / factors[i]!);
  const { scaling } = rope;
  if (scaling === undefined) return { frequencies: divided, magnitude: 1 };
  return {
    frequencies: divided.map((frequency, i) => scaled(frequency, i, rope, scaling)),
    magnitude: magnitudeOf(scaling),
  };
}

/** Rotation of layers that see only a window, where the model gives them a base of their own: their context is short, so unscaled. */
export function localRotationOf(rope: RopeConfig): Rotation | undefined {
  if (rope.localBase === undefined) return undefined;
  const { dimensions, pairing } = rope;
  return rotationOf({ dimensions, pairing, base: rope.localBase });
}

function scaled(frequency: number, pair: number, rope: RopeConfig, scaling: RopeScaling): number {
  switch (scaling.kind) {
    case "factors":
      return frequency;
    case "linear":
      return frequency / scaling.factor;
    case "llama3": {
      const { factor, originalContextLength, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
      // Turns within the original context: many stay, few are stretched, between them a linear blend.
      const turns = (originalContextLength * frequency) / (2 * Math.PI);
      const kept = clamp((turns - low) / (high - low));
      return frequency * (kept + (1 - kept) / factor);
    }
    case "yarn": {
      const { factor, extrapolationFactor = 1 } = scaling;
      const [first, last] = yarnRange(rope, scaling);
      const kept = (1 - clamp((pair - first) / Math.max(0.001, last - first))) * extrapolationFactor;
      return frequency * (kept + (1 - kept) / factor);
    }
  }
}

/** Pairs that turn more than betaFast times within the original context stay as they are, below betaSlow they are stretched. */
function yarnRange(
  rope: RopeConfig,
  scaling: RopeScaling & { kind: "yarn" },
): readonly [first: number, last: number] {
  const { betaFast = 32, betaSlow = 1, originalContextLength } = scaling;
  const pairOf = (turns: number): number =>
    (rope.dimensions * log(originalContextLength / (turns * 2 * Math.PI))) / (2 * log(rope.base));
  return [
    Math.max(0, Math.floor(pairOf(betaFast))),
    Math.min(rope.dimensions - 1, Math.ceil(pairOf(betaSlow))),
  ];
}

function magnitudeOf(scaling: RopeScaling): number {
  if (scaling.kind === "factors") return scaling.attentionFactor ?? 1;
  if (scaling.kind !== "yarn") return 1;
  const { factor, attentionFactor = 1, extrapolationFactor = 1 } = scaling;
  const own = extrapolationFactor !== 0 && factor > 1 ? 1 + 0.1 * log(factor) : 1;
  return own * attentionFactor;
}

function clamp(x: number): number {
  return Math.min(1, Math.max(0, x));
}

/** The angles of `ops.rope`: for each position a row of cos, sin pairs, computed in f64 and rounded to f32. */
export function ropeAngles(rotation: Rotation, positions: Int32Array): Float32Array {
  const { frequencies, magnitude } = rotation;
  const columns = 2 * frequencies.length;
  const angles = new Float32Array(positions.length * columns);
  positions.forEach((position, r) => {
    frequencies.forEach((frequency, i) => {
      const angle = position * frequency;
      angles[r * columns + 2 * i] = magnitude * cos(angle);
      angles[r * columns + 2 * i + 1] = magnitude * sin(angle);
    });
  });
  return angles;
}
