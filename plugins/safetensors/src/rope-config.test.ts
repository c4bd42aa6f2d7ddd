import { describe, expect, it } from "vitest";
import { config, corrupt, type Fields, read, unsupported } from "../test/config-kit.ts";
import type { HuggingFaceModel } from "./index.ts";

describe("rotation", () => {
  const scaling = (rope_scaling: Fields, more: Fields = {}): HuggingFaceModel =>
    read("qwen2", { rope_scaling, ...more });

  it("stands in rope_parameters in newer files", () => {
    const { rope } = config("llama", {
      rope_theta: 5,
      rope_parameters: { rope_type: "linear", factor: 2, rope_theta: 5e5 },
    });
    expect(rope).toEqual({
      dimensions: 8,
      base: 5e5,
      pairing: "adjacent",
      scaling: { kind: "linear", factor: 2 },
    });
  });

  it("of a part of each head", () => {
    expect(config("phi3", { head_dim: 16, partial_rotary_factor: 0.75 }).rope?.dimensions).toBe(12);
    expect(() => config("llama", { head_dim: 16, partial_rotary_factor: 0.5 })).toThrow(
      unsupported("unsupported-variant"),
    );
  });

  it("by llama3 becomes divisors, as in GGUF", () => {
    const { config, vectors } = scaling(
      {
        rope_type: "llama3",
        factor: 32,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
      { head_dim: 128, rope_theta: 500_000 },
    );
    expect(config.rope?.scaling).toEqual({ kind: "factors" });
    const factors = vectors.get("rope.factors") ?? new Float32Array(0);
    expect(factors.length).toBe(64);
    // Of Llama 3.2's own: the first 29 stay, from the 36th on all are stretched whole.
    expect([...factors.subarray(0, 29)]).toEqual(Array(29).fill(1));
    expect([...factors.subarray(36)]).toEqual(Array(28).fill(32));
    expect([...factors].every((value, i) => i === 0 || value >= (factors[i - 1] ?? 0))).toBe(true);
  });

  it("by yarn keeps transformers' magnitude", () => {
    const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 1024 };
    const own = 1 + 0.1 * Math.log(4);
    const factor = (more: Fields): number => {
      const found = scaling({ ...yarn, ...more }).config.rope?.scaling;
      return found?.kind === "yarn" ? (found.attentionFactor ?? 1) : Number.NaN;
    };
    expect(scaling(yarn).config).toMatchObject({
      contextLength: 4096,
      rope: {
        scaling: {
          kind: "yarn",
          factor: 4,
          originalContextLength: 1024,
          attentionFactor: 1,
          betaFast: 32,
          betaSlow: 1,
        },
      },
    });
    expect(factor({ attention_factor: 1 }) * own).toBeCloseTo(1, 7);
    // DeepSeek's: both magnitudes cancel where they are equal.
    expect(factor({ mscale: 1, mscale_all_dim: 1 }) * own).toBeCloseTo(1, 12);
    expect(factor({ mscale: 0.5, mscale_all_dim: 1 }) * own).toBeCloseTo((1 + 0.05 * Math.log(4)) / own, 7);
    // A file whose owner only added the scaling.
    expect(scaling({ type: "yarn", factor: 4 }, { max_position_embeddings: 1024 }).config.contextLength).toBe(
      4096,
    );
    expect(() => scaling({ ...yarn, truncate: false })).toThrow(unsupported("rope-scaling"));
  });

  it("by longrope has two sets of divisors", () => {
    const lists = { long_factor: [1, 2, 3, 4], short_factor: [1, 1, 1, 2] };
    const { config, vectors } = scaling(
      { type: "longrope", ...lists },
      { original_max_position_embeddings: 1024 },
    );
    expect(config.rope?.scaling).toEqual({
      kind: "factors",
      originalContextLength: 1024,
      attentionFactor: Math.fround(Math.sqrt(1 + Math.log(4) / Math.log(1024))),
    });
    expect([...(vectors.get("rope.factors.long") ?? [])]).toEqual(lists.long_factor);
    expect([...(vectors.get("rope.factors.short") ?? [])]).toEqual(lists.short_factor);
    // Phi 3's first files call it so.
    expect(scaling({ type: "yarn", ...lists }).config.rope?.scaling?.kind).toBe("factors");
    for (const long_factor of [[1, 2, 3], [1, 2, 3, 0], [1, 2, 3, "4"], [1, 2, 3, 1e300], undefined]) {
      expect(() => scaling({ type: "longrope", ...lists, long_factor })).toThrow(
        corrupt("invalid-value", "rope_scaling.long_factor"),
      );
    }
  });

  it("by dynamic ends with the original length, up to which it changes nothing", () => {
    const { config } = scaling({
      rope_type: "dynamic",
      factor: 4,
      original_max_position_embeddings: 1024,
    });
    expect(config.contextLength).toBe(1024);
    expect(config.rope).not.toHaveProperty("scaling");
  });

  it("by anything else is refused", () => {
    expect(() => scaling({ rope_type: "mrope" })).toThrow(unsupported("rope-scaling"));
    expect(() => scaling({ rope_type: "linear" })).toThrow(
      corrupt("missing-metadata", "rope_scaling.factor"),
    );
  });

  it("that grows with the position ends where it begins to", () => {
    const rope_parameters = {
      rope_type: "yarn",
      factor: 16,
      original_max_position_embeddings: 512,
      llama_4_scaling_beta: 0.1,
    };
    expect(config("ministral3", { rope_parameters })).toMatchObject({
      architecture: "mistral3",
      contextLength: 512,
    });
  });
});
