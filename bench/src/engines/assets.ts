import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { gzipSync } from "node:zlib";

const mime: Readonly<Record<string, string>> = {
  ".js": "text/javascript",
  ".wasm": "application/wasm",
  ".html": "text/html",
};

/** What a page is made of, by paths that begin with "/". */
export interface Assets {
  readonly html: string;
  /** Folders of scripts and modules, by where they are seen. */
  readonly folders: Readonly<Record<string, string>>;
  /** A file that is seen as /model.gguf, or a folder that is seen as /model/, where the names of its files are. */
  readonly modelPath: string;
}

export interface AssetServer {
  readonly base: string;
  /** Gzipped bytes of the scripts and modules that have been fetched, each once. */
  downloadBytes(): number;
  close(): void;
}

/** Serves a page to itself alone: cross-origin isolated, with ranges. */
export async function serveAssets({ html, folders, modelPath }: Assets): Promise<AssetServer> {
  const fetched = new Set<string>();
  const fileOf = (path: string): string | undefined => {
    if (path === "/model.gguf") return modelPath;
    if (path.startsWith("/model/")) return join(modelPath, path.slice("/model/".length));
    const [prefix, folder] = Object.entries(folders).find(([start]) => path.startsWith(start)) ?? [];
    if (prefix === undefined || folder === undefined) return undefined;
    const file = join(folder, path.slice(prefix.length));
    fetched.add(file);
    return file;
  };
  const server = createServer((request, response) => {
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
    const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://host").pathname));
    if (path === "/") {
      response.writeHead(200, { "content-type": "text/html" }).end(html);
      return;
    }
    if (path === "/model/" && existsSync(modelPath) && statSync(modelPath).isDirectory()) {
      response
        .writeHead(200, { "content-type": "application/json" })
        .end(JSON.stringify(readdirSync(modelPath)));
      return;
    }
    const file = fileOf(path);
    if (file === undefined || !existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    send(request, response, file);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return {
    base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    downloadBytes: () =>
      [...fetched]
        .filter((file) => existsSync(file))
        .reduce((sum, file) => sum + gzipSync(readFileSync(file), { level: 9 }).byteLength, 0),
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

function send(request: IncomingMessage, response: ServerResponse, file: string): void {
  const size = statSync(file).size;
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const start = Number(from ?? 0);
  const end = to ? Math.min(Number(to), size - 1) : size - 1;
  response.writeHead(from === undefined ? 200 : 206, {
    "content-type": mime[extname(file)] ?? "application/octet-stream",
    "content-length": end - start + 1,
    "accept-ranges": "bytes",
    etag: `"${size}"`,
    ...(from !== undefined && { "content-range": `bytes ${start}-${end}/${size}` }),
  });
  if (request.method === "HEAD" || size === 0) response.end();
  else createReadStream(file, { start, end }).pipe(response);
}
