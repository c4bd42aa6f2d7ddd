import { definePlugin, type Packing, type Plugin } from "@lowbit/core";
import { detectExl2, openExl2 } from "./read.ts";
import { exl2Writer } from "./write.ts";

/** EXL2 checkpoints of mixed bit rates, packed as they lie on disk: reader and writer. */
export function exl2(): Plugin {
  return definePlugin({ name: "exl2", apiVersion: 1, packings: [exl2Packing] });
}

/** The packing itself, for use without an engine. */
export const exl2Packing: Packing = {
  name: "exl2",
  detect: detectExl2,
  open: openExl2,
  writer: exl2Writer,
};
