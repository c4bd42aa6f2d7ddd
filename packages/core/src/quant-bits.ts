/** A bit field compiled to tables: where each of its values lies in a block. */
export interface FieldPlan {
  /** Consecutive weights that share a value. */
  readonly per: number;
  /** Values in a block. */
  readonly count: number;
  /** Bits of a value. */
  readonly bits: number;
  readonly signed: boolean;
  readonly pieces: readonly FieldPiece[];
}

export interface FieldPiece {
  /** Bit position in the block, for each value. */
  readonly positions: Uint16Array;
  /** 1 to 32. */
  readonly bits: number;
  /** Where the piece's lowest bit goes in the value. */
  readonly shift: number;
  /** No value crosses a byte border. */
  readonly withinByte: boolean;
}

/** Reads `bits` (at most 32) at a bit position counted from byte `start`; bytes past the end read as zero. */
export function readBits(bytes: Uint8Array, position: number, bits: number, start = 0): number {
  let value = 0;
  for (let have = 0; have < bits; ) {
    const at = position + have;
    const shift = at & 7;
    const take = Math.min(8 - shift, bits - have);
    value += (((bytes[start + (at >> 3)] ?? 0) >> shift) & ((1 << take) - 1)) * 2 ** have;
    have += take;
  }
  return value;
}

/** Value `i` of a field in the block at the start of `bytes`. */
export function readField(field: FieldPlan, bytes: Uint8Array, i: number): number {
  let value = 0;
  for (const piece of field.pieces) {
    value += readBits(bytes, piece.positions[i] ?? 0, piece.bits) * 2 ** piece.shift;
  }
  return field.signed && value >= 2 ** (field.bits - 1) ? value - 2 ** field.bits : value;
}

/** All values of a field in the block that starts at byte `start`; unsigned 32-bit values wrap to negative ones. */
export function readFields(field: FieldPlan, bytes: Uint8Array, start: number, out: Int32Array): void {
  const { count, pieces } = field;
  for (let p = 0; p < pieces.length; p++) {
    const { positions, bits, shift, withinByte } = pieces[p]!;
    const mask = (1 << bits) - 1;
    for (let i = 0; i < count; i++) {
      const at = positions[i]!;
      const piece = withinByte
        ? (bytes[start + (at >> 3)]! >> (at & 7)) & mask
        : readBits(bytes, at, bits, start);
      out[i] = p === 0 ? piece : out[i]! | (piece << shift);
    }
  }
  if (!field.signed) return;
  const unused = 32 - field.bits;
  for (let i = 0; i < count; i++) out[i] = (out[i]! << unused) >> unused;
}
