import { readFileSync } from "node:fs";
import type { BackendFactory } from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import { safetensors } from "@lowbit/safetensors";
import {
  describeWithData,
  meanDivergence,
  repackModel,
  runModel,
  testData,
  testPlatform,
  trackedFiles,
} from "@lowbit/testing";
import { expect, it } from "vitest";
import { awqPacking as packing } from "./index.ts";

describeWithData("a whole model", ["golden/models/hf-f16"], () => {
  const folder = testData("golden/models/hf-f16")!;
  const tokens = [
    ...new Int32Array(Uint8Array.from(readFileSync(testData("golden/models/tokens.i32.bin")!)).buffer),
  ];

  async function logits(files: Readonly<Record<string, Uint8Array>>, factory: BackendFactory) {
    const [format] = safetensors().formats!;
    const checkpoint = await format!.open(trackedFiles(files), undefined, [packing]);
    const backend = await factory.create(testPlatform());
    const values = await runModel({ checkpoint, architectures, backend, tokens });
    await checkpoint.close();
    await backend.dispose();
    return values;
  }

  it.each([{ groupSize: 64 }, { groupSize: -1, variant: "gemv" }, { groupSize: 32, variant: "gemv_fast" }])(
    "packed as %j computes what its plain values do",
    async (options) => {
      const { packed, plain, modules } = await repackModel(folder, packing.writer(options));
      // Two layers of seven projections; the head stays plain.
      expect(modules).toBe(14);
      const expected = await logits(plain, reference());
      expect(await logits(packed, reference())).toEqual(expected);
      // WASM rounds inputs to 8 bits.
      expect(meanDivergence(expected, await logits(packed, wasm()), 320)).toBeLessThan(2e-3);
    },
  );
});
