import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { picoGguf } from "@lowbit/pico";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Ended, type Workplace, workplace } from "../test/lowbit.ts";

const bytes = readFileSync(fileURLToPath(picoGguf));
let place: Workplace;
let server: Server;
let url = "";
let folder = "";
let bodies = 0;
beforeAll(async () => {
  place = workplace();
  folder = join(place.folder, "downloads");
  server = createServer((request, response) => {
    const [, from = "0", to = "0"] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const part = bytes.subarray(Number(from), Number(to) + 1);
    bodies += part.length > 1 ? part.length : 0;
    response.writeHead(206, {
      etag: '"1"',
      "content-length": part.length,
      "content-range": `bytes ${from}-${Number(from) + part.length - 1}/${bytes.length}`,
    });
    response.end(part);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/m/pico.gguf`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
  place.remove();
});

const lowbit = (...args: string[]): Promise<Ended> => place.run(args, { env: { LOWBIT_CACHE: folder } });
const ask = (...more: string[]): Promise<Ended> =>
  lowbit("run", url, "-p", "What is 12 + 7?", "--temperature", "0", ...more);

describe("lowbit cache", () => {
  it("has what run downloaded, once", async () => {
    expect(await lowbit("cache", "list")).toEqual({
      code: 0,
      stdout: "",
      stderr: `0 files, 0 B in ${folder}\n`,
    });
    for (let i = 0; i < 2; i++) expect((await ask()).stdout).toBe("12 + 7 = 19.\n");
    expect(bodies).toBe(bytes.length);
    const { entries } = JSON.parse((await lowbit("cache", "list", "--json")).stdout);
    expect(entries).toMatchObject([{ name: url, size: bytes.length, complete: true }]);
    const table = (await lowbit("cache", "list")).stdout;
    expect(table.split("\n")[1]).toMatch(/^[0-9a-f]{12} {2}\d+\.\d+ MB {2}\d{4}-\d\d-\d\d {2}http/);
  });

  it("keeps nothing where that is asked", async () => {
    bodies = 0;
    expect((await ask("--no-cache")).stdout).toBe("12 + 7 = 19.\n");
    expect(bodies).toBeGreaterThan(bytes.length / 2);
  });

  it("finds damage, which the next run repairs", async () => {
    expect((await lowbit("cache", "verify")).stdout).toMatch(/^ok {7}[0-9a-f]{12} {2}http/);
    const piece = join(folder, readdirSync(folder).find((name) => name.endsWith(".0")) ?? "");
    const stored = readFileSync(piece);
    stored[99] = (stored[99] as number) ^ 1;
    writeFileSync(piece, stored);
    const ended = await lowbit("cache", "verify");
    expect([ended.code, ended.stdout.slice(0, 7), ended.stderr]).toEqual([
      1,
      "DAMAGED",
      expect.stringContaining("1 file is damaged"),
    ]);
    expect((await ask()).stdout).toBe("12 + 7 = 19.\n");
    expect((await lowbit("cache", "verify")).code).toBe(0);
  });

  it("removes what is named, and says what is not there", async () => {
    expect(await lowbit("cache", "remove")).toMatchObject({ code: 2 });
    expect(await lowbit("cache", "remove", "zzz")).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('"zzz" is not in the cache'),
    });
    expect(await lowbit("cache", "remove", url)).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/^Removed 1 files/),
    });
    expect(readdirSync(folder)).toEqual([]);
    await ask();
    expect((await lowbit("cache", "remove", "--all")).code).toBe(0);
    expect(readdirSync(folder)).toEqual([]);
    expect((await lowbit("cache", "frob")).code).toBe(2);
  });
});
