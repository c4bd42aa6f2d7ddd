import { type ByteSource, LowbitError } from "@lowbit/core";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type FaultServer, faultServer, noise } from "../test/fault-server.ts";
import { remoteFiles } from "./remote.ts";

const data = noise(600_000);
let server: FaultServer & { reset(): void };
beforeAll(async () => {
  server = await faultServer();
});
afterAll(() => server.close());
beforeEach(() => {
  server.reset();
  server.put("/m/model.gguf", data);
});

const patience = { retryDelayMs: 1 };
/** For servers that stall: others must not seem to, however busy the machine. */
const hasty = { idleTimeoutMs: 100 };
const open = (options = {}): Promise<ByteSource> =>
  remoteFiles(new URL("/m/model.gguf", server.base), { ...patience, ...options }).open("model.gguf");

const isData = (bytes: Uint8Array): boolean => Buffer.compare(bytes, data) === 0;

/** Everything, as a loader reads it: some, then a long stretch, then the rest. */
async function readAll(source: ByteSource): Promise<Uint8Array> {
  const cuts = [0, 1000, 500_000, source.size];
  const out = new Uint8Array(source.size);
  for (let i = 1; i < cuts.length; i++) {
    const [from, to] = [cuts[i - 1] as number, cuts[i] as number];
    out.set(await source.read(from, to - from), from);
  }
  return out;
}

/** The right bytes, or the reason why there are none. */
async function outcome(options = {}): Promise<string> {
  try {
    const source = await open(options);
    const bytes = await readAll(source);
    await source.close?.();
    if (Buffer.compare(bytes, data.subarray(0, bytes.length)) !== 0) return "WRONG";
    return bytes.length === data.length ? "right" : `right, but ${bytes.length} bytes`;
  } catch (error) {
    if (LowbitError.is(error)) return `${error.code}/${error.reason}`;
    throw error;
  }
}

