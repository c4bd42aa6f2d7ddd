import { awq } from "@lowbit/awq";
import { bitsandbytes } from "@lowbit/bitsandbytes";
import { compressedTensors } from "@lowbit/compressed-tensors";
import { denseWeight, type LinearWeight } from "@lowbit/core";
import { exl2 } from "@lowbit/exl2";
import { gptq } from "@lowbit/gptq";
import { hqq } from "@lowbit/hqq";
import { describeWithData, goldenCases, packedCheckpoint, testData } from "@lowbit/testing";
import { expect, it } from "vitest";
import { holdMatrix } from "./hold.ts";

const packings = [gptq(), awq(), exl2(), bitsandbytes(), compressedTensors(), hqq()].flatMap(
  (plugin) => plugin.packings ?? [],
);

describeWithData("golden weights of other formats keep every value", ["golden/manifest.json"], () => {
  const cases = goldenCases(
    "gptq",
    "awq",
    "exl2",
    "bnb4",
    "bnb8",
    "hqq",
    "compressed-tensors",
    "fp8",
    "mxfp4",
  );
  const found = new Map<string, string>();

  it.each(cases)("$id", async ({ id, files, config, module }) => {
    const checkpoint = await packedCheckpoint(testData(`golden/${files.packed}`) as string, config);
    const [packing] = packings.toSorted((a, b) => b.detect(checkpoint) - a.detect(checkpoint));
    const weight = (await (await packing!.open(checkpoint)).weight(module!)) as LinearWeight;
    const { type, blocks, moved, factors } = holdMatrix(weight);
    const { out, in: width, experts = 1 } = weight;
    const rowScale =
      factors && Float32Array.from({ length: experts * out }, (_, r) => factors[Math.floor(r / out)]!);
    const held: LinearWeight = {
      out,
      in: width,
      experts,
      ...(rowScale && { rowScale }),
      segments: [{ type, from: 0, to: width, blocks }],
    };
    const plus = (values: Float32Array): Float32Array => values.map((value) => value + 0);
    expect(plus(denseWeight(held))).toEqual(plus(denseWeight(weight)));
    found.set(id, `${type.name}${moved ? ", moved" : ""}`);
  });

  it("in these types", () => {
    expect(Object.fromEntries(found)).toMatchInlineSnapshot(`
      {
        "awq-gemm-g-1": "Q5_0",
        "awq-gemm-g128": "Q5_0",
        "awq-gemm-g32": "Q5_0",
        "awq-gemm-g64": "Q5_0",
        "awq-gemv-g128": "Q5_0",
        "awq-gemv-g32": "Q5_0",
        "awq-gemv-g64": "Q5_0",
        "awq-gemvfast-g128": "F32",
        "awq-gemvfast-g32": "F32",
        "awq-gemvfast-g64": "F32",
        "bnb4-fp4-bs64-dq-float16": "F32",
        "bnb4-fp4-bs64-float16": "F32",
        "bnb4-nf4-bs128-dq-float16": "F32",
        "bnb4-nf4-bs128-float16": "F32",
        "bnb4-nf4-bs64-dq-bfloat16": "F32",
        "bnb4-nf4-bs64-dq-float16": "F32",
        "bnb4-nf4-bs64-float16": "F32",
        "bnb8-llm-int8": "F32",
        "compressed-tensors-ct-fp8-channel": "F32",
        "compressed-tensors-int8-channel": "Q8_0",
        "compressed-tensors-modelopt-nvfp4": "NVFP4, moved",
        "compressed-tensors-mxfp4": "MXFP4, moved",
        "compressed-tensors-nvfp4": "F32",
        "compressed-tensors-pack-b3-asym": "Q4_0",
        "compressed-tensors-pack-b3-sym": "Q4_0",
        "compressed-tensors-pack-b4-asym": "Q5_0",
        "compressed-tensors-pack-b4-sym": "Q4_0",
        "compressed-tensors-pack-b8-asym": "F32",
        "compressed-tensors-pack-b8-sym": "Q8_0",
        "exl2-2bit-g16": "F16",
        "exl2-43-g32": "F16",
        "exl2-65-g128": "F16",
        "exl2-head6-g128-ident": "F16",
        "exl2-mixed-865432": "F16",
        "fp8-deepseek-block128": "F32",
        "fp8-fp8-e5m2-tensor": "F32",
        "gptq-b2-g32-asym-v1": "Q4_0",
        "gptq-b2-g32-asym-v2": "Q4_0",
        "gptq-b2-g64-sym-act-v1": "F16",
        "gptq-b2-g64-sym-act-v2": "F16",
        "gptq-b3-g128-sym-v1": "Q4_0",
        "gptq-b3-g128-sym-v2": "Q4_0",
        "gptq-b3-g64-asym-act-v1": "F32",
        "gptq-b3-g64-asym-act-v2": "F32",
        "gptq-b4-g128-sym-v1": "Q4_0, moved",
        "gptq-b4-g128-sym-v2": "Q4_0, moved",
        "gptq-b4-g32-sym-act-v1": "F32",
        "gptq-b4-g32-sym-act-v2": "F32",
        "gptq-b4-g64-asym-act-static-v1": "Q5_0",
        "gptq-b4-g64-asym-act-static-v2": "Q5_0",
        "gptq-b4-g64-asym-v1": "Q5_0",
        "gptq-b4-g64-asym-v2": "Q5_0",
        "gptq-b4-gall-sym-v1": "Q4_0, moved",
        "gptq-b4-gall-sym-v2": "Q4_0, moved",
        "gptq-b4-zero-wrap-v1": "Q5_0",
        "gptq-b8-g128-sym-v1": "Q8_0, moved",
        "gptq-b8-g128-sym-v2": "Q8_0, moved",
        "gptq-b8-g64-asym-act-v1": "F32",
        "gptq-b8-g64-asym-act-v2": "F32",
        "gptq-p-b3-g64": "Q4_0",
        "gptq-p-b5-g64": "Q8_0",
        "gptq-p-b6-g64": "Q8_0",
        "gptq-p-b7-g64": "Q8_0",
        "hqq-b1-axis0": "F32, moved",
        "hqq-b1-axis1": "F32",
        "hqq-b2-axis0": "F32, moved",
        "hqq-b2-axis1": "F32",
        "hqq-b3-axis0": "F32, moved",
        "hqq-b3-axis1": "F32",
        "hqq-b4-axis0": "F32, moved",
        "hqq-b4-axis1": "F32",
        "hqq-b8-axis0": "F32, moved",
        "hqq-b8-axis1": "F32",
        "mxfp4-gpt-oss-experts": "MXFP4, moved",
      }
    `);
  });
});
