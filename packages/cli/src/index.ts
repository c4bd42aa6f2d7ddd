export { exitCodes } from "./errors.ts";
export { type Io, processIo } from "./io.ts";
export { main } from "./program.ts";
