import type {
  Architecture,
  Backend,
  BackendFactory,
  Checkpoint,
  FileSet,
  Format,
  KvSpec,
  KvStore,
  LinearWeight,
  ModelConfig,
  Ops,
  Platform,
  QuantType,
  Tensor,
  Tokenizer,
  Weight,
  WeightEntry,
} from "@lowbit/core";
import { kvPositionBytes, LowbitError } from "@lowbit/core";

/**
 * A model whose logits are a function of the tokens before them, for tests of everything around the arithmetic. Its cache holds
 * the tokens themselves, and each pass reads them back through the page tables: wrong paging changes the text.
 */

export const vocabularySize = 260;
export const beginToken = 256;
export const endToken = 257;
export const turnToken = 258;

/** Logits after `history`. */
export type Script = (history: readonly number[]) => ArrayLike<number>;

export const config: ModelConfig = {
  architecture: "scripted",
  contextLength: 2048,
  vocabularySize,
  embeddingSize: 8,
  layers: 1,
  feedForwardSize: 16,
  heads: 1,
  kvHeads: 1,
  keySize: 4,
  valueSize: 4,
  normEpsilon: 1e-5,
};

const f32: QuantType = {
  name: "F32",
  block: 1,
  bytes: 4,
  code: { per: 1, pieces: [] },
  values: { kind: "dense", format: "f32" },
};

interface HostTensor extends Tensor {
  readonly data: Float32Array;
}

interface TokenStore extends KvStore {
  readonly tokens: Int32Array;
}

/** Different histories give different logits; the same one always the same. Favours ASCII letters. */
export const hashScript: Script = (history) => {
  let hash = 17;
  for (const token of history) hash = (Math.imul(hash, 31) + token) | 0;
  return Float32Array.from({ length: vocabularySize }, (_, id) => {
    const mixed = Math.imul(hash ^ Math.imul(id + 1, 0x9e3779b1), 0x85ebca6b) >>> 8;
    return (mixed / 2 ** 24) * 4 + (id >= 97 && id <= 122 ? 2 : 0) - (id >= 256 ? 100 : 0);
  });
};

/** Says these tokens one after another, whatever was asked: the n-th answer token follows `promptLength + n` tokens. */
export function saying(tokens: readonly number[], promptLength: number): Script {
  return (history) => {
    const next = tokens[history.length - promptLength] ?? endToken;
    return Float32Array.from({ length: vocabularySize }, (_, id) => (id === next ? 10 : 0));
  };
}

export function scriptedArchitecture(script: Script = hashScript, shifts = true): Architecture {
  return {
    id: "scripted",
    names: ["scripted"],
    weights: ({ embeddingSize }) => [
      { role: "embed", kind: "linear", shape: [vocabularySize, embeddingSize] },
      { role: "norm", kind: "vector", shape: [embeddingSize] },
      { role: "head", kind: "linear", shape: [vocabularySize, embeddingSize], optional: true },
    ],
    // Its keys do not turn; the backend wants to hear by how much they would.
    ...(shifts && { keyTurn: (_, __, by) => ({ angles: Float32Array.of(by), pairing: "halves" }) }),
    forward({ ops, kv }, batch, rows, output) {
      const { tokens, pageTokens } = kv as TokenStore;
      const place = (table: Int32Array | undefined, position: number): number =>
        (table?.[Math.floor(position / pageTokens)] ?? -1) * pageTokens + (position % pageTokens);
      for (const [i, token] of batch.tokens.entries()) {
        tokens[place(batch.pages[batch.sequences[i] ?? 0], batch.positions[i] ?? 0)] = token;
      }
      const width = output === "logits" ? vocabularySize : 8;
      const data = new Float32Array(rows.length * width);
      for (const [r, row] of rows.entries()) {
        const table = batch.pages[batch.sequences[row] ?? 0];
        const length = (batch.positions[row] ?? 0) + 1;
        const history = Array.from({ length }, (_, position) => tokens[place(table, position)] ?? -1);
        const hidden = Float32Array.from({ length: 8 }, (_, i) => (history[length - 1] === i ? 1 : length));
        data.set(output === "logits" ? script(history) : hidden, r * width);
      }
      return ops.constant(data, rows.length, width);
    },
  };
}

export interface ScriptedBackendOptions {
  limitBytes?: number;
  /** Runs inside each submit; may throw. */
  onSubmit?: (count: number) => void | Promise<void>;
}

