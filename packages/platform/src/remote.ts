import { type ByteSource, checkRange, LowbitError, memorySource } from "@lowbit/core";
import type { KeyedFiles } from "./cached.ts";
import {
  changed,
  createRetry,
  displayUrl,
  type Exchange,
  interrupted,
  join,
  type RemoteOptions,
  request,
  type Settings,
  settingsOf,
  type Target,
  tooLong,
} from "./http.ts";
import { siblingUrl } from "./names.ts";

/** A source whose bytes come in order only: reading anywhere takes them all into memory. */
export interface StreamedSource extends ByteSource {
  /** All bytes, in parts. Throws where they are not `size`. */
  stream(signal?: AbortSignal): AsyncGenerator<Uint8Array, void>;
}

export function isStreamed(source: ByteSource): source is StreamedSource {
  return "stream" in source;
}

/**
 * The file behind a URL and its siblings in the same folder. Nothing is fetched before `open`. HTTP cannot list a folder,
 * so `list` names only the entry; formats open what they need by name.
 */
export function remoteFiles(url: URL, options: RemoteOptions = {}): KeyedFiles {
  const settings = settingsOf(options);
  const name = displayUrl(url);
  const last = url.pathname.slice(url.pathname.lastIndexOf("/") + 1);
  const opaque = url.protocol === "blob:" || url.protocol === "data:";
  const entry = opaque ? "model" : decodeName(last);
  if (entry === "") {
    throw new LowbitError("bad-argument", `${name} is a folder, and HTTP cannot list one.`, {
      reason: "not-a-file",
      hint: "Give the URL of the model file itself; its siblings are found beside it.",
    });
  }
  return {
    name,
    ...(!opaque && { key: new URL(`./${url.search}`, url).href }),
    entry,
    list: () => Promise.resolve([entry]),
    async open(file, signal) {
      const place = file === entry ? url : siblingUrl(url, file, name);
      return openTarget({ url: place, name: displayUrl(place) }, settings, signal);
    },
  };
}

/** Opens one URL: by ranges where the server can, else as a stream. */
export async function openTarget(
  target: Target,
  settings: Settings,
  signal?: AbortSignal,
): Promise<ByteSource> {
  // One request for the first byte tells size, range support and whether the file exists.
  const exchange = await request(target, { range: "bytes=0-0" }, settings, signal);
  const { response } = exchange;
  const version = versionOf(response);
  if (response.status === 206) {
    await exchange.cancel();
    const range = contentRange(response);
    if (range !== undefined) return rangeSource(target, range.total, version, settings);
    const what = `${target.name}: the server answered a Range request without a total size.`;
    throw new LowbitError("file-corrupt", what, { reason: "content-range" });
  }
  if (response.status === 416) {
    await exchange.cancel();
    if (response.headers.get("content-range") === "bytes */0")
      return memorySource(new Uint8Array(0), target.name);
    throw interrupted(target.name, "the server refused to send the first byte");
  }
  const size = announcedSize(response);
  if (size !== undefined) return streamedSource(target, exchange, size, version, settings);
  const bytes = await collect(target.name, exchange.chunks(signal), settings.maxStreamedBytes);
  return { ...memorySource(bytes, target.name), ...(version !== undefined && { version }) };
}

function rangeSource(
  target: Target,
  size: number,
  version: string | undefined,
  settings: Settings,
): ByteSource {
  const { name } = target;
  const closing = new AbortController();
  return {
    name,
    size,
    ...(version !== undefined && { version }),
    disposable: true,
    async read(offset, length, signal) {
      checkRange({ name, size }, offset, length);
      if (closing.signal.aborted) throw closed(name);
      const out = new Uint8Array(length);
      if (length === 0) return out;
      const link = linked(closing.signal, signal);
      const retry = createRetry(settings, link.signal);
      try {
        for (let filled = 0; filled < length; ) {
          const start = offset + filled;
          const range = `bytes=${start}-${offset + length - 1}`;
          const exchange = await request(target, { range }, settings, link.signal);
          if (!continues(exchange.response, start, size, version)) {
            await exchange.cancel();
            throw refusal(name, exchange.response, version);
          }
          const before = filled;
          try {
            for await (const chunk of exchange.chunks(link.signal)) {
              if (filled + chunk.length > length) throw tooLong(name, length);
              out.set(chunk, filled);
              filled += chunk.length;
            }
            if (filled < length)
              throw interrupted(name, `the server sent ${filled - before} of ${length - before} bytes`);
          } catch (error) {
            await retry(error, filled - before);
          }
        }
        return out;
      } finally {
        link.release();
      }
    },
    close() {
      closing.abort(closed(name));
      return Promise.resolve();
    },
  };
}

function continues(response: Response, start: number, size: number, version: string | undefined): boolean {
  const range = contentRange(response);
  return (
    response.status === 206 &&
    range?.start === start &&
    range.total === size &&
    versionOf(response) === version
  );
}

