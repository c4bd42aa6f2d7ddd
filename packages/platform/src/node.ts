import { type FileHandle, open, readdir, readFile, stat } from "node:fs/promises";
import { totalmem } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { constrainedMemory } from "node:process";
import { fileURLToPath } from "node:url";
import {
  type ByteSource,
  checkRange,
  type FileSet,
  LowbitError,
  type Platform,
  throwIfAborted,
} from "@lowbit/core";
import { checkFileName, schemeOf, unknownScheme } from "./names.ts";
import { type RemoteOptions, remoteFiles } from "./remote.ts";

export type { RemoteOptions } from "./remote.ts";

export interface PlatformOptions extends RemoteOptions {
  /** Memory that a model may take. @default 80 % of the machine's memory, or of the container's limit */
  memoryLimitBytes?: number;
}

/** Node.js, and runtimes that offer its modules. */
export function platform(options: PlatformOptions = {}): Platform {
  return {
    name: process.versions.bun ? "bun" : process.versions.deno ? "deno" : "node",
    async files(location, signal) {
      throwIfAborted(signal);
      const place = locate(location);
      return typeof place === "string" ? localFiles(place) : remoteFiles(place, options);
    },
    async wasm(url, signal) {
      if (url.protocol === "file:") return WebAssembly.compile(await readFile(url, { signal }));
      const response = await (options.fetch ?? globalThis.fetch)(url, { signal: signal ?? null });
      if (!response.ok) {
        throw new LowbitError("not-found", `${url.href}: the server answered ${response.status}.`, {
          reason: `http-${response.status}`,
        });
      }
      return WebAssembly.compile(await response.arrayBuffer());
    },
    now: () => performance.now(),
    yield: () => new Promise((done) => setImmediate(done)),
    memoryLimitBytes: options.memoryLimitBytes ?? Math.floor(machineMemory() * 0.8),
  };
}

/** A local path, or the URL to fetch. */
function locate(location: string | URL): string | URL {
  const text = String(location);
  const scheme = schemeOf(text);
  if (scheme === undefined) return text;
  if (["file", "http", "https", "data"].includes(scheme)) {
    try {
      return scheme === "file" ? fileURLToPath(text) : new URL(text);
    } catch (error) {
      throw new LowbitError("bad-argument", `${JSON.stringify(text.slice(0, 200))} is not a valid URL.`, {
        reason: "url",
        cause: error,
      });
    }
  }
  throw unknownScheme(text, ["a path", "a file: URL", "an http(s): URL", "a Blob", "a Uint8Array"]);
}

async function localFiles(path: string): Promise<FileSet> {
  const info = await stat(path).catch((error: unknown) => {
    throw notFound(path, error);
  });
  if (!info.isFile() && !info.isDirectory()) {
    throw new LowbitError("not-found", `${path} is neither a file nor a folder.`, { reason: "not-a-file" });
  }
  const full = resolve(path);
  const folder = info.isDirectory() ? full : dirname(full);
  return {
    name: path,
    entry: info.isDirectory() ? undefined : basename(full),
    async list(signal) {
      throwIfAborted(signal);
      const found = await readdir(folder, { withFileTypes: true });
      // Model caches hold symbolic links to the real files.
      return found.filter((item) => item.isFile() || item.isSymbolicLink()).map((item) => item.name);
    },
    async open(file, signal) {
      throwIfAborted(signal);
      checkFileName(file, folder);
      return fileSource(join(folder, file));
    },
  };
}

/** A source over a local file. Reads fill their own buffers; `close` waits for those in flight. */
export async function fileSource(path: string): Promise<ByteSource> {
  const handle = await open(path, "r").catch((error: unknown) => {
    throw notFound(path, error);
  });
  const info = await handle.stat().catch(async (error: unknown) => {
    await handle.close();
    throw notFound(path, error);
  });
  if (!info.isFile()) {
    await handle.close();
    throw new LowbitError("not-found", `${path} is not a regular file.`, { reason: "not-a-file" });
  }
  const { size } = info;
  let closing: Promise<void> | undefined;
  return {
    name: path,
    size,
    async read(offset, length, signal) {
      throwIfAborted(signal);
      checkRange({ name: path, size }, offset, length);
      if (closing) {
        throw new LowbitError("bad-argument", `${path} was read after it was closed.`, { reason: "closed" });
      }
      return readExactly(handle, path, offset, length, signal);
    },
    close() {
      closing ??= handle.close();
      return closing;
    },
  };
}

/** One read call takes less than 2 GiB, and may return less than it was asked for. */
const maxReadBytes = 2 ** 28;

async function readExactly(
  handle: FileHandle,
  path: string,
  offset: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  // Not from the pool, and not cleared: every byte is overwritten.
  const buffer = Buffer.allocUnsafeSlow(length);
  const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, length);
  for (let filled = 0; filled < length; ) {
    const wanted = Math.min(length - filled, maxReadBytes);
    const { bytesRead } = await handle.read(bytes, filled, wanted, offset + filled);
    throwIfAborted(signal);
    if (bytesRead === 0) {
      throw new LowbitError("file-corrupt", `${path} became shorter while it was being read.`, {
        reason: "truncated",
        hint: "Load the model again.",
      });
    }
    filled += bytesRead;
  }
  return bytes;
}

function notFound(path: string, error: unknown): LowbitError {
  const code = (error as { code?: string }).code;
  if (code === "EACCES" || code === "EPERM") {
    return new LowbitError("not-found", `${path} may not be read.`, { reason: "forbidden", cause: error });
  }
  const detail = code === "ENOENT" || code === "ENOTDIR" ? "there is no such file" : String(code ?? error);
  return new LowbitError("not-found", `${path}: ${detail}.`, {
    reason: "missing-file",
    hint: "Check the path; it is relative to the working directory.",
    cause: error,
  });
}

/** The container's limit where there is one (0 or absurdly large otherwise). */
function machineMemory(): number {
  const total = totalmem();
  const limit = constrainedMemory();
  return limit > 0 && limit < total ? limit : total;
}
