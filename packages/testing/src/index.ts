export * from "./data.ts";
