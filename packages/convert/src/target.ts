import {
  type Checkpoint,
  type CheckpointWriter,
  type Format,
  type LinearWeight,
  LowbitError,
  type Packing,
  type PackingOptions,
  type PackingWriter,
  type Plugin,
} from "@lowbit/core";
import { integerGrid } from "@lowbit/packing";

/** What a user chooses; each format and packing documents which it takes. */
export interface TargetOptions extends PackingOptions {
  /** For formats: the type to quantize to, "Q4_0" or "f16". Absent: each weight keeps its values. */
  type?: string | undefined;
  /** Most bytes in one file, where the format splits. */
  maxFileBytes?: number | undefined;
  /** Of the source's tokenizer; see `WriterOptions`. */
  tokenizerProbe?: string | undefined;
}

/** A writer, and what decides what it writes. */
export interface ConversionTarget {
  /** The format's or the packing's name. */
  readonly name: string;
  readonly options: Readonly<Record<string, string | number | boolean>>;
  readonly writer: CheckpointWriter;
}

/** Names that can be converted to: formats and packings that write. */
export function targetNames(plugins: readonly Plugin[]): string[] {
  return [...formatsOf(plugins), ...packingsOf(plugins)].flatMap(({ name, writer }) =>
    writer ? [name] : [],
  );
}

/**
 * A writer for `to`: a format's name, or a packing's, which is then written in the first format that has packings. Options that were
 * left out follow the source where it is quantized in a way that the packing can hold. Throws `bad-argument` for what does not exist.
 */
export async function writerFor(
  plugins: readonly Plugin[],
  source: Checkpoint,
  to: string,
  options: TargetOptions = {},
  signal?: AbortSignal,
): Promise<ConversionTarget> {
  const { type, maxFileBytes, tokenizerProbe, ...packingOptions } = options;
  const probe = withoutUndefined({ tokenizerProbe });
  const chosen = withoutUndefined(packingOptions);
  const common = withoutUndefined({ type, maxFileBytes });
  const format = formatsOf(plugins).find(({ name }) => name === to);
  const packing = packingsOf(plugins).find(({ name }) => name === to);
  if (format?.writer) {
    const [stray] = Object.keys(chosen);
    if (stray !== undefined) {
      throw new LowbitError("bad-argument", `${to} has no ${stray} to choose.`, {
        reason: stray,
        hint: "Choose a type, or convert to a packing.",
      });
    }
    return { name: to, options: common, writer: await format.writer(source, { ...common, ...probe }) };
  }
  if (!packing?.writer) {
    const known = packing ?? format;
    throw new LowbitError(
      "bad-argument",
      known
        ? `${to} is only read, not written.`
        : `There is nothing named ${JSON.stringify(to)} to convert to.`,
      { reason: "to", hint: `Known are ${targetNames(plugins).join(", ")}.` },
    );
  }
  const { writer, used } = await packingWriter(packing, source, chosen, signal);
  for (const candidate of formatsOf(plugins)) {
    try {
      const packed = { ...common, ...probe, packing: { name: to, writer } };
      const made = await candidate.writer?.(source, packed);
      if (made) return { name: to, options: { ...common, ...used }, writer: made };
    } catch (error) {
      if (!LowbitError.is(error) || error.code !== "bad-argument" || error.reason !== "packing") throw error;
    }
  }
  throw new LowbitError("bad-argument", `No format here can hold ${to} modules.`, {
    reason: "to",
    hint: "Add the plugin safetensors().",
  });
}

interface MadeWriter {
  readonly writer: PackingWriter;
  readonly used: ConversionTarget["options"];
}

/** The writer with the source's own bits and groups, if it can hold the source's weights so; else with its defaults. */
async function packingWriter(
  packing: Packing,
  source: Checkpoint,
  chosen: PackingOptions,
  signal: AbortSignal | undefined,
): Promise<MadeWriter> {
  const make = (options: PackingOptions): MadeWriter => {
    const writer = packing.writer?.(options);
    if (!writer) throw new LowbitError("internal", `${packing.name} has lost its writer.`);
    return { writer, used: { ...options } as MadeWriter["used"] };
  };
  const plain = make(chosen);
  const sample = await sampleOf(source, signal);
  const strict = { ...plain, writer: asChosen(plain.writer, chosen) };
  if (sample === undefined) return strict;
  const { symmetric, ...sizes } = sample.options;
  for (const guess of [sample.options, sizes, { bits: sizes.bits }]) {
    const options = { ...(guess as PackingOptions), ...chosen };
    // With a variant of another kind (floats, say) the source's bits mean nothing.
    try {
      const made = make(options);
      if (made.writer.hold(sample.weight)) return { ...made, writer: asChosen(made.writer, chosen) };
    } catch (error) {
      if (!LowbitError.is(error) || error.code !== "bad-argument") throw error;
    }
  }
  return strict;
}

/** What a user asks for counts more than that a weight could stay as it is: grids of other bits or groups are rounded anew. */
function asChosen(writer: PackingWriter, { bits, groupSize, symmetric }: PackingOptions): PackingWriter {
  if (bits === undefined && groupSize === undefined && symmetric === undefined) return writer;
  const fits = (weight: LinearWeight): boolean => {
    const grid = gridOf(weight);
    // Of EXL2's weights, which round, the bits are an average.
    if (grid === undefined || grid.round) return true;
    const group = groupSize === -1 ? weight.in : groupSize;
    const around = grid.zero === 2 ** (grid.bits - 1);
    return (
      (bits === undefined || grid.bits === bits) &&
      (group === undefined || grid.group === Math.min(group, weight.in)) &&
      (symmetric !== true || around)
    );
  };
  return { ...writer, hold: (weight) => (fits(weight) ? writer.hold(weight) : undefined) };
}

interface Sample {
  readonly weight: LinearWeight;
  readonly options: Required<Pick<PackingOptions, "bits" | "groupSize" | "symmetric">>;
}

/** The first weight of a layer that is an integer grid of few bits. */
async function sampleOf(source: Checkpoint, signal: AbortSignal | undefined): Promise<Sample | undefined> {
  const entries = source.entries().filter(({ role }) => role?.startsWith("layers."));
  const first = entries.find(({ shape, type }) => shape.length > 1 && gridOf(outline(type)) !== undefined);
  if (first?.role === undefined) return undefined;
  const weight = await source.weight(first.role, signal);
  const grid = gridOf(weight);
  if (grid === undefined) return undefined;
  const { bits, group, zero } = grid;
  return {
    weight,
    options: { bits, groupSize: group === weight.in ? -1 : group, symmetric: zero === 2 ** (bits - 1) },
  };
}

function gridOf(weight: LinearWeight): ReturnType<typeof integerGrid> {
  const grid = integerGrid(weight);
  return grid && grid.scale !== "none" ? grid : undefined;
}

/** One block, to see what kind of type it is. */
function outline(type: LinearWeight["segments"][number]["type"]): LinearWeight {
  const blocks = new Uint8Array(type.bytes);
  return { out: 1, in: type.block, segments: [{ type, from: 0, to: type.block, blocks }] };
}

function formatsOf(plugins: readonly Plugin[]): readonly Format[] {
  return plugins.flatMap(({ formats }) => formats ?? []);
}

function packingsOf(plugins: readonly Plugin[]): readonly Packing[] {
  return plugins.flatMap(({ packings }) => packings ?? []);
}

function withoutUndefined<T extends object>(options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const present = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(present) as { [K in keyof T]: Exclude<T[K], undefined> };
}
