import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

/** A static server with Range, which can be taken down and up again. */
export interface Served {
  readonly base: string;
  down: boolean;
  sentBytes(): number;
  close(): void;
}

export async function serveFolder(folder: string): Promise<Served> {
  let sent = 0;
  const state = { down: false };
  const server = createServer((request, response) => {
    const path = join(folder, decodeURIComponent(new URL(request.url ?? "/", "http://host").pathname));
    if (state.down) return void request.socket.destroy();
    if (!existsSync(path)) return void response.writeHead(404).end();
    const bytes = readFileSync(path);
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const start = Number(from ?? 0);
    const body = from === undefined ? bytes : bytes.subarray(start, Number(to) + 1);
    sent += body.length;
    response.writeHead(from === undefined ? 200 : 206, {
      etag: `"${bytes.length}"`,
      "content-length": body.length,
      ...(from !== undefined && {
        "content-range": `bytes ${start}-${start + body.length - 1}/${bytes.length}`,
      }),
    });
    response.end(body);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return Object.assign(state, {
    base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    sentBytes: () => sent,
    close() {
      server.closeAllConnections();
      server.close();
    },
  });
}
