import { type ByteSource, checkRange, type FileSet, LowbitError, throwIfAborted } from "@lowbit/core";
import { isSha256 } from "./digest.ts";
import { changed, interrupted, pause } from "./http.ts";
import { checkFileName } from "./names.ts";

/** What of an R2 bucket is used. */
export interface R2Reader {
  head(key: string): Promise<R2Head | null>;
  get(
    key: string,
    options: { range: { offset: number; length: number }; onlyIf: { etagMatches: string } },
  ): Promise<R2Head | (R2Head & { arrayBuffer(): Promise<ArrayBuffer> }) | null>;
  list(options: { prefix: string; delimiter: string; cursor?: string }): Promise<{
    readonly objects: readonly { readonly key: string }[];
    readonly truncated: boolean;
    readonly cursor?: string;
  }>;
}

export interface R2Head {
  readonly size: number;
  readonly etag: string;
  readonly checksums?: { toJSON(): { sha256?: string } };
}

const attempts = 3;
const retryDelayMs = 100;
/** One read is one buffer; longer ones are put together. */
const maxReadBytes = 2 ** 25;

/**
 * Objects of an R2 bucket: a folder where `location` is empty or ends in a slash, else one object with its siblings. Reads are
 * range reads, all of the same version of the object.
 */
export function r2Files(bucket: R2Reader, location = ""): FileSet {
  const slash = location.lastIndexOf("/") + 1;
  const prefix = location.slice(0, slash);
  const name = `r2:${location}`;
  return {
    name,
    entry: location.slice(slash) || undefined,
    async list(signal) {
      const names: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await patiently(name, signal, () =>
          bucket.list({ prefix, delimiter: "/", ...(cursor !== undefined && { cursor }) }),
        );
        names.push(...page.objects.map(({ key }) => key.slice(prefix.length)).filter((key) => key !== ""));
        cursor = page.truncated ? page.cursor : undefined;
      } while (cursor !== undefined);
      return names;
    },
    async open(file, signal) {
      checkFileName(file, name);
      const key = prefix + file;
      const head = await patiently(`r2:${key}`, signal, () => bucket.head(key));
      if (head === null) {
        throw new LowbitError("not-found", `r2:${key}: there is no such object.`, { reason: "missing-file" });
      }
      return objectSource(bucket, key, head);
    },
  };
}

function objectSource(bucket: R2Reader, key: string, { size, etag, checksums }: R2Head): ByteSource {
  const name = `r2:${key}`;
  const sha256 = checksums?.toJSON().sha256;
  const part = async (offset: number, length: number, signal: AbortSignal | undefined): Promise<Uint8Array> =>
    patiently(name, signal, async () => {
      const found = await bucket.get(key, { range: { offset, length }, onlyIf: { etagMatches: etag } });
      // Without a body the condition did not hold.
      if (found === null || !("arrayBuffer" in found)) throw changed(name);
      const bytes = new Uint8Array(await found.arrayBuffer());
      if (bytes.length !== length) throw interrupted(name, `${bytes.length} of ${length} bytes came`);
      return bytes;
    });
  return {
    name,
    size,
    version: etag,
    disposable: true,
    ...(isSha256(sha256) && { sha256 }),
    async read(offset, length, signal) {
      checkRange({ name, size }, offset, length);
      if (length === 0) return new Uint8Array(0);
      if (length <= maxReadBytes) return part(offset, length, signal);
      const bytes = new Uint8Array(length);
      for (let at = 0; at < length; at += maxReadBytes) {
        bytes.set(await part(offset + at, Math.min(maxReadBytes, length - at), signal), at);
      }
      return bytes;
    },
  };
}

/** Bindings fail now and then for reasons of their own. */
async function patiently<T>(
  name: string,
  signal: AbortSignal | undefined,
  body: () => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    throwIfAborted(signal);
    try {
      return await body();
    } catch (error) {
      if (LowbitError.is(error) && error.reason !== "interrupted") throw error;
      if (attempt === attempts) {
        if (LowbitError.is(error)) throw error;
        const what = error instanceof Error ? error.message : String(error);
        throw new LowbitError("not-found", `${name} could not be read: ${what}.`, {
          reason: "network",
          cause: error,
        });
      }
    }
    await pause(retryDelayMs * 2 ** (attempt - 1), signal);
  }
}
