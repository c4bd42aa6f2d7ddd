import { readFileSync } from "node:fs";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import { safetensors } from "@lowbit/safetensors";
import { describeWithData, runModel, testData, testPlatform, trackedFiles } from "@lowbit/testing";
import { expect, test } from "vitest";
import { exl2Packing } from "./index.ts";

const name = "exl2-mixed";

describeWithData("a whole model", [`golden/models/${name}`], () => {
  const numbers = (path: string): ArrayBuffer =>
    Uint8Array.from(readFileSync(testData(`golden/models/${path}`) as string)).buffer;
  const tokens = [...new Int32Array(numbers("tokens.i32.bin"))];
  const expected = new Float32Array(numbers(`logits/${name}.f32.bin`));
  const most = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

  // The reference's 2e-3 is for any f32 implementation; ours adds up in f64. WASM rounds activations to 8 bits.
  test.each([
    ["reference", reference(), 1e-5],
    ["WASM", wasm(), 0.05],
  ] as const)("logits on %s", async (_, factory, bound) => {
    const [format] = safetensors().formats!;
    const files = trackedFiles(testData(`golden/models/${name}`) as string);
    const checkpoint = await format!.open(files, undefined, [exl2Packing]);
    const backend = await factory.create(testPlatform());
    const logits = await runModel({ checkpoint, architectures, backend, tokens });
    await checkpoint.close();
    await backend.dispose();
    const worst = logits.reduce((worst, value, i) => Math.max(worst, Math.abs(value - expected[i]!)), 0);
    expect(worst / most).toBeLessThan(bound);
  });
});
