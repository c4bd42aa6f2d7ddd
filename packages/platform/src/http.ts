import { LowbitError } from "@lowbit/core";

export interface RemoteOptions {
  /**
   * Most bytes of a file that is kept whole in memory, because its server does not answer Range requests.
   * @default 1 GiB
   */
  maxStreamedBytes?: number;
  /** Tries of one request, and of the rest of a body that broke off, when the network or the server (5xx, 429) fails. @default 3 */
  attempts?: number;
  /** Pause before the second try; doubles with each further one. @default 250 */
  retryDelayMs?: number;
  /** How long a try may go without a byte from the server. @default 30,000 */
  idleTimeoutMs?: number;
  /** @default globalThis.fetch */
  fetch?: typeof fetch;
}

export type Settings = Required<RemoteOptions>;

/** What is fetched, and how it is called in messages. */
export interface Target {
  readonly url: URL;
  readonly name: string;
  /** Sent to the URL's own origin alone. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Where redirections led, so that the next request goes there at once. */
  direct?: URL | undefined;
}

/** One response, whose body is read at most once. */
export interface Exchange {
  readonly response: Response;
  /** Throws `file-corrupt`/`interrupted` where the connection breaks, and `stalled` where nothing comes for too long. */
  chunks(signal?: AbortSignal): AsyncGenerator<Uint8Array, void>;
  cancel(): Promise<void>;
}

/** A body that breaks off after this much counts as a new first try. */
const progressBytes = 2 ** 18;
const maxRetryAfterMs = 10_000;

export function settingsOf(options: RemoteOptions): Settings {
  return {
    maxStreamedBytes: options.maxStreamedBytes ?? 2 ** 30,
    attempts: options.attempts ?? 3,
    retryDelayMs: options.retryDelayMs ?? 250,
    idleTimeoutMs: options.idleTimeoutMs ?? 30_000,
    fetch: options.fetch ?? globalThis.fetch.bind(globalThis),
  };
}

/** A response with status 200, 206 or 416; anything else is an error. Retries what may pass by itself. */
export async function request(
  target: Target,
  headers: Readonly<Record<string, string>>,
  settings: Settings,
  signal: AbortSignal | undefined,
): Promise<Exchange> {
  for (let attempt = 1; ; attempt++) {
    // Before anything is sent: the signal may have fired while this waited.
    if (signal?.aborted) throw aborted(target.name, signal);
    let failure: LowbitError;
    let delay = settings.retryDelayMs * 2 ** (attempt - 1);
    const { direct } = target;
    try {
      const exchange = await send(target, headers, settings, signal);
      const { response } = exchange;
      if (response.ok || response.status === 416) {
        remember(target, response);
        return exchange;
      }
      await exchange.cancel();
      failure = httpError(target.name, response.status);
      if (response.status < 500 && response.status !== 429) {
        if (direct === undefined) throw failure;
        // A signed address that has expired: ask for a new one.
        target.direct = undefined;
        attempt--;
        continue;
      }
      const retryAfter = Number(response.headers.get("retry-after") ?? Number.NaN) * 1000;
      if (retryAfter > delay) delay = Math.min(retryAfter, maxRetryAfterMs);
    } catch (error) {
      if (signal?.aborted) throw aborted(target.name, signal);
      if (LowbitError.is(error) && error.reason !== "stalled") throw error;
      failure = LowbitError.is(error) ? error : networkError(target.name, error);
    }
    if (attempt >= settings.attempts) throw failure;
    await pause(delay, signal);
  }
}

/** Counts the tries of one body: throws what went wrong when it is no use to go on, else waits. */
export function createRetry(
  settings: Settings,
  signal: AbortSignal | undefined,
): (error: unknown, received: number) => Promise<void> {
  let failures = 0;
  return async (error, received) => {
    if (signal?.aborted || !isInterrupted(error)) throw error;
    if (received >= progressBytes) failures = 0;
    if (++failures >= settings.attempts) throw error;
    await pause(settings.retryDelayMs * 2 ** (failures - 1), signal);
  };
}

/** The body of a small file. Throws where it is larger than `limit`. */
export async function fetchSmall(
  target: Target,
  limit: number,
  settings: Settings,
  signal?: AbortSignal,
): Promise<{ bytes: Uint8Array; response: Response }> {
  const retry = createRetry(settings, signal);
  for (;;) {
    const parts: Uint8Array[] = [];
    let length = 0;
    const exchange = await request(target, {}, settings, signal);
    try {
      for await (const chunk of exchange.chunks(signal)) {
        length += chunk.length;
        if (length > limit) throw tooLong(target.name, limit);
        parts.push(chunk);
      }
      return { bytes: join(parts, length), response: exchange.response };
    } catch (error) {
      await retry(error, 0);
    }
  }
}

