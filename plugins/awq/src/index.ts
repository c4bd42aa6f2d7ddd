import { definePlugin, type Packing, type Plugin } from "@lowbit/core";
import { detectAwq, openAwq } from "./read.ts";
import { awqWriter } from "./write.ts";

/** AWQ modules: reader and writer. */
export const awqPacking: Packing & Required<Pick<Packing, "writer">> = {
  name: "awq",
  detect: detectAwq,
  open: openAwq,
  writer: awqWriter,
};

/** AWQ checkpoints in the layouts gemm, gemv and gemv_fast, packed as they lie on disk. */
export function awq(): Plugin {
  return definePlugin({ name: "awq", apiVersion: 1, packings: [awqPacking] });
}
