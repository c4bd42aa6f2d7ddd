import {
  LowbitError,
  type PlainJson,
  type StagedTensor,
  type StagedWeight,
  type StoredWeight,
  type WritableFolder,
} from "@lowbit/core";
import type { WeightReport } from "./report.ts";

/** A line of the journal: a weight whose tensors lie in a part, one after another. */
export interface JournalLine {
  readonly role: string;
  /** "part-00012.bin". */
  readonly part: string;
  readonly tensors: readonly JournalTensor[];
  readonly note?: PlainJson;
  readonly report: WeightReport;
  /** Checksum of the source's weight. */
  readonly source: string;
}

interface JournalTensor extends Omit<StagedTensor, "read"> {
  /** In the part. */
  readonly offset: number;
}

/** What was done so far, on disk. */
export interface Journal {
  readonly lines: ReadonlyMap<string, JournalLine>;
  /** Why what an earlier run left is not used; undefined if it is, or if there was none. */
  readonly discarded: string | undefined;
  /** Writes the part, then its line: a line that can be read is a part that is whole. */
  add(
    weight: Omit<JournalLine, "part" | "tensors" | "note">,
    stored: StoredWeight,
    index: number,
  ): Promise<void>;
  /** A weight whose line is there. */
  staged(role: string): StagedWeight;
}

const journalFile = "journal.jsonl";
const journalVersion = 1;
/** A journal has a few hundred bytes for each tensor. */
const maxJournalBytes = 2 ** 28;
/** Parts are read in pieces of this size. */
const pieceBytes = 2 ** 22;

export interface JournalOptions {
  /** Says of everything that decides the result; work of another identity is not taken up. */
  identity: PlainJson;
  resume: boolean;
  /** A last look at what is there: why it cannot be used, or undefined. */
  check(lines: ReadonlyMap<string, JournalLine>): Promise<string | undefined>;
}

/**
 * Takes up the work that lies in a folder, else begins anew. Lines that a crash left torn, and those whose part is not whole, do not
 * count.
 */
export async function openJournal(folder: WritableFolder, options: JournalOptions): Promise<Journal> {
  const header = JSON.stringify({ version: journalVersion, identity: options.identity });
  const files = await folder.list();
  const found = files.includes(journalFile) ? await readJournal(folder) : undefined;
  const lines = new Map<string, JournalLine>();
  for (const line of found?.lines ?? []) {
    if (files.includes(line.part) && (await isWhole(folder, line))) lines.set(line.role, line);
  }
  let discarded: string | undefined;
  if (!options.resume) discarded = "it was asked to start afresh";
  else if (found?.header !== header) discarded = "it was of another source, or had other options";
  else discarded = await options.check(lines);
  /** A torn line must not run into the next. */
  let separator = found?.torn ? "\n" : "";
  const anything = lines.size > 0;
  if (discarded !== undefined) {
    lines.clear();
    separator = "";
    for (const file of files) await folder.remove(file);
    await folder.append(journalFile, encode(`${header}\n`));
  }
  return {
    lines,
    discarded: anything ? discarded : undefined,
    async add(weight, stored, index) {
      const part = `part-${String(index).padStart(5, "0")}.bin`;
      const tensors: JournalTensor[] = [];
      let offset = 0;
      const sink = await folder.create(part);
      try {
        for (const { name, dtype, shape, data } of stored.tensors) {
          await sink.write(data);
          tensors.push({ name, dtype, shape, bytes: data.length, offset });
          offset += data.length;
        }
      } finally {
        await sink.close();
      }
      const { note } = stored;
      const line: JournalLine = { ...weight, part, tensors, ...(note !== undefined && { note }) };
      await folder.append(journalFile, encode(`${separator}${JSON.stringify(line)}\n`));
      separator = "";
      lines.set(line.role, line);
    },
    staged(role) {
      const line = lines.get(role);
      if (line === undefined) throw new LowbitError("internal", `${role} was not staged.`);
      const { part, note } = line;
      return {
        role,
        tensors: line.tensors.map(({ offset, ...tensor }) => ({
          ...tensor,
          read: (signal) => readPart(folder, part, offset, tensor.bytes, signal),
        })),
        ...(note !== undefined && { note }),
      };
    },
  };
}

interface Found {
  readonly header: string;
  readonly lines: readonly JournalLine[];
  /** It does not end with a whole line. */
  readonly torn: boolean;
}

async function readJournal(folder: WritableFolder): Promise<Found> {
  const source = await folder.open(journalFile);
  try {
    if (source.size > maxJournalBytes) return { header: "", lines: [], torn: false };
    const text = new TextDecoder().decode(await source.read(0, source.size));
    const [header = "", ...rest] = text.split("\n");
    const lines = rest.map(parseLine).filter((line) => line !== undefined);
    return { header, lines, torn: !text.endsWith("\n") };
  } finally {
    await source.close?.();
  }
}

/** Undefined for what is no line of ours: a torn one. */
function parseLine(text: string): JournalLine | undefined {
  let line: JournalLine;
  try {
    line = JSON.parse(text);
  } catch {
    return undefined;
  }
  const whole =
    typeof line?.role === "string" &&
    typeof line.source === "string" &&
    /^part-\d+\.bin$/.test(line.part) &&
    typeof line.report === "object" &&
    Array.isArray(line.tensors) &&
    line.tensors.every(({ bytes, offset }) => Number.isSafeInteger(bytes) && Number.isSafeInteger(offset));
  return whole ? line : undefined;
}

async function isWhole(folder: WritableFolder, { part, tensors }: JournalLine): Promise<boolean> {
  const source = await folder.open(part);
  const size = source.size;
  await source.close?.();
  return size === tensors.reduce((total, { bytes }) => total + bytes, 0);
}

async function* readPart(
  folder: WritableFolder,
  part: string,
  offset: number,
  bytes: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const source = await folder.open(part, signal);
  try {
    for (let done = 0; done < bytes; done += pieceBytes) {
      yield await source.read(offset + done, Math.min(pieceBytes, bytes - done), signal);
    }
  } finally {
    await source.close?.();
  }
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