export function join(parts: readonly Uint8Array[], length: number): Uint8Array {
  const [only] = parts;
  if (parts.length === 1 && only) return only;
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

async function send(
  target: Target,
  headers: Readonly<Record<string, string>>,
  settings: Settings,
  signal: AbortSignal | undefined,
): Promise<Exchange> {
  const control = new AbortController();
  const url = target.direct ?? target.url;
  const own = url.origin === target.url.origin ? target.headers : undefined;
  const { name } = target;
  const watch = <T>(work: Promise<T>, caller: AbortSignal | undefined): Promise<T> =>
    watched(work, control, settings.idleTimeoutMs, caller, name);
  const response = await watch(
    settings.fetch(url, { headers: { ...own, ...headers }, signal: control.signal }),
    signal,
  );
  const reader = response.body?.getReader();
  const cancel = async (): Promise<void> => {
    await reader?.cancel().catch(() => undefined);
  };
  return {
    response,
    cancel,
    async *chunks(caller) {
      let received = 0;
      let done = false;
      try {
        while (reader) {
          const part = await watch(reader.read(), caller);
          if (part.done) break;
          received += part.value.length;
          if (part.value.length > 0) yield part.value;
        }
        done = true;
      } catch (error) {
        if (caller?.aborted) throw aborted(name, caller);
        if (LowbitError.is(error)) throw error;
        throw interrupted(name, `the connection broke after ${received} bytes`, error);
      } finally {
        if (!done) await cancel();
      }
    },
  };
}

/** `work`, unless the caller aborts or nothing comes of it in time; then the request is given up. */
function watched<T>(
  work: Promise<T>,
  control: AbortController,
  idleTimeoutMs: number,
  signal: AbortSignal | undefined,
  name: string,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = (error: LowbitError): void => {
      release();
      reject(error);
      control.abort(error);
    };
    const timer = setTimeout(() => stop(stalled(name, idleTimeoutMs)), idleTimeoutMs);
    const onAbort = (): void => stop(aborted(name, signal as AbortSignal));
    const release = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    work.finally(release).then(resolve, reject);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort);
  });
}

function remember(target: Target, response: Response): void {
  if (!response.redirected || response.url === "") return;
  const url = new URL(response.url);
  target.direct = url.href === target.url.href ? undefined : url;
}

/** Without credentials and query, which may hold a signature. */
export function displayUrl(url: URL): string {
  if (url.protocol === "data:") return "data: URL";
  if (url.protocol === "blob:") return "blob: URL";
  return `${url.protocol}//${url.host}${url.pathname}`;
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

function networkError(name: string, error: unknown): LowbitError {
  return new LowbitError("not-found", `${name} could not be fetched: ${reasonOf(error)}.`, {
    reason: "network",
    hint: "Check the address and the connection.",
    cause: error,
  });
}

function stalled(name: string, idleTimeoutMs: number): LowbitError {
  return new LowbitError("not-found", `${name}: nothing came from the server for ${idleTimeoutMs} ms.`, {
    reason: "stalled",
    hint: "Check the connection, or set idleTimeoutMs.",
  });
}

export function interrupted(name: string, what: string, cause?: unknown): LowbitError {
  return new LowbitError("file-corrupt", `${name}: ${what}.`, {
    reason: "interrupted",
    hint: "Load the model again.",
    ...(cause !== undefined && { cause }),
  });
}

export function changed(name: string): LowbitError {
  return new LowbitError("file-corrupt", `${name} changed while it was being read.`, {
    reason: "changed",
    hint: "Load the model again.",
  });
}

export function tooLong(name: string, announced: number): LowbitError {
  return new LowbitError(
    "file-corrupt",
    `${name}: the server sent more than the ${announced} bytes expected.`,
    {
      reason: "content-length",
    },
  );
}

function aborted(name: string, signal: AbortSignal): LowbitError {
  if (LowbitError.is(signal.reason)) return signal.reason;
  return new LowbitError("aborted", `Reading ${name} was aborted.`, {
    reason: "aborted",
    cause: signal.reason,
  });
}

function isInterrupted(error: unknown): boolean {
  return LowbitError.is(error) && (error.reason === "interrupted" || error.reason === "stalled");
}

/** The network's or the server's trouble, which says nothing about the file. */
export function isUnreachable(error: unknown): boolean {
  return (
    LowbitError.is(error) && /^(network|stalled|interrupted|http-429|http-5\d\d)$/.test(error.reason ?? "")
  );
}

function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? cause.message : String(cause);
}

/** The next step notices an abort. */
export function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
  });
}