export interface ScriptedBackend extends BackendFactory {
  /** Resources alive over all backends created. */
  readonly alive: Set<object>;
  readonly created: () => number;
  readonly disposed: () => number;
}

export function scriptedBackend(options: ScriptedBackendOptions = {}): ScriptedBackend {
  const alive = new Set<object>();
  let created = 0;
  let disposed = 0;
  const create = (): Backend => {
    created++;
    const mine = new Set<object>();
    const track = <T extends object>(resource: T): T => {
      alive.add(resource);
      mine.add(resource);
      return resource;
    };
    let inside = false;
    let submits = 0;
    let used = 0;
    const ops = new Proxy({} as Ops, {
      get: (_, name) => {
        if (name === "constant") {
          return (data: Float32Array, rows: number, columns: number): HostTensor => ({ data, rows, columns });
        }
        throw new LowbitError("internal", `The scripted backend has no op ${String(name)}.`);
      },
    });
    return {
      name: "scripted",
      description: "says what it is told",
      layout: () => ({ name: "dense f32", bitsPerWeight: 32 }),
      weightBytes: (_, rows, columns) => rows * columns * 4,
      upload(weight) {
        used += weight.out * weight.in * 4;
        const { out, in: width, experts = 1 } = weight;
        return track<Weight>({ out, in: width, experts, layout: "dense f32", bytes: out * width * 4 });
      },
      vector: (data) => track<HostTensor>({ data: data.slice(), rows: 1, columns: data.length }),
      kvBytes: kvBytes,
      kv: (spec) => {
        const tokens = new Int32Array(spec.pages * spec.pageTokens).fill(-7);
        return track<TokenStore>({ ...spec, bytes: kvBytes(spec), tokens });
      },
      copyPage(kv, from, to) {
        const { tokens, pageTokens } = kv as TokenStore;
        tokens.copyWithin(to * pageTokens, from * pageTokens, (from + 1) * pageTokens);
      },
      movePositions(kv, { source, target, from, to, count, turns }) {
        const { tokens, pageTokens } = kv as TokenStore;
        if (turns.length !== kv.layers || turns.some(({ angles }) => angles[0] !== to - from)) {
          throw new LowbitError("internal", "wrong turns");
        }
        const place = (table: Int32Array, position: number): number =>
          (table[Math.floor(position / pageTokens)] ?? -1) * pageTokens + (position % pageTokens);
        for (let i = 0; i < count; i++) tokens[place(target, to + i)] = tokens[place(source, from + i)] ?? -9;
      },
      // A position's four bytes of keys hold its token, the rest nothing.
      async readPage(kv, page, count) {
        const { tokens, pageTokens } = kv as TokenStore;
        const bytes = new Uint8Array(count * kvPositionBytes(kv));
        bytes.set(new Uint8Array(tokens.buffer, 4 * page * pageTokens, 4 * count));
        return bytes;
      },
      writePage(kv, page, count, bytes) {
        const { tokens, pageTokens } = kv as TokenStore;
        new Uint8Array(tokens.buffer, 4 * page * pageTokens, 4 * count).set(bytes.subarray(0, 4 * count));
      },
      free: (resource) => {
        if (!alive.delete(resource)) throw new LowbitError("internal", "freed twice");
      },
      ops,
      async submit() {
        if (inside) throw new LowbitError("internal", "two passes at once");
        inside = true;
        try {
          await options.onSubmit?.(++submits);
        } finally {
          inside = false;
        }
      },
      read: async (tensor) => (tensor as HostTensor).data.slice(),
      memory: () => ({
        usedBytes: used,
        heldBytes: used,
        limitBytes: options.limitBytes ?? Number.POSITIVE_INFINITY,
      }),
      async dispose() {
        disposed++;
        for (const resource of mine) alive.delete(resource);
      },
    };
  };
  return {
    name: "scripted",
    probe: async () => ({ available: true }),
    create: async () => create(),
    alive,
    created: () => created,
    disposed: () => disposed,
  };
}

function kvBytes({ layers, kvHeads, keySize, valueSize, pageTokens, pages, type }: KvSpec): number {
  const bytes = type === "f32" ? 4 : type === "f16" ? 2 : 1;
  return layers * kvHeads * (keySize + valueSize) * pageTokens * pages * bytes;
}

