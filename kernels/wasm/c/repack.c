// Blocks as the file has them → planes. Driven by the tables of type.h alone, so that a type which is only data needs no code here.
//
// Per 32 columns a band holds four quarters of `width` vectors of 16 bytes. Lane r of a vector belongs to row r of the quarter; its byte i to
// column 4·quad + i. Where the bits of quad 0..7 lie (b.s = vector b, shift s within each byte):
//   1 bit   0.quad                             2 bits  quad/4 . 2·(quad%4)            4 bits  quad/2 . 4·(quad%2)
//   3 bits  2 bits as above, bit 2 in vector 2 at quad
//   5 bits  4 bits as above, bit 4 in vector 4 at quad
//   6 bits  4 bits as above, bits 4 and 5 as 2 bits in vectors 4 and 5
//   8 bits  vector quad
#include "scales.h"

typedef struct {
  Address segment;  // Segment
  Address blocks;   // the rows' blocks, back to back; 8 readable bytes follow
  uint32_t row_bytes;
  int32_t rows;       // 1 to any; the last band is padded
  Address levels;     // scratch, 4 · columns bytes
  Address codes;      // unpacked codes [rows, columns], or 0
  Address out;        // first band
} PackCall;

enum { PACK_OK = 0, PACK_NON_FINITE = 1 };

typedef uint64_t unaligned64 __attribute__((aligned(1)));
typedef uint32_t unaligned32 __attribute__((aligned(1)));
typedef uint16_t unaligned16 __attribute__((aligned(1)));

static inline uint32_t read_piece(const Piece *piece, const uint8_t *block, int32_t i) {
  uint32_t position = AT(const uint16_t *, piece->positions)[i];
  uint64_t word = *(const unaligned64 *)(block + (position >> 3));
  return ((uint32_t)(word >> (position & 7)) & (uint32_t)((1ull << piece->bits) - 1)) << piece->shift;
}

static inline uint32_t read_unsigned(const Field *field, const uint8_t *block, int32_t i) {
  uint32_t value = 0;
  for (int32_t p = 0; p < field->pieces; p++) value |= read_piece(field->piece + p, block, i);
  return value;
}

