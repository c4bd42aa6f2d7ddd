export type { Chat, ChatOptions, TurnOptions } from "./chat.ts";
export { createEngine, type Engine, type EngineOptions } from "./create-engine.ts";
export type { EmbedOptions } from "./embed.ts";
export type { ModelLocation } from "./files.ts";
export type { ForwardOptions, LogitRows } from "./forward.ts";
export type { InspectedTensor, Inspection } from "./inspect.ts";
export type { Model, ModelInfo } from "./model.ts";
export type { LoadOptions, LoadProgress } from "./options.ts";
export type { MemoryPlan, PlannedWeight } from "./plan.ts";
