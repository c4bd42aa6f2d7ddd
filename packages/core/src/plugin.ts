import type { Architecture } from "./architecture.ts";
import type { BackendFactory } from "./backend.ts";
import type { Format } from "./format.ts";
import type { Packing } from "./packing.ts";

/** A bag of any of the nouns. Plugins are handed over in arrays; nothing registers itself. */
export interface Plugin {
  readonly name: string;
  /** The contract's version this was written for. */
  readonly apiVersion: 1;
  readonly formats?: readonly Format[];
  readonly packings?: readonly Packing[];
  readonly architectures?: readonly Architecture[];
  readonly backends?: readonly BackendFactory[];
}

/** Identity, for its type. */
export function definePlugin(plugin: Plugin): Plugin {
  return plugin;
}
