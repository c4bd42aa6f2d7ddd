export type { GgufCheckpoint } from "./checkpoint.ts";
export { type GgufFamily, ggufArchitectures, modelConfig, type ShapeOf } from "./config.ts";
export {
  type GgufArray,
  type GgufEntry,
  type GgufHeader,
  type GgufScalar,
  type GgufTensor,
  type GgufType,
  type GgufValue,
  type NumericArray,
  plainMetadata,
} from "./container.ts";
export * from "./endian.ts";
export * from "./format.ts";
export { type IntegerRange, Keys } from "./keys.ts";
export { quantizableTypes, quantizeTo } from "./quantize.ts";
export { readGguf } from "./read.ts";
export { roleOf, tensorName } from "./roles.ts";
export { splitFileName } from "./split.ts";
export * from "./types.ts";
export { validateGguf } from "./validate.ts";
export * from "./write.ts";
export { ggufWriter } from "./writer.ts";
