import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** How the server treats the next requests. */
export interface Faults {
  /** Answers Range requests. @default true */
  ranges: boolean;
  /** Answers 200 with the whole file to the ranges after so many. */
  rangesUntil: number;
  /** Sends this many bytes of a body and cuts the connection, so many times. */
  cut: { after: number; times: number };
  /** Sends this many bytes and then nothing more, so many times. */
  stall: { after: number; times: number };
  /** Says nothing at all, so many times. */
  silent: number;
  /** Added to what Content-Length says. */
  lengthLie: number;
  /** Leaves Content-Length out. */
  chunked: boolean;
  /** Turns one bit of the byte at this place, so many times. */
  flip: { at: number; times: number };
  /** Answers so many requests with this status. */
  status: { code: number; times: number };
  /** Sends requests to this path first. */
  redirect: string | undefined;
  /** @default true */
  etag: boolean;
}

export interface FaultServer {
  readonly base: string;
  readonly log: {
    path: string;
    range: string | undefined;
    authorization: string | undefined;
    sent: number;
  }[];
  faults: Faults;
  /** Files by path; a new version gets a new ETag. */
  put(path: string, bytes: Uint8Array): void;
  /** Before each answer. */
  onRequest: ((path: string) => void) | undefined;
  close(): void;
}

const never = { after: 0, times: 0 };

function noFaults(): Faults {
  return {
    ranges: true,
    rangesUntil: Number.POSITIVE_INFINITY,
    cut: { ...never },
    stall: { ...never },
    silent: 0,
    lengthLie: 0,
    chunked: false,
    flip: { at: 0, times: 0 },
    status: { code: 0, times: 0 },
    redirect: undefined,
    etag: true,
  };
}

export async function faultServer(): Promise<FaultServer & { reset(): void }> {
  const files = new Map<string, { bytes: Uint8Array; etag: string }>();
  let versions = 0;
  let rangesSeen = 0;
  const state: FaultServer & { reset(): void } = {
    base: "",
    log: [],
    faults: noFaults(),
    onRequest: undefined,
    put(path, bytes) {
      files.set(path, { bytes, etag: `"v${++versions}"` });
    },
    reset() {
      state.log.length = 0;
      state.faults = noFaults();
      state.onRequest = undefined;
      rangesSeen = 0;
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://host").pathname);
    const { faults } = state;
    state.onRequest?.(path);
    const { range, authorization } = request.headers;
    const entry = { path, range, authorization, sent: 0 };
    state.log.push(entry);
    if (faults.silent-- > 0) return;
    if (faults.status.times-- > 0) return void response.writeHead(faults.status.code).end("sorry");
    if (faults.redirect !== undefined && !path.startsWith(faults.redirect))
      return void response.writeHead(302, { location: faults.redirect + path }).end();
    const file = files.get(faults.redirect === undefined ? path : path.slice(faults.redirect.length));
    if (file === undefined) return void response.writeHead(404).end();
    const { bytes, etag } = file;
    const match = /^bytes=(\d+)-(\d+)$/.exec(range ?? "");
    const partial = match !== null && faults.ranges && ++rangesSeen <= faults.rangesUntil;
    const from = partial ? Number(match[1]) : 0;
    const to = partial ? Math.min(Number(match[2]), bytes.length - 1) : bytes.length - 1;
    const body = Uint8Array.from(bytes.subarray(from, to + 1));
    const flipped = faults.flip.at - from;
    // The one byte that opens a file is not read.
    if (flipped >= 0 && flipped < body.length && body.length > 1 && faults.flip.times-- > 0)
      body[flipped] = (body[flipped] as number) ^ 1;
    response.writeHead(partial ? 206 : 200, {
      ...(faults.etag && { etag }),
      ...(partial && { "content-range": `bytes ${from}-${to}/${bytes.length}` }),
      ...(!faults.chunked && { "content-length": body.length + (body.length > 1 ? faults.lengthLie : 0) }),
    });
    const spoil = [faults.cut, faults.stall].find(({ after, times }) => times > 0 && body.length > after + 1);
    if (spoil === undefined) {
      entry.sent = body.length;
      // More than announced is written past the HTTP library, which would refuse it.
      if (faults.lengthLie < 0) {
        response.flushHeaders();
        response.socket?.end(body);
      } else response.end(body);
      return;
    }
    spoil.times--;
    entry.sent = Math.min(spoil.after, body.length);
    response.write(body.subarray(0, spoil.after), () => {
      if (spoil === faults.cut) response.destroy();
    });
  }

  const server: Server = createServer(answer).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return Object.assign(state, { base: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
}

/** Bytes that differ everywhere from those of another seed. */
export function noise(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
