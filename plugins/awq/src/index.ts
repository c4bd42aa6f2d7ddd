import { definePlugin, type Plugin } from "@lowbit/core";
import { detectAwq, openAwq } from "./read.ts";
import { awqWriter } from "./write.ts";

/** AWQ checkpoints in the layouts gemm, gemv and gemv_fast, packed as they lie on disk. */
export function awq(): Plugin {
  return definePlugin({
    name: "awq",
    apiVersion: 1,
    packings: [{ name: "awq", detect: detectAwq, open: openAwq, writer: awqWriter }],
  });
}
