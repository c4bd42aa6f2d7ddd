// Segments whose codes stand for f32 values. A strip's planes are decoded to f32 and multiplied like dense ones: exactly the dequantizer's
// values, at the cost of decoding once per 64 tokens.
#include "linear-internal.h"

// Sixteen f32 values in four byte tables: byte b of every value.
typedef struct {
  v128_t bytes[4];
} ByteTables;

static ByteTables byte_tables(const float *floats) {
  const uint8_t *at = (const uint8_t *)floats;
  uint8_t split[4][16];
  for (int i = 0; i < 64; i++) split[i % 4][i / 4] = at[i];
  ByteTables tables;
  for (int b = 0; b < 4; b++) tables.bytes[b] = wasm_v128_load(split[b]);
  return tables;
}

// Constants in memory, external, as in quantize.c: engines would build them anew at each use.
struct {
  uint8_t by_column[16];
  int32_t sign[4];
  struct {
    int32_t fields[4], bias[4];
    float least[4];
  } form[2];  // E4M3, E5M2
} lookup_constants = {
    {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15},
    {INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN},
    {{{127 << 20, 127 << 20, 127 << 20, 127 << 20}, {120 << 23, 120 << 23, 120 << 23, 120 << 23}, {0x1p-6f, 0x1p-6f, 0x1p-6f, 0x1p-6f}},
     {{127 << 21, 127 << 21, 127 << 21, 127 << 21}, {112 << 23, 112 << 23, 112 << 23, 112 << 23}, {0x1p-14f, 0x1p-14f, 0x1p-14f, 0x1p-14f}}},
};

typedef struct {
  v128_t by_column, sign, fields, bias, least;
} Constants;

// Four columns of four rows each.
INLINE void look_up_16(const ByteTables *tables, const Constants *c, v128_t codes, v128_t *out) {
  v128_t i = lookup(codes, c->by_column);
  v128_t b0 = lookup(tables->bytes[0], i), b1 = lookup(tables->bytes[1], i);
  v128_t b2 = lookup(tables->bytes[2], i), b3 = lookup(tables->bytes[3], i);
#define LOW(a, b) wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
  v128_t low0 = LOW(b0, b1), low1 = LOW(b2, b3), high0 = HIGH(b0, b1), high1 = HIGH(b2, b3);
#undef LOW
#undef HIGH
  out[0] = wasm_i16x8_shuffle(low0, low1, 0, 8, 1, 9, 2, 10, 3, 11);
  out[1] = wasm_i16x8_shuffle(low0, low1, 4, 12, 5, 13, 6, 14, 7, 15);
  out[2] = wasm_i16x8_shuffle(high0, high1, 0, 8, 1, 9, 2, 10, 3, 11);
  out[3] = wasm_i16x8_shuffle(high0, high1, 4, 12, 5, 13, 6, 14, 7, 15);
}

INLINE void look_up_256(const float *floats, const Constants *c, v128_t codes, v128_t *out) {
  uint8_t i[16];
  wasm_v128_store(i, lookup(codes, c->by_column));
  for (int column = 0; column < 4; column++) {
    const uint8_t *at = i + 4 * column;
    out[column] = wasm_f32x4_make(floats[at[0]], floats[at[1]], floats[at[2]], floats[at[3]]);
  }
}

// Numbers of 8 bits by their fields: exponent and mantissa become those of an f32, and its exponent is `bias` higher. Subnormals as in
// half_to_float.
INLINE v128_t number_8(int32_t form, const Constants *c, v128_t code) {
  v128_t t = wasm_i32x4_add(wasm_v128_and(wasm_i32x4_shl(code, form == E4M3 ? 20 : 21), c->fields), c->bias);
  v128_t doubled = wasm_f32x4_sub(wasm_f32x4_add(t, t), c->least);
  return wasm_v128_or(wasm_f32x4_pmin(t, doubled), wasm_v128_and(code, c->sign));
}

INLINE void numbers_8(int32_t form, const Constants *c, v128_t codes, v128_t *out) {
  v128_t i = lookup(codes, c->by_column);
  v128_t low = wasm_i16x8_extend_low_i8x16(i), high = wasm_i16x8_extend_high_i8x16(i);
  out[0] = number_8(form, c, wasm_i32x4_extend_low_i16x8(low));
  out[1] = number_8(form, c, wasm_i32x4_extend_high_i16x8(low));
  out[2] = number_8(form, c, wasm_i32x4_extend_low_i16x8(high));
  out[3] = number_8(form, c, wasm_i32x4_extend_high_i16x8(high));
}

