import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type FieldPlan,
  LowbitError,
  planOf,
  type QuantType,
  readBits,
  readField,
  readFields,
} from "./index.ts";

/** 32 four-bit codes behind an f16 scale. */
const base: QuantType = {
  name: "base",
  block: 32,
  bytes: 18,
  code: {
    per: 1,
    pieces: [
      {
        at: 16,
        bits: 4,
        dims: [
          [16, 8],
          [2, 4],
        ],
      },
    ],
  },
  values: { kind: "affine", zero: 8 },
  scale: { super: { field: { per: 32, pieces: [{ at: 0, bits: 16, dims: [] }] }, format: "f16" } },
};

/** Pairs from a codebook of four, with signs. */
const book: QuantType = {
  ...base,
  code: { per: 2, pieces: [{ at: 16, bits: 2, dims: [[16, 2]] }] },
  values: { kind: "book", dimension: 2, table: [1, 3, 3, 1, 0, 1, 3, 3] },
  sign: { field: { per: 8, pieces: [{ at: 48, bits: 8, dims: [[4, 8]] }] } },
};

describe("bits", () => {
  test("readBits is what the bytes say as one little-endian integer", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 12 }),
        fc.nat({ max: 95 }),
        fc.integer({ min: 1, max: 32 }),
        (bytes, position, bits) => {
          const whole = bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
          const expected = (whole >> BigInt(position)) & ((1n << BigInt(bits)) - 1n);
          expect(readBits(bytes, position, bits)).toBe(Number(expected));
        },
      ),
    );
  });

  test("readFields agrees with readField: any pieces, signed or not, at any start", () => {
    const piece = fc.record({ bits: fc.integer({ min: 1, max: 9 }), at: fc.nat({ max: 40 }) });
    fc.assert(
      fc.property(
        fc.array(piece, { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        fc.uint8Array({ minLength: 24, maxLength: 24 }),
        fc.nat({ max: 8 }),
        (pieces, signed, bytes, start) => {
          const type: QuantType = {
            ...base,
            block: 8,
            bytes: 16,
            code: { per: 8, pieces: [] },
            values: { kind: "book", dimension: 8, table: [] },
          };
          const field = { per: 1, signed, pieces: pieces.map((p) => ({ ...p, dims: [[8, 7]] as const })) };
          const plan = fieldPlan(type, field);
          const out = new Int32Array(8);
          readFields(plan, bytes, start, out);
          for (let i = 0; i < 8; i++) expect(out[i]).toBe(readField(plan, bytes.subarray(start), i));
        },
      ),
    );
  });

  test("a 32-bit field wraps", () => {
    const type = { ...base, block: 8, bytes: 16 };
    const plan = fieldPlan(type, { per: 8, pieces: [{ at: 0, bits: 32, dims: [] }] });
    const out = new Int32Array(1);
    readFields(plan, Uint8Array.of(1, 0, 0, 0x80), 0, out);
    expect((out[0] ?? 0) >>> 0).toBe(0x80000001);
  });
});

/** A field's plan, taken from the sub-scale of a type. */
function fieldPlan(type: QuantType, field: FieldInput): FieldPlan {
  const { sub } = planOf({
    name: "field",
    block: type.block,
    bytes: type.bytes,
    code: { per: 1, pieces: [{ at: 0, bits: 1, dims: [[type.block, 1]] }] },
    values: { kind: "affine", zero: 0 },
    scale: { sub: { field } },
  }).scale;
  if (sub === undefined) throw new Error("no sub-scale");
  return sub;
}

type FieldInput = NonNullable<NonNullable<QuantType["scale"]>["sub"]>["field"];