function refusal(name: string, response: Response, version: string | undefined): LowbitError {
  if (response.status !== 200 || versionOf(response) !== version) return changed(name);
  return new LowbitError("file-corrupt", `${name}: the server sent the whole file for a part of it.`, {
    reason: "range-ignored",
    hint: "Serve the file from a host that supports Range throughout.",
  });
}

/** The open response of the first request is the first stream; every further one is a new request. */
function streamedSource(
  target: Target,
  first: Exchange,
  size: number,
  version: string | undefined,
  settings: Settings,
): StreamedSource {
  const { name } = target;
  let opened: Exchange | undefined = first;
  let whole: Promise<Uint8Array> | undefined;
  let isClosed = false;
  const next = async (signal: AbortSignal | undefined): Promise<Exchange> => {
    const exchange = opened ?? (await request(target, {}, settings, signal));
    const { response } = exchange;
    const same = exchange === opened || (announcedSize(response) === size && versionOf(response) === version);
    opened = undefined;
    if (same) return exchange;
    await exchange.cancel();
    throw changed(name);
  };
  async function* stream(signal?: AbortSignal): AsyncGenerator<Uint8Array, void> {
    if (isClosed) throw closed(name);
    const retry = createRetry(settings, signal);
    for (let done = 0; done < size || opened !== undefined; ) {
      const exchange = await next(signal);
      const before = done;
      let at = 0;
      try {
        for await (const chunk of exchange.chunks(signal)) {
          at += chunk.length;
          if (at > size) throw tooLong(name, size);
          if (at > done) yield chunk.subarray(Math.max(0, chunk.length - (at - done)));
          done = Math.max(done, at);
        }
        if (at < size) throw interrupted(name, `the server sent ${at} of ${size} bytes`);
        return;
      } catch (error) {
        // Without a version the second half might be another file's.
        if (done > 0 && version === undefined) throw error;
        await retry(error, done - before);
      }
    }
  }
  return {
    name,
    size,
    ...(version !== undefined && { version }),
    stream,
    async read(offset, length, signal) {
      checkRange({ name, size }, offset, length);
      if (isClosed) throw closed(name);
      if (size > settings.maxStreamedBytes) throw tooLarge(name, size, settings.maxStreamedBytes);
      if (whole === undefined) {
        whole = collect(name, stream(signal), size, size);
        // A read that was aborted must not fail the next one.
        whole.catch(() => {
          whole = undefined;
        });
      }
      return (await whole).subarray(offset, offset + length);
    },
    async close() {
      isClosed = true;
      whole = undefined;
      await opened?.cancel();
      opened = undefined;
    },
  };
}

/** All chunks in one array: of `size` bytes where that is known, else of at most `limit`. */
async function collect(
  name: string,
  chunks: AsyncIterable<Uint8Array>,
  limit: number,
  size?: number,
): Promise<Uint8Array> {
  if (size !== undefined) {
    const bytes = new Uint8Array(size);
    let filled = 0;
    for await (const chunk of chunks) {
      bytes.set(chunk, filled);
      filled += chunk.length;
    }
    return bytes;
  }
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of chunks) {
    length += chunk.length;
    if (length > limit) throw tooLarge(name, undefined, limit);
    parts.push(chunk);
  }
  return join(parts, length);
}

/** A signal that either of two fires, which leaves nothing behind on them. */
function linked(
  first: AbortSignal,
  second: AbortSignal | undefined,
): { signal: AbortSignal; release(): void } {
  const control = new AbortController();
  const both = second === undefined ? [first] : [first, second];
  const stop = (): void => control.abort(both.find((signal) => signal.aborted)?.reason);
  for (const signal of both) {
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop);
  }
  return {
    signal: control.signal,
    release() {
      for (const signal of both) signal.removeEventListener("abort", stop);
    },
  };
}

/** A time of last change is as coarse as a second. */
function versionOf(response: Response): string | undefined {
  const etag = response.headers.get("etag");
  if (etag !== null) return etag;
  const changedAt = response.headers.get("last-modified");
  return changedAt === null ? undefined : `W/${changedAt}`;
}

/** With a content encoding the header counts compressed bytes. */
function announcedSize({ headers }: Response): number | undefined {
  const length = headers.get("content-length");
  const known = length !== null && headers.get("content-encoding") === null && /^\d{1,15}$/.test(length);
  return known ? Number(length) : undefined;
}

function contentRange(response: Response): { start: number; total: number } | undefined {
  const match = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15})$/.exec(response.headers.get("content-range") ?? "");
  return match ? { start: Number(match[1]), total: Number(match[2]) } : undefined;
}

function decodeName(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}

function tooLarge(name: string, size: number | undefined, limit: number): LowbitError {
  const what = size === undefined ? "is larger" : `has ${size} bytes, more`;
  return new LowbitError(
    "out-of-memory",
    `${name}: the server does not answer Range requests, and the file ${what} than the ${limit} bytes that may be kept whole.`,
    {
      reason: "range-unsupported",
      hint: "Serve the file from a host that supports Range, cache it, or download it first.",
    },
  );
}

function closed(name: string): LowbitError {
  return new LowbitError("bad-argument", `${name} was read after it was closed.`, { reason: "closed" });
}