// Sixteen values of a piece in a row, at their place in the value. `run` is not RUN_ANY.
static inline v128_t read_run(const Piece *piece, int32_t run, const uint8_t *block, int32_t i) {
  uint32_t position = AT(const uint16_t *, piece->positions)[i];
  const uint8_t *at = block + (position >> 3);
  v128_t bits;
  if (run == RUN_BYTES) {
    bits = wasm_u8x16_shr(wasm_v128_load(at), position & 7);
  } else {
    v128_t two = wasm_i8x16_swizzle(wasm_v128_load16_splat(at), wasm_i8x16_const(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    v128_t each = wasm_i8x16_const(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
    bits = wasm_i8x16_ne(wasm_v128_and(two, each), wasm_i8x16_splat(0));
  }
  return wasm_i8x16_shl(wasm_v128_and(bits, wasm_i8x16_splat((int8_t)((1 << piece->bits) - 1))), (uint32_t)piece->shift);
}

// Codes of at most 8 bits, piece by piece, sixteen at a time where they lie in order.
static void read_codes(const TypeInfo *type, const uint8_t *block, uint8_t *codes) {
  const Field *field = field_at(type->code);
  for (int32_t p = 0; p < field->pieces; p++) {
    const Piece *piece = field->piece + p;
    uint32_t mask = (1u << piece->bits) - 1;
    for (int32_t i = 0; i < field->count;) {
      int32_t run = i + 16 <= field->count ? AT(const uint8_t *, piece->runs)[i / 16] : RUN_ANY;
      if (run != RUN_ANY) {
        v128_t bits = read_run(piece, run, block, i);
        wasm_v128_store(codes + i, p == 0 ? bits : wasm_v128_or(bits, wasm_v128_load(codes + i)));
        i += 16;
        continue;
      }
      for (int32_t end = i + 16 < field->count ? i + 16 : field->count; i < end; i++) {
        uint32_t position = AT(const uint16_t *, piece->positions)[i];
        uint32_t bits = ((*(const unaligned16 *)(block + (position >> 3)) >> (position & 7)) & mask) << piece->shift;
        codes[i] = (uint8_t)(p == 0 ? bits : codes[i] | bits);
      }
    }
  }
  if (type->code_bias != 0) {
    uint32_t half = (uint32_t)type->code_bias;
    for (int32_t i = 0; i < field->count; i++) codes[i] ^= (uint8_t)half;  // two's complement + 2^(bits−1)
  }
}

static void read_book(const TypeInfo *type, const uint8_t *block, const uint8_t *given, uint8_t *levels) {
  int32_t dimension = type->dimension;
  uint32_t signs = 0;
  const uint8_t *by_delta = AT(const uint8_t *, type->index);
  for (int32_t e = 0; e < type->block; e += dimension) {
    int32_t i = e / dimension;
    uint32_t entry = given ? given[i] : read_unsigned(field_at(type->code), block, i);
    for (int32_t j = 0; j < dimension; j++) {
      int32_t element = e + j;
      if (type->delta && element % field_at(type->delta)->per == 0) {
        uint32_t delta = read_unsigned(field_at(type->delta), block, element / field_at(type->delta)->per);
        by_delta = AT(const uint8_t *, type->index) + delta * (uint32_t)type->index_stride * (type->sign ? 2 : 1);
      }
      uint32_t negative = 0;
      if (type->sign) {
        if (element % 8 == 0) {
          signs = read_unsigned(field_at(type->sign), block, element / field_at(type->sign)->per);
          if (type->parity) signs = (signs & 127) | (uint32_t)(__builtin_popcount(signs) & 1) << 7;
        }
        negative = signs >> (element % 8) & 1;
      }
      levels[element] = by_delta[negative * (uint32_t)type->index_stride + entry * (uint32_t)dimension + (uint32_t)j];
    }
  }
}

// Columns of the file's blocks: the segment's may be a few more.
static int32_t given_columns(const PackCall *call) {
  const TypeInfo *type = AT(const TypeInfo *, AT(const Segment *, call->segment)->type);
  return (int32_t)call->row_bytes / type->block_bytes * type->block;
}

// One row's level indices, or the bytes stored for them.
static void read_row(const PackCall *call, int32_t row, uint8_t *levels) {
  const TypeInfo *type = AT(const TypeInfo *, AT(const Segment *, call->segment)->type);
  int32_t columns = given_columns(call);
  const uint8_t *block = AT(const uint8_t *, call->blocks) + (uint32_t)row * call->row_bytes;
  const uint8_t *codes = call->codes ? AT(const uint8_t *, call->codes) + (uint32_t)row * (uint32_t)columns : 0;
  for (int32_t at = 0; at < columns; at += type->block, block += type->block_bytes) {
    if (type->index) {
      read_book(type, block, codes ? codes + at : 0, levels + at);
    } else if (codes) {
      __builtin_memcpy(levels + at, codes + at, (uint32_t)type->block);
    } else {
      read_codes(type, block, levels + at);
    }
  }
  if (type->moved) {
    // Levels from 0 become the signed bytes around 0.
    for (int32_t i = 0; i < columns; i++) levels[i] = (uint8_t)(levels[i] - type->moved);
  } else if (type->stored) {
    for (int32_t i = 0; i < columns; i++) levels[i] = AT(const uint8_t *, type->stored)[levels[i]];
  }
  for (int32_t i = columns; i < AT(const Segment *, call->segment)->columns; i++) levels[i] = 0;
}

// ---------------------------------------------------------------- planes

static inline v128_t quad_of(const uint8_t *levels, uint32_t stride, int32_t quad) {
  const uint8_t *at = levels + 4 * quad;
  return wasm_i32x4_make((int32_t)*(const unaligned32 *)at, (int32_t)*(const unaligned32 *)(at + stride),
                         (int32_t)*(const unaligned32 *)(at + 2 * stride), (int32_t)*(const unaligned32 *)(at + 3 * stride));
}

// bits [low, low + bits) of the eight quads' codes into `bits` vectors.
static void store_plane(const v128_t *quads, int low, int bits, uint8_t *out) {
  int per = 8 / bits;
  v128_t mask = wasm_i8x16_splat((int8_t)((1 << bits) - 1));
  for (int vector = 0; vector < bits; vector++) {
    v128_t packed = wasm_i8x16_splat(0);
    for (int i = 0; i < per; i++) {
      v128_t piece = wasm_v128_and(wasm_u8x16_shr(quads[vector * per + i], (uint32_t)low), mask);
      packed = wasm_v128_or(packed, wasm_i8x16_shl(piece, (uint32_t)(i * bits)));
    }
    wasm_v128_store(out + 16 * vector, packed);
  }
}

static void store_planes(const uint8_t *levels, uint32_t stride, int32_t columns, int32_t width, uint8_t *out) {
  for (int32_t column = 0; column < columns; column += 32, out += 4 * 16 * width) {
    v128_t quads[8];
    for (int32_t quad = 0; quad < 8; quad++) quads[quad] = quad_of(levels + column, stride, quad);
    switch (width) {
      case 1: case 2: case 4: store_plane(quads, 0, width, out); break;
      case 3: store_plane(quads, 0, 2, out); store_plane(quads, 2, 1, out + 32); break;
      case 5: store_plane(quads, 0, 4, out); store_plane(quads, 4, 1, out + 64); break;
      case 6: store_plane(quads, 0, 4, out); store_plane(quads, 4, 2, out + 64); break;
      default:
        for (int32_t quad = 0; quad < 8; quad++) wasm_v128_store(out + 16 * quad, quads[quad]);
    }
  }
}

// ---------------------------------------------------------------- scales

static int finite(int32_t format, uint32_t bits) {
  switch (format) {
    case SCALE_F32: return (bits & 0x7f800000) != 0x7f800000;
    case SCALE_F16: return (bits & 0x7c00) != 0x7c00;
    case SCALE_BF16: return (bits & 0x7f80) != 0x7f80;
    default: return 1;
  }
}

// The scales of one row, its items every 16 in their planes.
static int32_t store_scales(Segment *segment, const Scale *scale, const uint8_t *block, int32_t columns, int32_t row, uint8_t *super,
                            uint8_t *sub) {
  const TypeInfo *type = AT(const TypeInfo *, segment->type);
  uint32_t super_at = (uint32_t)row, sub_at = (uint32_t)row;
  for (int32_t at = 0; at < columns; at += type->block, block += type->block_bytes) {
    if (scale->format != SCALE_NONE) {
      for (int32_t i = 0; i < field_at(scale->super_field)->count; i++, super_at += 16) {
        uint32_t bits = read_unsigned(field_at(scale->super_field), block, i);
        if (!finite(scale->format, bits)) return PACK_NON_FINITE;
        if (scale->format == SCALE_F16 && (bits & 0x7c00) == 0) segment->flags |= SEGMENT_SUBNORMAL;
        if (scale->format == SCALE_F32) ((uint32_t *)super)[super_at] = bits;
        else if (scale->format == SCALE_TABLE) super[super_at] = (uint8_t)bits;
        else ((uint16_t *)super)[super_at] = (uint16_t)bits;
      }
    }
    if (scale->sub != SUB_NONE) {
      int32_t unused = 8 - field_at(scale->sub_field)->bits;
      for (int32_t i = 0; i < field_at(scale->sub_field)->count; i++, sub_at += 16) {
        uint8_t bits = (uint8_t)read_unsigned(field_at(scale->sub_field), block, i);
        sub[sub_at] = scale->sub == SUB_SIGNED ? (uint8_t)((int8_t)(uint8_t)(bits << unused) >> unused) : bits;
      }
    }
  }
  return PACK_OK;
}

static float number(int32_t format, uint32_t bits) {
  v128_t word = wasm_i32x4_splat((int32_t)bits);
  switch (format) {
    case SCALE_F16: word = half_to_float(wasm_i32x4_splat((int16_t)bits)); break;
    case SCALE_BF16: word = wasm_i32x4_shl(word, 16); break;
    default: break;
  }
  return wasm_f32x4_extract_lane(word, 0);
}

// scale · Z of one row's blocks, for zero points that are numbers. Both cover the same weights.
static int32_t store_products(const TypeInfo *type, const uint8_t *block, int32_t columns, int32_t row, uint8_t *out) {
  const Scale *scale = &type->scale;
  for (int32_t at = 0; at < columns; at += type->block, block += type->block_bytes) {
    for (int32_t i = 0; i < field_at(type->min.super_field)->count; i++, row += 16) {
      uint32_t zero = read_unsigned(field_at(type->min.super_field), block, i);
      uint32_t bits = scale->format == SCALE_NONE ? 0 : read_unsigned(field_at(scale->super_field), block, i);
      if (!finite(type->zero_format, zero)) return PACK_NON_FINITE;
      float factor = scale->format == SCALE_NONE ? 1.0f : number(scale->format, bits);
      ((float *)out)[row] = factor * scale->multiplier * number(type->zero_format, zero);
    }
  }
  return PACK_OK;
}

// The scales of row r of a band, chunk by chunk.
static int32_t store_row(Segment *s, const uint8_t *blocks, int32_t columns, int32_t r, uint8_t *chunk) {
  const TypeInfo *type = AT(const TypeInfo *, s->type);
  for (int32_t from = 0; from < columns; from += s->chunk, chunk += s->chunk_bytes) {
    int32_t count = columns - from < s->chunk ? columns - from : s->chunk;
    const uint8_t *block = blocks + from / type->block * type->block_bytes;
    int32_t status = store_scales(s, &type->scale, block, count, r, chunk + s->super_at, chunk + s->sub_at);
    if (status == PACK_OK && type->has_min == ZERO_FLOAT) {
      status = store_products(type, block, count, r, chunk + s->min_super_at);
    } else if (status == PACK_OK && type->has_min) {
      status = store_scales(s, &type->min, block, count, r, chunk + s->min_super_at, chunk + s->min_sub_at);
    }
    if (status != PACK_OK) return status;
  }
  return PACK_OK;
}

EXPORT(pack_rows) int32_t pack_rows(Address address) {
  const PackCall *call = AT(const PackCall *, address);
  Segment *s = AT(Segment *, call->segment);
  uint32_t stride = (uint32_t)s->columns, quarter_bytes = (uint32_t)(16 * AT(const TypeInfo *, s->type)->width);
  int32_t columns = given_columns(call);
  uint8_t *band = AT(uint8_t *, call->out), *levels_of_4 = AT(uint8_t *, call->levels);
  for (int32_t first = 0; first < call->rows; first += 16, band += s->band_bytes) {
    __builtin_memset(band, 0, s->band_bytes);  // rows past the end: scale 0
    for (int32_t r = 0; r < 16 && first + r < call->rows; r++) {
      uint8_t *levels = levels_of_4 + (uint32_t)(r % 4) * stride;
      if (r % 4 == 0) __builtin_memset(levels, 0, 4 * stride);
      read_row(call, first + r, levels);
      int32_t status = store_row(s, AT(const uint8_t *, call->blocks) + (uint32_t)(first + r) * call->row_bytes, columns, r, band);
      if (status != PACK_OK) return status;
      if (r % 4 != 3 && first + r + 1 < call->rows) continue;
      uint8_t *chunk = band + s->codes_at + (uint32_t)(r / 4) * quarter_bytes;
      for (int32_t from = 0; from < s->columns; from += s->chunk, chunk += s->chunk_bytes) {
        int32_t count = s->columns - from < s->chunk ? s->columns - from : s->chunk;
        store_planes(levels_of_4 + from, stride, count, AT(const TypeInfo *, s->type)->width, chunk);
      }
    }
  }
  return PACK_OK;
}

// Plain numbers: column k of a band holds its sixteen rows' values, of 4 bytes (DENSE_F32) or 2. Halves must be finite.
EXPORT(pack_dense) int32_t pack_dense(Address address) {
  const PackCall *call = AT(const PackCall *, address);
  const Segment *s = AT(const Segment *, call->segment);
  uint8_t *band = AT(uint8_t *, call->out);
  for (int32_t first = 0; first < call->rows; first += 16, band += s->band_bytes) {
    __builtin_memset(band, 0, s->band_bytes);
    for (int32_t r = 0; r < 16 && first + r < call->rows; r++) {
      const uint8_t *row = AT(const uint8_t *, call->blocks) + (uint32_t)(first + r) * call->row_bytes;
      if (s->kind == DENSE_F32) {
        for (int32_t k = 0; k < s->columns; k++) ((uint32_t *)band)[16 * k + r] = ((const unaligned32 *)row)[k];
      } else {
        uint32_t special = 0;
        for (int32_t k = 0; k < s->columns; k++) {
          uint32_t bits = ((const unaligned16 *)row)[k];
          special |= (bits & 0x7c00) == 0x7c00;
          ((uint16_t *)band)[16 * k + r] = (uint16_t)bits;
        }
        if (s->kind == DENSE_F16 && special) return PACK_NON_FINITE;
      }
    }
  }
  return PACK_OK;
}
