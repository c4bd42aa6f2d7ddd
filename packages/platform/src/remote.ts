import { type ByteSource, checkRange, type FileSet, LowbitError, memorySource } from "@lowbit/core";
import { siblingUrl } from "./names.ts";

export interface RemoteOptions {
  /**
   * Most bytes of a file that is fetched whole, because its server does not answer Range requests.
   * @default 1 GiB
   */
  maxStreamedBytes?: number;
  /** Tries of one request when the network or the server (5xx, 429) fails. @default 3 */
  attempts?: number;
  /** Pause before the second try; doubles with each further one. @default 250 */
  retryDelayMs?: number;
  /** @default globalThis.fetch */
  fetch?: typeof fetch;
}

type Settings = Required<RemoteOptions>;

/** What an HTTP server said about a file. `response` is open: its body has not been read. */
interface Probe {
  readonly response: Response;
  readonly size: number | undefined;
  readonly ranges: boolean;
}

/**
 * The file behind a URL and its siblings in the same folder. Nothing is fetched before `open`. HTTP cannot list a folder,
 * so `list` names only the entry; formats open what they need by name.
 */
export function remoteFiles(url: URL, options: RemoteOptions = {}): FileSet {
  const settings: Settings = {
    maxStreamedBytes: options.maxStreamedBytes ?? 2 ** 30,
    attempts: options.attempts ?? 3,
    retryDelayMs: options.retryDelayMs ?? 250,
    fetch: options.fetch ?? globalThis.fetch.bind(globalThis),
  };
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
    entry,
    list: () => Promise.resolve([entry]),
    async open(file, signal) {
      return openRemote(file === entry ? url : siblingUrl(url, file, name), settings, signal);
    },
  };
}

/** Opens one URL: by ranges where the server can, else fetched whole up to the limit. */
async function openRemote(url: URL, settings: Settings, signal?: AbortSignal): Promise<ByteSource> {
  const name = displayUrl(url);
  const { response, size, ranges } = await probe(url, name, settings, signal);
  if (ranges && size !== undefined) {
    await response.body?.cancel();
    return rangeSource(url, name, size, response.headers.get("etag"), settings);
  }
  const { maxStreamedBytes } = settings;
  if (size !== undefined && size > maxStreamedBytes) {
    await response.body?.cancel();
    throw tooLarge(name, size, maxStreamedBytes);
  }
  const bytes = await collect(response, name, size, maxStreamedBytes, signal);
  return memorySource(bytes, name);
}

/** One request for the first byte tells size, range support and whether the file exists. */
async function probe(url: URL, name: string, settings: Settings, signal?: AbortSignal): Promise<Probe> {
  const response = await request(url, name, "bytes=0-0", settings, signal);
  if (response.status === 206) {
    const total = contentRange(response)?.total;
    if (total !== undefined) return { response, size: total, ranges: true };
    await response.body?.cancel();
    throw new LowbitError(
      "file-corrupt",
      `${name}: the server answered a Range request without a total size.`,
      {
        reason: "content-range",
      },
    );
  }
  if (response.status === 416) {
    await response.body?.cancel();
    return { response: new Response(null), size: 0, ranges: false };
  }
  const length = response.headers.get("content-length");
  // With a content encoding the header counts compressed bytes.
  const encoded = response.headers.get("content-encoding") !== null;
  const known = length !== null && !encoded && /^\d{1,15}$/.test(length);
  return { response, size: known ? Number(length) : undefined, ranges: false };
}

function rangeSource(
  url: URL,
  name: string,
  size: number,
  etag: string | null,
  settings: Settings,
): ByteSource {
  const closing = new AbortController();
  return {
    name,
    size,
    async read(offset, length, signal) {
      checkRange({ name, size }, offset, length);
      if (closing.signal.aborted) throw closed(name);
      if (length === 0) return new Uint8Array(0);
      const both = signal ? AbortSignal.any([signal, closing.signal]) : closing.signal;
      const range = `bytes=${offset}-${offset + length - 1}`;
      for (let attempt = 1; ; attempt++) {
        const response = await request(url, name, range, settings, both);
        const got = contentRange(response);
        const changed = etag !== null && response.headers.get("etag") !== etag;
        if (response.status !== 206 || got?.start !== offset || got.total !== size || changed) {
          await response.body?.cancel();
          throw new LowbitError("file-corrupt", `${name} changed on the server while it was being read.`, {
            reason: "changed",
            hint: "Load the model again.",
          });
        }
        try {
          return await collect(response, name, length, length, both);
        } catch (error) {
          // A connection that breaks inside the body is worth another try; anything else is not.
          if (both.aborted || attempt >= settings.attempts || !isInterrupted(error)) throw error;
          await pause(settings.retryDelayMs * 2 ** (attempt - 1), both);
        }
      }
    },
    close() {
      closing.abort(closed(name));
      return Promise.resolve();
    },
  };
}

