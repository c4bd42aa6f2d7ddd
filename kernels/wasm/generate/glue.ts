/**
 * Writes the JavaScript and type declarations around a module, as wasm-pack lays them out, from the module's own sections:
 *
 *     node generate/glue.ts <folder with lowbit_kernels_bg.wasm> <variant>
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const name = "lowbit_kernels";

interface Signature {
  readonly parameters: readonly string[];
  readonly results: readonly string[];
}

type Exported = { readonly name: string } & (
  | { readonly kind: "function"; readonly signature: Signature }
  | { readonly kind: "table" | "memory" | "global" }
);

interface Sections {
  readonly exports: readonly Exported[];
  readonly memory: {
    readonly initialPages: number;
    readonly maximumPages: number | undefined;
    readonly shared: boolean;
    readonly wide: boolean;
  };
}

const valueTypes: Readonly<Record<number, string>> = {
  127: "number",
  126: "bigint",
  125: "number",
  124: "number",
};

class Reader {
  readonly #bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  byte(): number {
    const value = this.#bytes[this.at++];
    if (value === undefined) throw new Error(`the module ends at byte ${this.at - 1}`);
    return value;
  }

  /** Unsigned LEB128. */
  number(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  text(): string {
    const length = this.number();
    this.at += length;
    return new TextDecoder().decode(this.#bytes.subarray(this.at - length, this.at));
  }

  list<T>(item: () => T): T[] {
    return Array.from({ length: this.number() }, item);
  }

  limits(): Sections["memory"] {
    const flags = this.byte();
    return {
      initialPages: this.number(),
      maximumPages: flags & 1 ? this.number() : undefined,
      shared: (flags & 2) !== 0,
      wide: (flags & 4) !== 0,
    };
  }
}

function readSections(bytes: Uint8Array): Sections {
  const reader = new Reader(bytes, 8);
  let types: Signature[] = [];
  let functions: number[] = [];
  let exports: Exported[] = [];
  let memory: Sections["memory"] | undefined;
  const imported: number[] = [];
  while (reader.at < bytes.length) {
    const id = reader.byte();
    const end = reader.number() + reader.at;
    if (id === 1) {
      types = reader.list(() => {
        reader.byte();
        const value = (): string => valueTypes[reader.byte()] ?? "unknown";
        return { parameters: reader.list(value), results: reader.list(value) };
      });
    } else if (id === 2) {
      reader.list(() => {
        const path = `${reader.text()}.${reader.text()}`;
        const kind = reader.byte();
        if (kind === 0) imported.push(reader.number());
        else if (kind === 2 && path === "env.memory") memory = reader.limits();
        if (path !== "env.memory")
          throw new Error(`the module imports ${path}; it should import only env.memory`);
      });
    } else if (id === 3) {
      functions = reader.list(() => reader.number());
    } else if (id === 7) {
      exports = reader.list(() => {
        const exportName = reader.text();
        const kind = (["function", "table", "memory", "global"] as const)[reader.byte()] ?? "global";
        const index = reader.number();
        if (kind !== "function") return { name: exportName, kind };
        const signature = types[[...imported, ...functions][index] ?? -1];
        if (signature === undefined) throw new Error(`${exportName} has no type`);
        return { name: exportName, kind, signature };
      });
    }
    reader.at = end;
  }
  if (memory === undefined) throw new Error("the module does not import env.memory");
  return { exports, memory };
}

function parameterList(signature: Signature): string {
  return signature.parameters.map((type, i) => `${"abcdefghijklmnop"[i]}: ${type}`).join(", ");
}

function result(signature: Signature): string {
  return signature.results[0] ?? "void";
}

const banner = "// Written by generate/glue.ts from the module's sections.\n";

/** With 64-bit addresses pages are counted in big integers. */
function memoryDescriptor({ initialPages, shared, wide }: Sections["memory"]): string {
  const sizes = wide
    ? `address: "i64", initial: ${initialPages}n, maximum: BigInt(maximumPages)`
    : `initial: ${initialPages}, maximum: maximumPages`;
  return shared ? `${sizes}, shared: true` : sizes;
}

function glue({ exports, memory }: Sections): string {
  const functions = exports.filter((item) => item.kind === "function" && !item.name.startsWith("_"));
  return `${banner}let instance;

/** A memory that the kernels accept; grow it at will. */
export function createMemory(maximumPages = ${memory.maximumPages ?? 65536}) {
  return new WebAssembly.Memory({ ${memoryDescriptor(memory)} });
}

function finish(created, memory) {
  instance = { ...created.exports, memory };
  return instance;
}

function isOptions(input) {
  return typeof input === "object" && input !== null && ("module_or_path" in input || "module" in input);
}

/** Instantiates from bytes or a compiled module, at once. */
export function initSync(input, memory = createMemory()) {
  const source = isOptions(input) ? input.module : input;
  const module = source instanceof WebAssembly.Module ? source : new WebAssembly.Module(source);
  return finish(new WebAssembly.Instance(module, { env: { memory } }), memory);
}

/** Instantiates from a URL, Request, Response, bytes or compiled module; without an argument from the file beside this one. */
export default async function init(input, memory = createMemory()) {
  let source = isOptions(input) ? input.module_or_path : input;
  source = await (source ?? new URL("${name}_bg.wasm", import.meta.url));
  if (typeof source === "string" || source instanceof URL || (typeof Request === "function" && source instanceof Request)) {
    source = await fetch(source);
  }
  if (typeof Response === "function" && source instanceof Response) {
    if (!source.ok) throw new Error(\`\${source.url}: HTTP status \${source.status}\`);
    source = await source.arrayBuffer();
  }
  const module = source instanceof WebAssembly.Module ? source : await WebAssembly.compile(source);
  return finish(await WebAssembly.instantiate(module, { env: { memory } }), memory);
}
${functions.map((item) => `\nexport function ${item.name}(...values) {\n  return instance.${item.name}(...values);\n}\n`).join("")}`;
}

function declarations({ exports }: Sections): string {
  const functions = exports.flatMap((item) =>
    item.kind === "function" && !item.name.startsWith("_")
      ? [`export function ${item.name}(${parameterList(item.signature)}): ${result(item.signature)};`]
      : [],
  );
  return `${banner}export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
${exports
  .flatMap((item) => {
    if (item.kind === "function")
      return [`  readonly ${item.name}: (${parameterList(item.signature)}) => ${result(item.signature)};`];
    return [
      `  readonly ${item.name}: WebAssembly.${item.kind === "table" ? "Table" : item.kind === "global" ? "Global" : "Memory"};`,
    ];
  })
  .join("\n")}
  readonly memory: WebAssembly.Memory;
}

export function createMemory(maximumPages?: number): WebAssembly.Memory;
export function initSync(input: { module: BufferSource | WebAssembly.Module } | BufferSource | WebAssembly.Module, memory?: WebAssembly.Memory): InitOutput;
export default function init(input?: { module_or_path: InitInput | Promise<InitInput> } | InitInput | Promise<InitInput>, memory?: WebAssembly.Memory): Promise<InitOutput>;
${functions.join("\n")}
`;
}

function rawDeclarations({ exports }: Sections): string {
  const lines = exports.map((item) => {
    if (item.kind === "function")
      return `export const ${item.name}: (${parameterList(item.signature)}) => ${result(item.signature)};`;
    return `export const ${item.name}: WebAssembly.${item.kind === "table" ? "Table" : item.kind === "global" ? "Global" : "Memory"};`;
  });
  return `${banner}${lines.join("\n")}\n`;
}

const [folder, variant] = process.argv.slice(2);
if (folder === undefined || variant === undefined)
  throw new Error("usage: generate-glue.ts <folder> <variant>");
const sections = readSections(readFileSync(join(folder, `${name}_bg.wasm`)));
writeFileSync(join(folder, `${name}.js`), glue(sections));
writeFileSync(join(folder, `${name}.d.ts`), declarations(sections));
writeFileSync(join(folder, `${name}_bg.wasm.d.ts`), rawDeclarations(sections));
const manifest = {
  name: `@lowbit/kernels-wasm-${variant}`,
  version: "0.1.0",
  private: true,
  type: "module",
  description: `SIMD WebAssembly kernels, ${variant} build`,
  license: "MIT",
  main: `${name}.js`,
  types: `${name}.d.ts`,
  files: [`${name}_bg.wasm`, `${name}.js`, `${name}.d.ts`, `${name}_bg.wasm.d.ts`],
  sideEffects: false,
};
writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
