import { definePlugin, denseType, type LinearWeight, type Packing, type Plugin } from "@lowbit/core";
import { declaredMethod, modulesWith, openModules, packingError } from "@lowbit/packing";

/** Signed bytes: kernels multiply them as integers. */
const I8 = denseType("I8", "i8");

/**
 * A packing of one's own: each module has `rows` (signed bytes, [out, in]) and `factors` (f32, [out]), w = code · factor. This file is all
 * that it takes: lowbit then finds such checkpoints, runs them packed, and converts to them.
 */
const packing: Packing = {
  name: "rows8",
  detect: (checkpoint) => (declaredMethod(checkpoint) === "rows8" ? 1 : 0),

  open: (checkpoint, signal) =>
    openModules(
      checkpoint,
      "rows8",
      modulesWith(checkpoint, ".rows"),
      new Map([["bits", 8]]),
      (tensors) => {
        // Both throw for what is missing, or of another type or shape.
        const rows = tensors.need("rows", ["I8"], [undefined, undefined]);
        const [out = 0, width = 0] = rows.shape;
        const factors = tensors.need("factors", ["F32"], [out]);
        return tensors.open(
          { out, in: width, segments: [{ type: I8, from: 0, to: width }] },
          async (signal) => ({
            segments: [{ type: I8, from: 0, to: width, blocks: await checkpoint.read(rows, signal) }],
            rowScale: await tensors.floats(factors, signal),
          }),
        );
      },
      signal,
    ),

  writer: () => ({
    hold: (weight) => (isRows8(weight) ? weight : undefined),
    quantize(values, { out, in: width, experts = 1, role }) {
      if (experts > 1 || !role.startsWith("layers.") || role.endsWith("router")) return undefined;
      const rowScale = new Float32Array(out);
      const codes = new Int8Array(values.length);
      for (let r = 0; r < out; r++) {
        const row = values.subarray(r * width, (r + 1) * width);
        const largest = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const factor = Math.fround(largest / 127);
        rowScale[r] = factor;
        if (factor === 0) continue;
        for (const [i, value] of row.entries()) codes[r * width + i] = Math.round(value / factor);
      }
      const blocks = new Uint8Array(codes.buffer);
      return { out, in: width, rowScale, segments: [{ type: I8, from: 0, to: width, blocks }] };
    },
    pack(module, weight) {
      if (!isRows8(weight)) throw packingError("rows8", "option", `${module} is not its own`, "bad-argument");
      const { out, in: width, rowScale, segments } = weight;
      return [
        { name: `${module}.rows`, dtype: "I8", shape: [out, width], data: segments[0].blocks },
        {
          name: `${module}.factors`,
          dtype: "F32",
          shape: [out],
          data: new Uint8Array(rowScale.slice().buffer),
        },
      ];
    },
    configuration: () => ({ quantization: { quant_method: "rows8" } }),
  }),
};

function isRows8(
  weight: LinearWeight,
): weight is LinearWeight & { rowScale: Float32Array; segments: [LinearWeight["segments"][number]] } {
  const { segments, rowScale, permute, bias } = weight;
  return segments.length === 1 && segments[0]?.type === I8 && !!rowScale && !permute && !bias;
}

export function rows8(): Plugin {
  return definePlugin({ name: "rows8", apiVersion: 1, packings: [packing] });
}