describe("planOf", () => {
  test("is made once", () => {
    expect(planOf(base)).toBe(planOf(base));
  });

  test("ints: levels are the codes, signed codes shifted with their zero", () => {
    expect(planOf(base)).toMatchObject({ family: "ints", levelBits: 4, zero: 8, group: 32 });
    const signed: QuantType = { ...base, code: { ...base.code, signed: true } as QuantType["code"] };
    expect(planOf(signed)).toMatchObject({ levelBits: 4, zero: 16 });
  });

  test("a book of scalars without signs keeps its codes, whatever their order", () => {
    const plan = planOf({
      ...base,
      values: { kind: "book", dimension: 1, table: Array.from({ length: 16 }, (_, i) => (i * 7) % 16) },
    });
    expect([...plan.index]).toEqual(Array.from({ length: 16 }, (_, i) => i));
    expect([...plan.levels.subarray(0, 4)]).toEqual([0, 7, 14, 5]);
    expect(plan.levelBits).toBe(4);
  });

  test("a book of vectors with signs: index and levels give back sign · entry", () => {
    const plan = planOf(book);
    expect([...plan.levels]).toEqual([-3, -1, 0, 1, 3]);
    expect(plan.levelBits).toBe(3);
    const values = [...plan.index].map((k) => (plan.levels[k] ?? 0) * plan.unit + 0);
    expect(values).toEqual([1, 3, 3, 1, 0, 1, 3, 3, -1, -3, -3, -1, 0, -1, -3, -3]);
  });

  test("deltas become levels in a smaller unit", () => {
    const type: QuantType = {
      ...book,
      delta: { field: { per: 32, pieces: [{ at: 100, bits: 1, dims: [] }] }, values: [0.125, -0.25] },
    };
    const plan = planOf(type);
    expect(plan.unit).toBe(0.125);
    const value = (variant: number, code: number, j: number): number =>
      (plan.levels[plan.index[variant * 8 + code * 2 + j] ?? 0] ?? 0) * plan.unit;
    expect([value(0, 1, 0), value(1, 1, 0), value(2, 2, 0), value(3, 2, 1)]).toEqual([
      3.125, -3.125, -0.25, -0.75,
    ]);
  });

  const wrong: [string, QuantType, string][] = [
    ["a field that does not divide the block", { ...base, code: { per: 3, pieces: [] } }, "covers 3 weights"],
    [
      "too few values",
      { ...base, code: { per: 1, pieces: [{ at: 16, bits: 4, dims: [[16, 8]] }] } },
      "16 values",
    ],
    ["bits outside the block", { ...base, bytes: 17 }, "outside the block"],
    [
      "bits before the block",
      { ...base, code: { per: 1, pieces: [{ at: -1, bits: 4, dims: [[32, 4]] }] } },
      "bit -1",
    ],
    [
      "a fraction of a bit",
      { ...base, code: { per: 1, pieces: [{ at: 16, bits: 4, dims: [[32, 2.5]] }] } },
      "bit 18.5",
    ],
    [
      "a piece without bits",
      { ...base, code: { per: 1, pieces: [{ at: 16, bits: 0, dims: [[32, 4]] }] } },
      "0 bits",
    ],
    ["an empty field", { ...base, code: { per: 1, pieces: [] } }, "0 bits"],
    [
      "codes of 9 bits",
      { ...base, bytes: 38, code: { per: 1, pieces: [{ at: 16, bits: 9, dims: [[32, 9]] }] } },
      "9 bits",
    ],
    ["an empty block", { ...base, block: 0 }, "0 weights"],
    ["a block of half a weight", { ...base, block: 0.5 }, "0.5 weights"],
    ["a huge block", { ...base, bytes: 1e9 }, "1000000000 bytes"],
    ["a fractional zero", { ...base, values: { kind: "affine", zero: 0.5 } }, "not an integer"],
    [
      "signs on integers",
      { ...base, sign: { field: { per: 8, pieces: [{ at: 0, bits: 8, dims: [[4, 8]] }] } } },
      "belong to codebooks",
    ],
    ["a small codebook", { ...book, values: { kind: "book", dimension: 2, table: [1, 2, 3, 4] } }, "need 4"],
    [
      "a codebook of another dimension",
      { ...book, values: { kind: "book", dimension: 4, table: new Array(16).fill(1) } },
      "covers 2 weights",
    ],
    [
      "a codebook of fractions",
      { ...book, values: { kind: "book", dimension: 2, table: new Array(8).fill(0.1) } },
      "signed bytes",
    ],
    [
      "signs for 16 weights",
      { ...book, sign: { field: { per: 16, pieces: [{ at: 16, bits: 8, dims: [[2, 8]] }] } } },
      "per 16",
    ],
    [
      "parity with 8 bits",
      { ...book, sign: { field: { per: 8, pieces: [{ at: 16, bits: 8, dims: [[4, 8]] }] }, parity: true } },
      "expected 7",
    ],
    [
      "too few deltas",
      { ...book, delta: { field: { per: 32, pieces: [{ at: 0, bits: 1, dims: [] }] }, values: [1] } },
      "1 deltas",
    ],
    ["a multiplier of 3", { ...base, scale: { multiplier: 3 } }, "power of two"],
    ["a multiplier of 0", { ...base, scale: { multiplier: 0 } }, "power of two"],
    [
      "plain numbers of the wrong size",
      { ...base, values: { kind: "dense", format: "f16" } },
      "f16 is 1 in 2",
    ],
    [
      "scales that do not nest",
      {
        ...base,
        block: 24,
        code: { per: 1, pieces: [{ at: 16, bits: 4, dims: [[24, 4]] }] },
        scale: { sub: { field: { per: 8, pieces: [{ at: 0, bits: 1, dims: [[3, 1]] }] } } },
        min: { sub: { field: { per: 12, pieces: [{ at: 0, bits: 1, dims: [[2, 1]] }] } } },
      },
      "do not nest",
    ],
  ];
  test.each(wrong)("%s is refused", (_, type, message) => {
    let error: unknown;
    try {
      planOf(type);
    } catch (thrown) {
      error = thrown;
    }
    expect(LowbitError.is(error)).toBe(true);
    expect(error).toMatchObject({ code: "type-unsupported", reason: "invalid-description" });
    expect((error as Error).message).toContain(message);
  });
});
