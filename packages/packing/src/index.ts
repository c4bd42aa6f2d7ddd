export * from "./bit-stream.ts";
export * from "./integer-grid.ts";
export * from "./packed-modules.ts";
export * from "./pattern.ts";
export * from "./quantize-grid.ts";
export * from "./regrid.ts";
export * from "./safetensors.ts";
export * from "./safetensors-files.ts";
