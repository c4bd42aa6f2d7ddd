import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A model hub with one repository, and a storage of another origin to which it redirects. */
export interface FakeHub {
  readonly endpoint: string;
  readonly log: { host: "hub" | "storage"; url: string; authorization: string | undefined }[];
  /** Path in the repository to bytes; those above 1,000 bytes are in large-file storage. */
  readonly files: Map<string, Uint8Array>;
  /** Where the branch stands. */
  commit: string;
  /** Needed to see the repository. */
  token: string | undefined;
  /** Files of one page of a listing. */
  pageSize: number;
  /** Where the next page is said to be. */
  foreignPages: boolean;
  close(): void;
}

const hash = (algorithm: string, bytes: Uint8Array): string =>
  createHash(algorithm).update(bytes).digest("hex");
export const commitOf = (n: number): string => String(n).repeat(40);

export async function fakeHub(repository = "someone/pico"): Promise<FakeHub> {
  const hub = {
    endpoint: "",
    log: [],
    files: new Map(),
    commit: commitOf(1),
    token: undefined,
    pageSize: 1000,
    foreignPages: false,
    close() {
      for (const server of servers) {
        server.closeAllConnections();
        server.close();
      }
    },
  } as FakeHub & { endpoint: string };
  let storage = "";

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "/", hub.endpoint);
    const { authorization } = request.headers;
    hub.log.push({ host: "hub", url: url.pathname + url.search, authorization });
    if (hub.token !== undefined && authorization !== `Bearer ${hub.token}`)
      return void response.writeHead(401).end();
    const [, info] = new RegExp(`^/api/models/${repository}/revision/([^/]+)$`).exec(url.pathname) ?? [];
    if (info !== undefined) {
      const known = ["main", hub.commit, "refs%2Fpr%2F1"].includes(info);
      if (known) json(response, { id: repository, sha: hub.commit });
      else response.writeHead(404).end();
      return;
    }
    const [, revision, folder = ""] =
      new RegExp(`^/api/models/${repository}/tree/([^/]+)/?(.*)$`).exec(url.pathname) ?? [];
    if (revision !== undefined) return void tree(url, revision, folder, response);
    const [, at, path = ""] = new RegExp(`^/${repository}/resolve/([^/]+)/(.+)$`).exec(url.pathname) ?? [];
    const bytes = hub.files.get(decodeURIComponent(path));
    if (![hub.commit, "main"].includes(at ?? "") || bytes === undefined)
      return void response.writeHead(404, { "x-error-code": "EntryNotFound" }).end();
    const headers = { "x-repo-commit": hub.commit };
    if (bytes.length <= 1000)
      return void content(request, response, bytes, { ...headers, etag: `"${oid(bytes)}"` });
    const sha256 = hash("sha256", bytes);
    const location = `${storage}/${sha256}?name=${encodeURIComponent(path)}&signature=secret`;
    response.writeHead(302, {
      ...headers,
      location,
      "x-linked-size": bytes.length,
      "x-linked-etag": `"${sha256}"`,
    });
    response.end();
  }

  function tree(url: URL, revision: string, folder: string, response: ServerResponse): void {
    if (![hub.commit, "main"].includes(revision)) return void response.writeHead(404).end();
    const prefix = folder === "" ? "" : `${decodeURIComponent(folder)}/`;
    const items = new Map<string, unknown>();
    for (const [path, bytes] of hub.files) {
      if (!path.startsWith(prefix)) continue;
      const [first = "", ...rest] = path.slice(prefix.length).split("/");
      const lfs =
        bytes.length > 1000
          ? { oid: hash("sha256", bytes), size: bytes.length, pointerSize: 132 }
          : undefined;
      items.set(
        first,
        rest.length > 0
          ? { type: "directory", oid: oid(new Uint8Array(0)), size: 0, path: prefix + first }
          : { type: "file", oid: oid(bytes), size: bytes.length, ...(lfs && { lfs }), path },
      );
    }
    if (items.size === 0) return void response.writeHead(404).end();
    const start = Number(url.searchParams.get("cursor") ?? 0);
    const page = [...items.values()].slice(start, start + hub.pageSize);
    if (start + hub.pageSize < items.size) {
      const next = new URL(url);
      next.searchParams.set("cursor", String(start + hub.pageSize));
      const target = hub.foreignPages ? `${storage}/steal` : next.href;
      response.setHeader("link", `<${target}>; rel="next"`);
    }
    json(response, page);
  }

  function stored(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "/", storage);
    hub.log.push({ host: "storage", url: url.pathname, authorization: request.headers.authorization });
    const bytes = [...hub.files.values()].find((one) => hash("sha256", one) === url.pathname.slice(1));
    if (bytes === undefined || url.searchParams.get("signature") !== "secret")
      return void response.writeHead(403).end();
    content(request, response, bytes, { etag: `"storage-${bytes.length}"` });
  }

  const servers = [answer, stored].map((handler) => createServer(handler).listen(0, "127.0.0.1"));
  const [first, second] = await Promise.all(
    servers.map(async (server) => {
      await new Promise((resolve) => server.once("listening", resolve));
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    }),
  );
  hub.endpoint = first as string;
  storage = second as string;
  return hub;
}

/** Git's own name for the bytes of a file. */
function oid(bytes: Uint8Array): string {
  return hash("sha1", Buffer.concat([Buffer.from(`blob ${bytes.length}\0`), bytes]));
}

function json(response: ServerResponse, value: unknown): void {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(value));
}

function content(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Uint8Array,
  headers: Record<string, string>,
): void {
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
  const start = Number(from ?? 0);
  const body = from === undefined ? bytes : bytes.subarray(start, Number(to) + 1);
  response.writeHead(from === undefined ? 200 : 206, {
    ...headers,
    "content-length": body.length,
    ...(from !== undefined && {
      "content-range": `bytes ${start}-${start + body.length - 1}/${bytes.length}`,
    }),
  });
  response.end(body);
}
