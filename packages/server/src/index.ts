export type { ModelSource } from "./models.ts";
export { createServer, type Server, type ServerOptions } from "./server.ts";
export type { Limits } from "./work.ts";