/** A response with status 200, 206 or 416; anything else is an error. Retries what may pass by itself. */
async function request(
  url: URL,
  name: string,
  range: string,
  settings: Settings,
  signal: AbortSignal | undefined,
): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    let failure: LowbitError;
    try {
      const response = await settings.fetch(url, { headers: { range }, signal: signal ?? null });
      if (response.ok || response.status === 416) return response;
      await response.body?.cancel();
      failure = httpError(name, response.status);
      if (response.status < 500 && response.status !== 429) throw failure;
    } catch (error) {
      if (signal?.aborted) throw aborted(name, signal);
      if (LowbitError.is(error)) throw error;
      failure = new LowbitError("not-found", `${name} could not be fetched: ${reasonOf(error)}.`, {
        reason: "network",
        hint: "Check the address and the connection.",
        cause: error,
      });
    }
    if (attempt >= settings.attempts) throw failure;
    await pause(settings.retryDelayMs * 2 ** (attempt - 1), signal);
  }
}

/** The body's bytes: exactly `size` if that is known, and never more than `limit`. */
async function collect(
  response: Response,
  name: string,
  size: number | undefined,
  limit: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array> {
  const reader = response.body?.getReader();
  let out = new Uint8Array(size ?? 65536);
  let filled = 0;
  try {
    for (;;) {
      const part = reader ? await reader.read() : { done: true as const, value: undefined };
      if (part.done) break;
      const end = filled + part.value.length;
      if (end > (size ?? limit)) {
        await reader?.cancel();
        if (size === undefined) throw tooLarge(name, undefined, limit);
        throw new LowbitError(
          "file-corrupt",
          `${name}: the server sent more than the ${size} bytes it announced.`,
          {
            reason: "content-length",
          },
        );
      }
      if (end > out.length) {
        const larger = new Uint8Array(Math.min(limit, Math.max(end, out.length * 2)));
        larger.set(out.subarray(0, filled));
        out = larger;
      }
      out.set(part.value, filled);
      filled = end;
    }
  } catch (error) {
    if (signal?.aborted) throw aborted(name, signal);
    if (LowbitError.is(error)) throw error;
    throw new LowbitError("file-corrupt", `${name}: the connection broke after ${filled} bytes.`, {
      reason: "interrupted",
      cause: error,
    });
  }
  if (size !== undefined && filled !== size) {
    throw new LowbitError("file-corrupt", `${name}: the server sent ${filled} of ${size} bytes.`, {
      reason: "interrupted",
    });
  }
  return size === undefined ? out.slice(0, filled) : out;
}

function contentRange(response: Response): { start: number; total: number } | undefined {
  const match = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15})$/.exec(response.headers.get("content-range") ?? "");
  return match ? { start: Number(match[1]), total: Number(match[2]) } : undefined;
}

/** Without credentials and query, which may hold a signature. */
export function displayUrl(url: URL): string {
  if (url.protocol === "data:") return "data: URL";
  if (url.protocol === "blob:") return "blob: URL";
  return `${url.protocol}//${url.host}${url.pathname}`;
}

function decodeName(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}

function httpError(name: string, status: number): LowbitError {
  const denied = status === 401 || status === 403;
  const hint = denied
    ? "The file needs access rights, or its signed address has expired."
    : "Check the address.";
  return new LowbitError("not-found", `${name}: the server answered ${status}.`, {
    reason: `http-${status}`,
    hint,
  });
}

function tooLarge(name: string, size: number | undefined, limit: number): LowbitError {
  const what = size === undefined ? "is larger" : `has ${size} bytes, more`;
  return new LowbitError(
    "out-of-memory",
    `${name}: the server does not answer Range requests, and the file ${what} than the ${limit} bytes that may be fetched whole.`,
    {
      reason: "range-unsupported",
      hint: "Serve the file from a host that supports Range, or download it first.",
    },
  );
}

function closed(name: string): LowbitError {
  return new LowbitError("bad-argument", `${name} was read after it was closed.`, { reason: "closed" });
}

function aborted(name: string, signal: AbortSignal): LowbitError {
  if (LowbitError.is(signal.reason)) return signal.reason;
  return new LowbitError("aborted", `Reading ${name} was aborted.`, {
    reason: "aborted",
    cause: signal.reason,
  });
}

function isInterrupted(error: unknown): boolean {
  return LowbitError.is(error) && error.reason === "interrupted";
}

function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? cause.message : String(cause);
}

function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    // The next request notices the abort.
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
  });
}
