export { type CompareOptions, compareVectors, compareWeights, type Difference } from "./compare.ts";
export { type Conversion, type ConversionProgress, convert } from "./convert.ts";
export { type MemoryFolder, type MemoryOutput, memoryFolder, memoryOutput } from "./memory.ts";
export type {
  ConversionReport,
  Fidelity,
  ReportTotal,
  StoredSize,
  UnusedTensor,
  WeightError,
  WeightReport,
} from "./report.ts";
export { type ConversionTarget, type TargetOptions, targetNames, writerFor } from "./target.ts";
