import { basename } from "node:path";
import { picoGguf } from "@lowbit/pico";
import {
  type ByteSource,
  createTokenizer,
  type FileSet,
  type Inspection,
  inspect,
  type LoadOptions,
  load,
  type Model,
  platform,
  type Tokenizer,
} from "lowbit";
import { exitCodes } from "./errors.ts";
import type { Io } from "./io.ts";
import type { DraftFlags, LoadFlags } from "./options.ts";
import { createProgress } from "./progress.ts";

/** A model as the user names it: a path or a URL, or nothing for pico. */
export function locationOf(model: string | undefined): string | URL {
  return model ?? picoGguf;
}

/** A short name for messages and bars. */
export function modelLabel(model: string | undefined): string {
  return model === undefined ? "pico" : basename(model);
}

function loadOptions(flags: LoadFlags, signal: AbortSignal): LoadOptions {
  return {
    backend: flags.backend,
    ...(flags.context === undefined ? {} : { contextLength: flags.context }),
    ...(flags.kv === undefined ? {} : { kvCache: flags.kv }),
    ...(flags.threads === undefined ? {} : { threads: flags.threads }),
    signal,
  };
}

/** Loads with a bar on the terminal. */
export async function loadModel(
  io: Io,
  model: string | undefined,
  flags: LoadFlags,
  signal: AbortSignal,
  more: Pick<LoadOptions, "sequences" | "draft"> = {},
): Promise<Model> {
  const progress = createProgress(io);
  try {
    const loaded = await load(locationOf(model), {
      ...loadOptions(flags, signal),
      ...more,
      cache: flags.cache !== false,
      onProgress: ({ phase, file, doneBytes, totalBytes }) =>
        progress.update(
          phase === "download" && file !== undefined ? `download ${file}` : modelLabel(model),
          doneBytes,
          totalBytes,
        ),
    });
    const { backend, unavailable } = loaded.info;
    if (unavailable.length > 0) {
      progress.clear();
      io.stderr.write(`lowbit: running on the slower backend ${backend}; ${unavailable.join("; ")}\n`);
    }
    return loaded;
  } finally {
    progress.clear();
  }
}

/** A model with the draft that its flags name. */
export interface OpenedModel {
  readonly model: Model;
  /** Frees both. */
  close(): Promise<void>;
}

/** As `loadModel`, after the draft if the flags name one. */
export async function openModel(
  io: Io,
  location: string | undefined,
  flags: LoadFlags & DraftFlags,
  signal: AbortSignal,
  more: Pick<LoadOptions, "sequences"> = {},
): Promise<OpenedModel> {
  if (flags.draft === undefined) {
    const model = await loadModel(io, location, flags, signal, more);
    return { model, close: () => model.dispose() };
  }
  // The context is the model's: a shorter one will do for guesses, and the draft may not be made for so much.
  const { context, ...draftFlags } = flags;
  const draft = await loadModel(io, flags.draft, draftFlags, signal, more);
  try {
    const model = await loadModel(io, location, flags, signal, { ...more, draft });
    return {
      model,
      async close() {
        await model.dispose();
        await draft.dispose();
      },
    };
  } catch (error) {
    await draft.dispose();
    throw error;
  }
}

/** Looks at a model without its weights, and counts the bytes that this took. */
export async function inspectModel(
  model: string | undefined,
  flags: LoadFlags,
  signal: AbortSignal,
): Promise<{ inspection: Inspection; readBytes: number }> {
  const counter = { bytes: 0 };
  const files = counted(await platform().files(locationOf(model), signal), counter);
  return {
    inspection: await inspect(files, loadOptions(flags, signal)),
    readBytes: counter.bytes,
  };
}

/** The tokenizer alone; undefined if the model has none. */
export async function openTokenizer(
  model: string | undefined,
  signal: AbortSignal,
): Promise<Tokenizer | undefined> {
  const { tokenizer } = await inspect(locationOf(model), { signal });
  return tokenizer && createTokenizer(tokenizer);
}

function counted(files: FileSet, counter: { bytes: number }): FileSet {
  return {
    name: files.name,
    entry: files.entry,
    list: (signal) => files.list(signal),
    async open(file, signal): Promise<ByteSource> {
      const source = await files.open(file, signal);
      return {
        name: source.name,
        size: source.size,
        read(offset, length, readSignal) {
          counter.bytes += length;
          return source.read(offset, length, readSignal);
        },
        close: async () => source.close?.(),
      };
    },
  };
}

/** Runs with a signal that the first Ctrl-C fires; the second ends the process at once. */
export async function interruptible<T>(io: Io, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const release = io.onInterrupt(() => {
    if (controller.signal.aborted) io.exit(exitCodes.aborted);
    controller.abort();
  });
  try {
    return await body(controller.signal);
  } finally {
    release();
  }
}
