import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { createServer } from "@lowbit/server";
import { Command, InvalidArgumentError } from "commander";
import { LowbitError } from "lowbit";
import type { Io } from "../io.ts";
import { interruptible, modelLabel, type OpenedModel, openModel } from "../model.ts";
import {
  addCacheOption,
  addDraftOption,
  addLoadOptions,
  type DraftFlags,
  type LoadFlags,
  parseCount,
  parseInteger,
} from "../options.ts";

interface ServeFlags extends LoadFlags, DraftFlags {
  readonly port: number;
  readonly host: string;
  readonly name?: string;
  readonly apiKey?: string[];
  readonly parallel: number;
  readonly contexts: number;
  readonly queue: number;
  readonly cors?: string[];
}

function parsePort(text: string): number {
  const port = parseInteger(text);
  if (port < 0 || port > 65_535) throw new InvalidArgumentError("It must be from 0 to 65535.");
  return port;
}

const collect = (value: string, previous: readonly string[] = []): string[] => [...previous, value];

export function serveCommand(io: Io): Command {
  const command = new Command("serve")
    .description("answer OpenAI's HTTP interface with a model")
    .argument(
      "[model]",
      "file, folder, URL or hf:org/repository of a model (default: pico, which comes with lowbit)",
    )
    .option("--port <number>", "port to listen on; 0 takes any that is free", parsePort, 8080)
    .option("--host <address>", "address to listen on; 0.0.0.0 lets other machines in", "127.0.0.1")
    .option("--name <text>", "what requests call the model (default: its file's name)")
    .option("--api-key <key>", "let in only who knows it (repeatable; also LOWBIT_API_KEY)", collect)
    .option("--parallel <count>", "answers written at the same time", parseCount, 16)
    .option("--contexts <count>", "whole contexts that their cache has room for", parseCount, 4)
    .option("--queue <count>", "requests that may wait; more are answered 429", parseInteger, 128)
    .option("--cors <origin>", "let pages of this origin call it; * for all (repeatable)", collect);
  addDraftOption(addCacheOption(addLoadOptions(command)));
  return command.action((model: string | undefined, flags: ServeFlags) => serve(io, model, flags));
}

async function serve(io: Io, location: string | undefined, flags: ServeFlags): Promise<void> {
  const name = flags.name ?? modelLabel(location).replace(/\.(gguf|safetensors)$/, "");
  const keys = [...(flags.apiKey ?? []), ...(io.env.LOWBIT_API_KEY ? [io.env.LOWBIT_API_KEY] : [])];
  await interruptible(io, async (signal) => {
    const opened = openModel(io, location, flags, signal, {
      sequences: Math.min(flags.contexts, flags.parallel),
    });
    const model = opened.then((both) => both.model);
    // Whoever listens for the server's sake hears of a failure too; the one below is the user's.
    model.catch(() => undefined);
    const server = createServer({
      models: { [name]: model },
      limits: { parallel: flags.parallel, queue: flags.queue },
      ...(keys.length > 0 && { apiKeys: keys }),
      ...(flags.cors && { cors: flags.cors.includes("*") ? "*" : flags.cors }),
      onError: (error) => io.stderr.write(`lowbit: ${error instanceof Error ? error.message : error}\n`),
    });
    const http = createAdaptorServer({ fetch: server.fetch, overrideGlobalObjects: false });
    const address = await listening(http, flags);
    let loaded: OpenedModel | undefined;
    try {
      loaded = await opened;
      const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
      io.stderr.write(`${name} at http://${host}:${address.port}/v1. Ctrl-C ends it.\n`);
      await aborted(signal);
    } finally {
      const closed = new Promise((done) => http.close(done));
      await server.close();
      if ("closeAllConnections" in http) http.closeAllConnections();
      await closed;
      await loaded?.close();
    }
  });
}

function listening(
  http: ReturnType<typeof createAdaptorServer>,
  { port, host }: ServeFlags,
): Promise<AddressInfo> {
  return new Promise((resolve, reject) => {
    http.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        new LowbitError(
          "bad-argument",
          `Cannot listen on ${host}, port ${port}: ${error.code ?? error.message}.`,
          {
            reason: "port",
            hint: "Give another with --port; 0 takes any that is free.",
            cause: error,
          },
        ),
      ),
    );
    http.listen(port, host, () => resolve(http.address() as AddressInfo));
  });
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    signal.addEventListener("abort", () => done(), { once: true });
  });
}
