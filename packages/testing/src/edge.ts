import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { EdgeVM } from "@edge-runtime/vm";
import { createAdaptorServer } from "@hono/node-server";
import { build, type Plugin } from "esbuild";

/** What Vercel's builder makes of a module for its edge runtime. */
export interface EdgeBundle {
  /** Leaves the module's exports in a global `edge`. */
  readonly script: string;
  /** What the script expects as a global of this name. */
  readonly wasmModules: Record<string, WebAssembly.Module>;
  /** What would be deployed: the script and the modules' files. */
  readonly files: readonly Uint8Array[];
}

/** Bundles a module with all that it imports; each `.wasm?module` becomes a compiled module beside the script. */
export async function bundleEdge(entry: string): Promise<EdgeBundle> {
  const wasmModules: Record<string, WebAssembly.Module> = {};
  const files: Uint8Array[] = [];
  const modules: Plugin = {
    name: "wasm?module",
    setup(builder) {
      builder.onResolve({ filter: /\.wasm\?module$/ }, ({ path, resolveDir }) => ({
        path: join(resolveDir, path.replace(/\?module$/, "")),
        namespace: "module",
      }));
      builder.onLoad({ filter: /./, namespace: "module" }, ({ path }) => {
        const bytes = readFileSync(path);
        files.push(bytes);
        wasmModules[path] = new WebAssembly.Module(bytes);
        return { contents: `export default globalThis.wasmModules[${JSON.stringify(path)}]` };
      });
    },
  };
  const { outputFiles } = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    minify: true,
    format: "iife",
    globalName: "edge",
    conditions: ["edge-light", "browser"],
    plugins: [modules],
    logLevel: "error",
  });
  const [output] = outputFiles;
  if (output !== undefined) files.push(output.contents);
  return { script: output?.text ?? "", wasmModules, files };
}

/** Vercel's edge runtime after the script has run, with the environment variables that it sees. */
export function startEdge({ script, wasmModules }: EdgeBundle, env: Record<string, string> = {}): EdgeVM {
  const runtime = new EdgeVM({
    extend: (context) => Object.assign(context, { wasmModules, process: { env } }),
  });
  runtime.evaluate(script);
  return runtime;
}

/** An HTTP server of functions in Vercel's edge runtime. */
export interface EdgeServer {
  /** Where it listens, without a path. */
  readonly base: string;
  close(): Promise<void>;
}

/** Serves the bundle's default export, a handler of the form `(request, { waitUntil })`, for every path. */
export async function serveEdge(bundle: EdgeBundle, env: Record<string, string> = {}): Promise<EdgeServer> {
  const runtime = startEdge(bundle, env);
  const { Request: EdgeRequest, AbortController: EdgeController } = runtime.context;
  const handler =
    runtime.evaluate<
      (request: Request, context: { waitUntil(promise: Promise<unknown>): void }) => Promise<Response>
    >("edge.default");
  const server = createAdaptorServer({
    overrideGlobalObjects: false,
    // Requests, responses and signals belong to their realm: each is made anew on the other side.
    async fetch({ url, method, headers, body, signal }: Request) {
      const controller = new EdgeController();
      signal.addEventListener("abort", () => controller.abort());
      const request = new EdgeRequest(url, {
        method,
        headers: Object.fromEntries(headers),
        ...(body && { body: await new Response(body).text() }),
        signal: controller.signal,
      });
      const response = await handler(request, { waitUntil: () => undefined });
      return new Response(response.body, {
        status: response.status,
        headers: Object.fromEntries(response.headers),
      });
    },
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  return {
    base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        if ("closeAllConnections" in server) server.closeAllConnections();
      }),
  };
}
