import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";

const types: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".wasm": "application/wasm",
};

/** A static server with Range, whose failures can be switched on and off. */
export interface Served {
  readonly base: string;
  /** Cuts every connection. */
  down: boolean;
  /** Answers nobody, and lets them wait. */
  stalled: boolean;
  requests(): number;
  sentBytes(): number;
  close(): void;
}

/** Serves a folder on a port of its own. `onPost` is told the path and the body of what pages post. */
export async function serveFolder(
  folder: string,
  onPost?: (path: string, body: string) => void,
): Promise<Served> {
  let sent = 0;
  let requests = 0;
  const state = { down: false, stalled: false };
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://host");
    const path = join(folder, decodeURIComponent(pathname));
    requests++;
    if (state.stalled) return;
    if (state.down) return void request.socket.destroy();
    if (request.method === "POST") {
      let body = "";
      request.setEncoding("utf8").on("data", (text) => {
        body += text;
      });
      request.on("end", () => {
        response.end();
        onPost?.(pathname, body);
      });
      return;
    }
    if (!existsSync(path)) return void response.writeHead(404).end();
    const bytes = readFileSync(path);
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const start = Number(from ?? 0);
    const body = from === undefined ? bytes : bytes.subarray(start, Number(to) + 1);
    sent += body.length;
    response.writeHead(from === undefined ? 200 : 206, {
      "content-type": types[extname(path)] ?? "application/octet-stream",
      etag: `"${bytes.length}"`,
      "content-length": body.length,
      // So that pages are cross-origin isolated, and may share memory with workers.
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
      ...(from !== undefined && {
        "content-range": `bytes ${start}-${start + body.length - 1}/${bytes.length}`,
      }),
    });
    response.end(body);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return Object.assign(state, {
    base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: () => requests,
    sentBytes: () => sent,
    close() {
      server.closeAllConnections();
      server.close();
    },
  });
}