// `blocks` blocks of 32 columns of one quarter, four rows a column. In `scales`, `mins` and `out` quarters lie side by side.
INLINE void decode_as(int32_t width, int32_t form, int32_t group, int has_min, const ByteTables *tables, const float *floats,
                      const uint8_t *planes, const v128_t *scales, const v128_t *mins, int32_t blocks, v128_t *out) {
  int f = form == E5M2;
  Constants constants = {wasm_v128_load(lookup_constants.by_column), wasm_v128_load(lookup_constants.sign),
                         wasm_v128_load(lookup_constants.form[f].fields), wasm_v128_load(lookup_constants.form[f].bias),
                         wasm_v128_load(lookup_constants.form[f].least)};
  for (int32_t b = 0; b < blocks; b++, planes += QUARTERS * 16 * width) {
    for (int quad = 0; quad < 8; quad++, out += 4 * QUARTERS) {
      v128_t codes = quad_codes(width, planes, quad), value[4];
      if (width <= 4) look_up_16(tables, &constants, codes, value);
      else if (form == ANY_FLOATS) look_up_256(floats, &constants, codes, value);
      else numbers_8(form, &constants, codes, value);
      int32_t at = QUARTERS * (group == 32 ? b : 2 * b + quad / 4);
      for (int i = 0; i < 4; i++) {
        value[i] = wasm_f32x4_mul(value[i], scales[at]);
        wasm_v128_store(out + QUARTERS * i, has_min ? wasm_f32x4_sub(value[i], mins[at]) : value[i]);
      }
    }
  }
}

// The usual types apart, so that the compiler knows their constants.
static void decode(const TypeInfo *type, const ByteTables *tables, const uint8_t *planes, const v128_t *scales, const v128_t *mins,
                   int32_t blocks, v128_t *out) {
  const float *floats = AT(const float *, type->floats);
  int usual = type->group == 32 && !type->has_min;
  if (usual && type->width == 4) decode_as(4, ANY_FLOATS, 32, 0, tables, floats, planes, scales, mins, blocks, out);
  else if (usual && type->form == E4M3) decode_as(8, E4M3, 32, 0, tables, floats, planes, scales, mins, blocks, out);
  else if (usual && type->form == E5M2) decode_as(8, E5M2, 32, 0, tables, floats, planes, scales, mins, blocks, out);
  else decode_as(type->width, ANY_FLOATS, type->group, type->has_min != NO_MIN, tables, floats, planes, scales, mins, blocks, out);
}

// Columns [first, first + columns) of the chunk at `base`; `column` is the first one's in x.
static void strip_partial(const Segment *segment, const uint8_t *base, int32_t first, int32_t columns, int32_t column, const ByteTables *tables,
                          const Strip *strip, v128_t *acc) {
  const TypeInfo *type = AT(const TypeInfo *, segment->type);
  v128_t decoded[PARTIAL * QUARTERS], scales[QUARTERS * PARTIAL / 16], mins[QUARTERS * PARTIAL / 16];
  uint32_t quarter_bytes = (uint32_t)(16 * type->width);
  int32_t subnormal = segment->flags & SEGMENT_SUBNORMAL, groups = columns / type->group;
  expand(&type->scale, 1.0f, base + segment->super_at, base + segment->sub_at, first, groups, type->group, subnormal, scales);
  if (type->has_min) {
    expand(&type->min, 1.0f, base + segment->min_super_at, base + segment->min_sub_at, first, groups, type->group, subnormal, mins);
  }
  const uint8_t *planes = base + segment->codes_at + (uint32_t)(first / 32) * QUARTERS * quarter_bytes;
  for (uint32_t r = 0; r < QUARTERS; r++) {
    decode(type, tables, planes + r * quarter_bytes, scales + r, mins + r, columns / 32, decoded + r);
  }
  partial_dense(dense_kernels + 2 * DENSE_F32, (const uint8_t *)decoded, 16, strip, column, columns, acc);
}

void strip_lookup(const Segment *segment, const uint8_t *band, const Strip *strip, v128_t *acc) {
  ByteTables tables = byte_tables(AT(const float *, AT(const TypeInfo *, segment->type)->floats));
  for (int32_t chunk = 0; chunk < segment->columns; chunk += segment->chunk, band += segment->chunk_bytes) {
    int32_t left = segment->columns - chunk, columns = left < segment->chunk ? left : segment->chunk;
    for (int32_t first = 0; first < columns; first += PARTIAL) {
      int32_t rest = columns - first;
      strip_partial(segment, band, first, rest < PARTIAL ? rest : PARTIAL, segment->from + chunk + first, &tables, strip, acc);
    }
  }
}