describe("a server that", () => {
  it("cuts is asked for the rest only", async () => {
    server.faults.cut = { after: 300_000, times: 2 };
    expect(await outcome()).toBe("right");
    expect(server.log.map(({ range }) => range)).toEqual([
      "bytes=0-0",
      "bytes=0-999",
      "bytes=1000-499999",
      "bytes=301000-499999",
      "bytes=500000-599999",
    ]);
  });

  it("cuts again and again is given up, though a long transfer may break often", async () => {
    server.faults.cut = { after: 10, times: 99 };
    expect(await outcome()).toBe("file-corrupt/interrupted");
    server.reset();
    const source = await open();
    server.faults.cut = { after: 270_000, times: 2 };
    expect(isData(await source.read(0, 600_000))).toBe(true);
    expect(server.log.length).toBe(4);
  });

  it("stalls, before or amid an answer, ends in an error in time; one that recovers does not", async () => {
    for (const fault of [{ silent: 99 }, { stall: { after: 50, times: 99 } }]) {
      server.reset();
      Object.assign(server.faults, fault);
      const begin = performance.now();
      expect(await outcome(hasty)).toBe("not-found/stalled");
      expect(performance.now() - begin).toBeGreaterThan(290);
      expect(await outcome({ ...hasty, attempts: 1 })).toBe("not-found/stalled");
    }
    for (const fault of [{ silent: 1 }, { stall: { after: 50, times: 1 } }]) {
      server.reset();
      Object.assign(server.faults, fault);
      // Long enough for a busy machine to answer in, so that only the fault is a stall.
      expect(await outcome({ idleTimeoutMs: 1000, attempts: 5 })).toBe("right");
    }
  });

  it("is slow but never idle is waited for", async () => {
    const slow: typeof fetch = async (input, init) => {
      const response = await fetch(input, init);
      const bytes = new Uint8Array(await response.arrayBuffer());
      let at = 0;
      const body = new ReadableStream<Uint8Array>({
        async pull(controller) {
          await new Promise((done) => setTimeout(done, 100));
          const part = bytes.subarray(at, at + 60_000);
          at += part.length;
          if (part.length === 0) controller.close();
          else controller.enqueue(part);
        },
      });
      return new Response(body, { status: response.status, headers: response.headers });
    };
    const source = await open({ fetch: slow, idleTimeoutMs: 700 });
    expect(isData(await source.read(0, 600_000))).toBe(true);
  });

  it("says a wrong Content-Length, with ranges and without", async () => {
    const lie = (ranges: boolean, lengthLie: number): Promise<string> => {
      server.reset();
      Object.assign(server.faults, { ranges, lengthLie });
      return outcome({ idleTimeoutMs: 300, attempts: 2 });
    };
    // A range says by itself how long it is.
    expect(await lie(true, 5)).toBe("right");
    expect(await lie(true, -5)).toMatch(/^(right|file-corrupt\/interrupted)$/);
    expect(await lie(false, 5)).toMatch(/^(file-corrupt\/interrupted|not-found\/stalled)$/);
    // What the length leaves out is no part of the answer: only the file's own header, or its hash, tells.
    expect(await lie(false, -5)).toMatch(/^(right, but 599995 bytes|file-corrupt\/interrupted)$/);
  });

  it("ignores Range: the file is fetched whole, again if it was cut", async () => {
    server.faults.ranges = false;
    expect(await outcome()).toBe("right");
    expect(server.log.length).toBe(1);
    server.reset();
    Object.assign(server.faults, { ranges: false, cut: { after: 400_000, times: 1 } });
    expect(await outcome()).toBe("right");
    server.reset();
    Object.assign(server.faults, { ranges: false, chunked: true });
    expect(await outcome()).toBe("right");
    server.reset();
    Object.assign(server.faults, { ranges: false, etag: false, cut: { after: 400_000, times: 1 } });
    expect(await outcome()).toBe("file-corrupt/interrupted");
  });

  it("answers a range with the whole file is refused, and its body not taken", async () => {
    server.faults.rangesUntil = 2;
    expect(await outcome()).toBe("file-corrupt/range-ignored");
  });

  it("changes the file between two ranges, or within one, is noticed", async () => {
    const source = await open();
    await source.read(0, 100);
    server.put("/m/model.gguf", noise(600_000, 2));
    await expect(source.read(100, 100)).rejects.toMatchObject({ code: "file-corrupt", reason: "changed" });

    server.put("/m/model.gguf", data);
    const second = await open();
    server.faults.cut = { after: 1000, times: 1 };
    let requests = 0;
    server.onRequest = () => {
      if (++requests === 2) server.put("/m/model.gguf", noise(600_000, 3));
    };
    await expect(second.read(0, 5000)).rejects.toMatchObject({ reason: "changed" });

    server.reset();
    server.put("/m/model.gguf", data);
    server.faults.etag = false;
    const third = await open();
    server.put("/m/model.gguf", noise(599_999, 4));
    await expect(third.read(0, 100)).rejects.toMatchObject({ reason: "changed" });
  });

  it("changes the file while it is streamed is noticed", async () => {
    Object.assign(server.faults, { ranges: false, cut: { after: 400_000, times: 1 } });
    const source = await open();
    server.put("/m/model.gguf", noise(600_000, 2));
    await expect(source.read(0, 100)).rejects.toMatchObject({ reason: "changed" });
  });

  it("redirects is asked at the new place from then on, without what only the first may know", async () => {
    server.faults.redirect = "/storage";
    const files = remoteFiles(new URL("/m/model.gguf", server.base), patience);
    const source = await files.open("model.gguf");
    await source.read(0, 10);
    expect(server.log.map(({ path }) => path)).toEqual([
      "/m/model.gguf",
      "/storage/m/model.gguf",
      "/storage/m/model.gguf",
    ]);
    // The signed address expires.
    server.faults.status = { code: 403, times: 1 };
    expect(await source.read(5, 10)).toEqual(data.subarray(5, 15));
    expect(server.log.map(({ path }) => path).slice(3)).toEqual([
      "/storage/m/model.gguf",
      "/m/model.gguf",
      "/storage/m/model.gguf",
    ]);
  });

  it("is not asked at all once the signal has fired, also while a try waits for the next", async () => {
    let asked = 0;
    const counting: typeof fetch = (input, init) => {
      asked++;
      return fetch(input, init);
    };
    const files = (options = {}) =>
      remoteFiles(new URL("/m/model.gguf", server.base), { ...patience, fetch: counting, ...options });
    await expect(files().open("model.gguf", AbortSignal.abort())).rejects.toMatchObject({ code: "aborted" });
    expect(asked).toBe(0);
    server.faults.status = { code: 503, times: 99 };
    const waiting = files({ retryDelayMs: 60_000 }).open("model.gguf", AbortSignal.timeout(50));
    await expect(waiting).rejects.toMatchObject({ code: "aborted" });
    expect(asked).toBe(1);
  });

  it("is overloaded is given time, but not for ever", async () => {
    server.faults.status = { code: 429, times: 1 };
    expect(await outcome()).toBe("right");
    server.faults.status = { code: 503, times: 99 };
    expect(await outcome()).toBe("not-found/http-503");
  });
});
