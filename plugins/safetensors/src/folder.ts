import { type FileSet, type JsonValue, LowbitError, parseJson, type TokenizerSource } from "@lowbit/core";
import type { JsonObject } from "./config-fields.ts";
import { safetensorsError } from "./errors.ts";

/** Most bytes of a JSON file beside the weights: vocabularies have some ten megabytes. */
const maxBytes = 200_000_000;
const maxConfigBytes = 20_000_000;

/** Files that belong to a model, for a writer of such folders; config.json is what its own is made from. */
const companionFiles = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "LICENSE",
];

/** Reads the small files beside the weights. A file that is not there is undefined. */
export class Folder {
  readonly #files: FileSet;
  readonly #signal: AbortSignal | undefined;

  constructor(files: FileSet, signal: AbortSignal | undefined) {
    this.#files = files;
    this.#signal = signal;
  }

  async bytes(file: string, most: number = maxBytes): Promise<Uint8Array | undefined> {
    let source: Awaited<ReturnType<FileSet["open"]>>;
    try {
      source = await this.#files.open(file, this.#signal);
    } catch (error) {
      if (LowbitError.is(error) && error.code === "not-found") return undefined;
      throw error;
    }
    try {
      if (source.size > most) {
        throw safetensorsError("file-corrupt", "limit-exceeded", `${source.name} has ${source.size} bytes.`);
      }
      return (await source.read(0, source.size, this.#signal)).slice();
    } finally {
      await source.close?.();
    }
  }

  async text(file: string, most?: number): Promise<string | undefined> {
    const bytes = await this.bytes(file, most);
    if (bytes === undefined) return undefined;
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch (cause) {
      const what = `${this.#files.name}: ${file} is not UTF-8.`;
      throw safetensorsError("file-corrupt", "invalid-utf8", what, { cause });
    }
  }

  /** Strictly parsed: for what decides how weights are read. */
  async json(file: string): Promise<JsonObject | undefined> {
    const text = await this.text(file, maxConfigBytes);
    if (text === undefined) return undefined;
    const value: JsonValue = parseJson(text, `${this.#files.name}: ${file}`);
    if (value instanceof Map) return value as JsonObject;
    throw safetensorsError("file-corrupt", "invalid-json", `${this.#files.name}: ${file} is not an object.`);
  }

  /** Parsed by the engine, which is fast: for vocabularies. */
  async plain(file: string): Promise<unknown> {
    const text = await this.text(file);
    if (text === undefined) return undefined;
    try {
      return JSON.parse(text) as unknown;
    } catch (cause) {
      const what = `${this.#files.name}: ${file} is not JSON.`;
      throw safetensorsError("file-corrupt", "invalid-json", what, { cause });
    }
  }

  async companions(): Promise<ReadonlyMap<string, Uint8Array>> {
    const found = new Map<string, Uint8Array>();
    for (const file of companionFiles) {
      const bytes = await this.bytes(file);
      if (bytes) found.set(file, bytes);
    }
    return found;
  }

  /** tokenizer.json with what other files add: a chat template of its own, and the tokens that end a generation. */
  async tokenizer(config: JsonObject | undefined): Promise<TokenizerSource | undefined> {
    const tokenizer = await this.plain("tokenizer.json");
    if (tokenizer === undefined) return undefined;
    const settings = await this.plain("tokenizer_config.json");
    const special = await this.plain("special_tokens_map.json");
    const template =
      (await this.text("chat_template.jinja")) ?? (await this.#templateOf("chat_template.json"));
    const generation = await this.json("generation_config.json");
    const ends = [generation?.get("eos_token_id"), config?.get("eos_token_id")]
      .flatMap((value): readonly unknown[] => (Array.isArray(value) ? value : [value]))
      .filter((id): id is number => Number.isSafeInteger(id) && (id as number) >= 0);
    return {
      kind: "huggingface",
      tokenizer,
      config: { ...asObject(special), ...asObject(settings), ...(template && { chat_template: template }) },
      ...(ends.length > 0 && { endTokens: [...new Set(ends)] }),
    };
  }

  async #templateOf(file: string): Promise<string | undefined> {
    const value = (await this.json(file))?.get("chat_template");
    return typeof value === "string" ? value : undefined;
  }
}

function asObject(value: unknown): object {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : {};
}