export interface ScriptedFormatOptions {
  config?: Partial<ModelConfig>;
  /** Changes the entries before they are handed out. */
  entries?: (entries: WeightEntry[]) => WeightEntry[];
  /** Called for each weight that is read. */
  onRead?: (role: string) => void | Promise<void>;
  tokenizer?: boolean;
  metadata?: ReadonlyMap<string, unknown>;
}

export interface ScriptedFormat extends Format {
  /** Checkpoints opened and not closed. */
  readonly open: Format["open"];
  readonly openCount: () => number;
  readonly read: string[];
}

export function scriptedFormat(options: ScriptedFormatOptions = {}): ScriptedFormat {
  let open = 0;
  const read: string[] = [];
  const { embeddingSize } = config;
  const all: WeightEntry[] = [
    {
      role: "embed",
      name: "e.weight",
      shape: [vocabularySize, embeddingSize],
      type: f32,
      bytes: vocabularySize * embeddingSize * 4,
    },
    { role: "norm", name: "n.weight", shape: [embeddingSize], type: f32, bytes: embeddingSize * 4 },
  ];
  const checkpoint = (): Checkpoint => {
    let closed = false;
    return {
      format: "scripted",
      config: { ...config, ...options.config },
      metadata: options.metadata ?? new Map([["scripted.key", 1]]),
      ...(options.tokenizer !== false && { tokenizer: { kind: "ggml", metadata: new Map() } as const }),
      entries: () => options.entries?.(all) ?? all,
      async weight(role) {
        read.push(role);
        await options.onRead?.(role);
        const weight: LinearWeight = {
          out: vocabularySize,
          in: embeddingSize,
          segments: [
            {
              type: f32,
              from: 0,
              to: embeddingSize,
              blocks: new Uint8Array(vocabularySize * embeddingSize * 4),
            },
          ],
        };
        return weight;
      },
      async vector(role) {
        read.push(role);
        await options.onRead?.(role);
        return new Float32Array(embeddingSize).fill(1);
      },
      async close() {
        if (!closed) open--;
        closed = true;
      },
    };
  };
  return {
    name: "scripted",
    async detect(files: FileSet) {
      const source = await files.open(files.entry ?? "model");
      const head = await source.read(0, Math.min(4, source.size));
      return String.fromCharCode(...head) === "SCRI" ? 1 : 0;
    },
    async open() {
      open++;
      return checkpoint();
    },
    openCount: () => open,
    read,
  };
}

/** Bytes that `scriptedFormat` takes for its own. */
export const scriptedFile: Uint8Array = new TextEncoder().encode("SCRIPTED");

/** Bytes are tokens; 256 begins, 257 ends, 258 ends a turn and is written "<turn>" in templates. */
export function byteTokenizer(): Tokenizer {
  const encodeBytes = (text: string): number[] => [...new TextEncoder().encode(text)];
  const tokenizer: Tokenizer = {
    kind: "bytes",
    vocabularySize,
    bos: beginToken,
    eos: endToken,
    endTokens: new Set([endToken, turnToken]),
    encode(text, { addSpecial = true, parseSpecial = false } = {}) {
      const parts = parseSpecial ? text.split("<turn>") : [text];
      const ids = parts.flatMap((part, i) => [...(i > 0 ? [turnToken] : []), ...encodeBytes(part)]);
      return addSpecial ? [beginToken, ...ids] : ids;
    },
    decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids.filter((id) => id < 256))),
    bytes: (id) => (id < 256 ? Uint8Array.of(id) : new Uint8Array(0)),
    token: (id) => String(id),
    id: () => undefined,
    isSpecial: (id) => id >= 256,
    stream() {
      const decoder = new TextDecoder();
      return {
        push: (id) => (id < 256 ? decoder.decode(Uint8Array.of(id), { stream: true }) : ""),
        flush: () => decoder.decode(),
      };
    },
    renderChat: (messages) =>
      `${messages.map(({ role, content }) => `${role[0]}:${content}<turn>`).join("")}a:`,
  };
  return tokenizer;
}

export function testPlatform(memoryLimitBytes: number = 2 ** 30): Platform {
  return {
    name: "test",
    files: async (location) => {
      throw new LowbitError("not-found", `no ${location} here`);
    },
    wasm: async () => {
      throw new LowbitError("not-found", "no modules here");
    },
    now: () => performance.now(),
    yield: () => new Promise((resolve) => setImmediate(resolve)),
    memoryLimitBytes,
  };
}
