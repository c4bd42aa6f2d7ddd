import { type FileHandle, open, readdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { type ByteSource, checkRange, type FileSet, LowbitError, throwIfAborted } from "@lowbit/core";
import { checkFileName } from "./names.ts";

/** A file with its siblings, or a folder. */
export async function localFiles(path: string): Promise<FileSet> {
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
    disposable: true,
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
