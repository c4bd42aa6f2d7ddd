export * from "./data.ts";
export * from "./files.ts";
export * from "./random.ts";
export * from "./round-to-type.ts";
export * from "./run-model.ts";
export * from "./test-backend.ts";
export * from "./test-platform.ts";
export * from "./tiny-model.ts";
