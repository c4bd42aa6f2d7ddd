import { decodeScale, type FieldPlan, type ScalePlan } from "@lowbit/core";
import { needsIndex, type PackedLayout } from "./packed-layout.ts";

/** Bytes to place in linear memory at one address, with the words that need the address added. */
export interface Image {
  readonly bytes: Uint8Array;
  /** Word indices. */
  readonly pointers: readonly number[];
}

/** A packed layout as the `TypeInfo` struct of c/type.h, followed by what it points to. */
export function typeInfo(layout: PackedLayout): Image {
  const { plan } = layout;
  const image = new ImageWriter();
  const info = image.reserve(typeInfoWords);
  const words: (number | Pointer)[] = [
    layout.mode,
    layout.width,
    layout.group,
    layout.zero,
    float(layout.unit),
    layout.minKind,
    ...scaleWords(image, plan.scale),
    ...scaleWords(image, layout.min),
    ...image.bytesAsWords(layout.table, 16),
    roundings[plan.type.round ?? ""] ?? 0,
    plan.type.block,
    plan.type.bytes,
    fieldPointer(image, plan.code),
    plan.code?.signed ? 2 ** (plan.code.bits - 1) : 0,
    needsIndex(plan) ? image.data(plan.index) : 0,
    plan.type.values.kind === "book" ? plan.type.values.table.length : 0,
    plan.dimension,
    fieldPointer(image, plan.sign),
    plan.sign?.parity ? 1 : 0,
    fieldPointer(image, plan.delta),
    layout.stored.length > 0
      ? image.data(Int8Array.from({ length: 256 }, (_, i) => layout.stored[i] ?? 0))
      : 0,
    movedBy(layout.stored),
    layout.floats ? image.data(layout.floats) : 0,
    layout.form,
    superFormats[layout.zeroFormat ?? ""] ?? 0,
  ];
  image.write(info, words);
  return image.finish();
}

const scaleInfoWords = 9;
const typeInfoWords = 6 + 2 * scaleInfoWords + 4 + 16;

/** A byte offset in the image; the address is added when it is placed. */
interface Pointer {
  readonly offset: number;
}

class ImageWriter {
  #bytes = new Uint8Array(1024);
  #end = 0;
  readonly #pointers: number[] = [];

  /** Byte offset of `words` fresh words. */
  reserve(words: number): number {
    return this.#take(words * 4);
  }

  data(source: Uint8Array | Int8Array | Uint16Array | Float32Array): Pointer {
    const offset = this.#take(source.byteLength);
    this.#bytes.set(new Uint8Array(source.buffer, source.byteOffset, source.byteLength), offset);
    return { offset };
  }

  write(offset: number, words: readonly (number | Pointer)[]): void {
    const view = new DataView(this.#bytes.buffer);
    words.forEach((word, i) => {
      const at = offset + 4 * i;
      if (typeof word === "number") {
        view.setInt32(at, word, true);
      } else {
        this.#pointers.push(at / 4);
        view.setInt32(at, word.offset, true);
      }
    });
  }

  bytesAsWords(source: Int8Array, bytes: number): number[] {
    const padded = new Uint8Array(bytes);
    padded.set(new Uint8Array(source.buffer, source.byteOffset, source.byteLength));
    return [...new Int32Array(padded.buffer)];
  }

  finish(): Image {
    return { bytes: this.#bytes.subarray(0, this.#end), pointers: this.#pointers };
  }

  #take(bytes: number): number {
    const offset = this.#end;
    this.#end += Math.ceil(bytes / 16) * 16;
    if (this.#end > this.#bytes.length) {
      const grown = new Uint8Array(2 * this.#end);
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    return offset;
  }
}

const superFormats: Readonly<Record<string, number>> = { f32: 1, f16: 2, bf16: 3 };
const tableFormat = 4;
const roundings: Readonly<Record<string, number>> = { f16: 1, bf16: 2 };

function scaleWords(image: ImageWriter, scale: ScalePlan | undefined): (number | Pointer)[] {
  if (scale === undefined) return new Array<number>(scaleInfoWords).fill(0);
  const { super: top, sub } = scale;
  const format = top === undefined ? 0 : (superFormats[top.format] ?? tableFormat);
  const values =
    top !== undefined && format === tableFormat
      ? image.data(Float32Array.from({ length: 256 }, (_, bits) => decodeScale(top.format, bits)))
      : 0;
  return [
    format,
    top?.per ?? 0,
    sub === undefined ? 0 : sub.signed ? 2 : 1,
    sub?.per ?? 0,
    float(sub?.offset ?? 0),
    float(scale.multiplier),
    values,
    fieldPointer(image, top),
    fieldPointer(image, sub),
  ];
}

function fieldPointer(image: ImageWriter, field: FieldPlan | undefined): number | Pointer {
  if (field === undefined) return 0;
  const offset = image.reserve(5 + 4 * field.pieces.length);
  const pieces = field.pieces.flatMap(({ positions, bits, shift }) => [
    image.data(positions),
    bits,
    shift,
    image.data(runsOf(positions, bits)),
  ]);
  image.write(offset, [
    field.per,
    field.count,
    field.bits,
    field.signed ? 1 : 0,
    field.pieces.length,
    ...pieces,
  ]);
  return { offset };
}

/** How sixteen values in a row lie: the enum of c/type.h. */
const runs = { any: 0, bytes: 1, bits: 2 } as const;

function runsOf(positions: Uint16Array, bits: number): Uint8Array {
  return Uint8Array.from({ length: Math.max(1, Math.floor(positions.length / 16)) }, (_, run) => {
    const first = positions[16 * run] ?? 0;
    const every = (step: number): boolean =>
      positions.length >= 16 * (run + 1) &&
      positions.subarray(16 * run, 16 * (run + 1)).every((position, i) => position === first + i * step);
    if ((first % 8) + bits <= 8 && every(8)) return runs.bytes;
    return bits === 1 && first % 8 === 0 && every(1) ? runs.bits : runs.any;
  });
}

/** n if what is stored for each level is the level less n, as for integers around 0; else 0. */
function movedBy(stored: Int8Array): number {
  const n = -(stored[0] ?? 0);
  return stored.every((value, level) => value === level - n) ? n : 0;
}

function float(value: number): number {
  return new Int32Array(Float32Array.of(value).buffer)[0] ?? 0;
}
