import { definePlugin, type Plugin } from "@lowbit/core";
import { compressedTensorsPacking, fp8Packing, modeloptPacking, mxfp4Packing } from "./packings.ts";

export { compressedTensorsPacking, fp8Packing, modeloptPacking, mxfp4Packing };

/** compressed-tensors, ModelOpt, block FP8 and MXFP4 checkpoints, packed as they lie on disk: reader and writer. */
export function compressedTensors(): Plugin {
  return definePlugin({
    name: "compressed-tensors",
    apiVersion: 1,
    packings: [compressedTensorsPacking, modeloptPacking, fp8Packing, mxfp4Packing],
  });
}
