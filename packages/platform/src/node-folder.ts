import { type FileHandle, mkdir, open, unlink } from "node:fs/promises";
import { join } from "node:path";
import { type FileSink, LowbitError, type WritableFolder } from "@lowbit/core";
import { checkFileName } from "./names.ts";
import { localFiles } from "./node-files.ts";

/** A folder to write to, made if absent. Bytes are on the disk when `close` and `append` resolve. */
export async function writableFolder(path: string): Promise<WritableFolder> {
  await mkdir(path, { recursive: true }).catch((error: unknown) => {
    throw writeError(path, error);
  });
  const files = await localFiles(path);
  const place = (file: string): string => {
    checkFileName(file, path);
    return join(path, file);
  };
  return {
    name: files.name,
    entry: files.entry,
    list: files.list,
    open: files.open,
    create: (file) => attempt(() => place(file), fileSink),
    append: (file, bytes) =>
      attempt(
        () => place(file),
        async (target) => {
          const sink = await fileSink(target, "a");
          try {
            await sink.write(bytes);
          } finally {
            await sink.close();
          }
        },
      ),
    remove: (file) =>
      attempt(
        () => place(file),
        (target) =>
          unlink(target).catch((error: unknown) => {
            throw writeError(target, error);
          }),
      ),
  };
}

/** Bad names become rejections. */
async function attempt<T>(place: () => string, body: (path: string) => Promise<T>): Promise<T> {
  return body(place());
}

async function fileSink(path: string, flags: "w" | "a" = "w"): Promise<FileSink> {
  const handle = await open(path, flags).catch((error: unknown) => {
    throw writeError(path, error);
  });
  return {
    async write(bytes) {
      await writeAll(handle, bytes).catch((error: unknown) => {
        throw writeError(path, error);
      });
    },
    async close() {
      try {
        await handle.sync();
      } catch (error) {
        throw writeError(path, error);
      } finally {
        await handle.close();
      }
    },
  };
}

/** One write call takes less than 2 GiB, and may write less than it was given. */
const maxWriteBytes = 2 ** 28;

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.length - done, maxWriteBytes));
    done += bytesWritten;
  }
}

/** What the operating system said of a write, in words. */
export function writeError(path: string, error: unknown): LowbitError {
  if (LowbitError.is(error)) return error;
  const code = (error as { code?: string }).code;
  const fail = (kind: "not-found" | "out-of-memory", reason: string, what: string, hint?: string) =>
    new LowbitError(kind, `${path}: ${what}.`, { reason, cause: error, ...(hint && { hint }) });
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
      return fail("out-of-memory", "disk-full", "the disk is full", "Make room, and do the same again.");
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return fail("not-found", "forbidden", "it may not be written");
    case "ENOENT":
      return fail("not-found", "missing-file", "there is no such file");
    case "EEXIST":
    case "ENOTDIR":
      return fail("not-found", "not-a-folder", "a file stands where a folder is needed");
    case "EISDIR":
      return fail("not-found", "not-a-file", "a folder stands where a file is needed");
    default:
      return fail("not-found", "write-failed", `it cannot be written (${code ?? String(error)})`);
  }
}
