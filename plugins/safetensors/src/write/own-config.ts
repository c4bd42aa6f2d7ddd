import { type CheckpointSource, type JsonValue, type PlainJson, parseJson } from "@lowbit/core";
import type { JsonObject } from "../config-fields.ts";
import { wrappers } from "../families.ts";
import { classOf, type FamilyConfig } from "./config-json.ts";
import type { JsonFields } from "./json-fields.ts";

/** Fields of a multimodal model's configuration that its language model's may leave out. */
const shared = ["bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype"];

/**
 * The config.json of a source that is such a folder itself: it says more than lowbit understands. Of a multimodal model only the
 * language model is written, and so its part. Undefined for other sources.
 */
export async function ownConfig(
  source: CheckpointSource,
  family: FamilyConfig,
  signal: AbortSignal | undefined,
): Promise<JsonFields | undefined> {
  if (source.format !== "safetensors") return undefined;
  const bytes = (await source.companions?.(signal))?.get("config.json");
  const root = bytes && parseJson(new TextDecoder().decode(bytes), "config.json");
  if (!(root instanceof Map)) return undefined;
  const config: JsonObject = root;
  const named = config.get("model_type");
  const wrapper = typeof named === "string" && Object.hasOwn(wrappers, named) ? wrappers[named] : undefined;
  const inner = wrapper && config.get(wrapper.object);
  if (!wrapper || !(inner instanceof Map)) return plain(config) as JsonFields;
  const language = inner as JsonObject;
  const type = language.get("model_type");
  const modelType = typeof type === "string" ? type : wrapper.type;
  const above = shared.filter((name) => !language.has(name) && config.has(name));
  return {
    ...(plain(language) as JsonFields),
    ...Object.fromEntries(above.map((name) => [name, plain(config.get(name) ?? null)])),
    architectures: [classOf(modelType) ?? family.className],
    model_type: modelType,
  };
}

/** Strictly parsed JSON as what `JSON.stringify` takes. */
function plain(value: JsonValue): PlainJson {
  if (value instanceof Map) {
    const entries = [...(value as JsonObject)];
    // Defines fields, so that "__proto__" is one like others.
    return Object.fromEntries(entries.map(([name, inner]) => [name, plain(inner)]));
  }
  return Array.isArray(value) ? (value as readonly JsonValue[]).map(plain) : (value as PlainJson);
}
