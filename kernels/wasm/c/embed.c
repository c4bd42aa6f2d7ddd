// Rows decoded from the planes, bit for bit what core's dequantizer gives.
#include "scales.h"

typedef struct {
  v128_t value;  // of the current super, f32
  int32_t super_left, sub_left;
  uint32_t super_next, sub_next;
} ScaleWalk;

// Scale of a quarter's four rows for the next 4 columns.
static v128_t next_scale(const Scale *scale, int quarter, const uint8_t *super, const uint8_t *sub, ScaleWalk *walk, v128_t *current) {
  int fresh = walk->super_next == 0 && walk->sub_next == 0;
  if (scale->format == SCALE_NONE) {
    walk->value = wasm_f32x4_splat(1);
  } else if (walk->super_left == 0) {
    walk->value = load_super(scale->format, scale->table, super, 4 * walk->super_next++ + (uint32_t)quarter);
    walk->super_left = scale->super_per;
    fresh = 1;
  }
  v128_t s = walk->value;
  if (scale->sub != SUB_NONE) {
    if (walk->sub_left == 0) {
      walk->sub_next++;
      walk->sub_left = scale->sub_per;
      fresh = 1;
    }
    if (fresh) s = wasm_f32x4_mul(s, load_sub(scale->sub, scale->offset, sub, 4 * (walk->sub_next - 1) + (uint32_t)quarter));
  }
  if (fresh) *current = wasm_f32x4_mul(s, wasm_f32x4_splat(scale->multiplier));
  walk->super_left -= 4;
  walk->sub_left -= 4;
  return *current;
}

static uint32_t bits_of(float x) { return (union { float number; uint32_t bits; }){x}.bits; }
static float from_bits(uint32_t bits) { return (union { uint32_t bits; float number; }){bits}.number; }

// To the nearest number of the format, ties to even. Products leave this out: it is at most half a unit in the last place of each weight.
static float rounded(int32_t format, float x) {
  uint32_t bits = bits_of(x);
  if (format == ROUND_BF16) return from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
  if (format != ROUND_F16) return x;
  if (__builtin_fabsf(x) >= 65520.0f) return x * __builtin_inff();
  // At 1.5 · 2^(e + 13) an f32 has the spacing of a half at 2^e.
  uint32_t exponent = bits & 0x7f800000, least = 113u << 23;
  float magic = 1.5f * from_bits((exponent > least ? exponent : least) + (13u << 23));
  float sum = x + magic;
  return from_bits(bits_of(sum - magic) | (bits & 0x80000000u));
}

static void put(float *y, float value, int adds) { *y = adds ? *y + value : value; }

// `columns` columns of the chunk at `base`.
static void embed_chunk(const Segment *s, const uint8_t *base, int32_t columns, int row, float *y) {
  int lane = row % 4, quarter = row / 4;
  const TypeInfo *type = AT(const TypeInfo *, s->type);
  ScaleWalk walk = {0}, min_walk = {0};
  v128_t scale = wasm_f32x4_splat(0), min = wasm_f32x4_splat(0);
  v128_t table = wasm_v128_load(type->table);
  uint32_t quarter_bytes = (uint32_t)(16 * type->width);
  const uint8_t *planes = base + s->codes_at + (uint32_t)quarter * quarter_bytes;
  // Zero points are subtracted before scaling: alone, without the scales they share.
  Scale zeros = type->min;
  zeros.format = SCALE_NONE;
  zeros.multiplier = 1;
  const Scale *mins_of = type->has_min == ZERO ? &zeros : &type->min;
  for (int32_t column = 0; column < columns; column += 4) {
    int quad = column / 4 % 8;
    v128_t codes = quad_codes(type->width, planes + (uint32_t)(column / 32) * 4 * quarter_bytes, quad);
    if (type->mode == TABLE || type->mode == SIGNED_TABLE) codes = lookup(table, codes);
    int8_t bytes[16];
    float scales[4], mins[4];
    wasm_v128_store(bytes, codes);
    wasm_v128_store(scales, next_scale(&type->scale, quarter, base + s->super_at, base + s->sub_at, &walk, &scale));
    if (type->has_min) {
      wasm_v128_store(mins, next_scale(mins_of, quarter, base + s->min_super_at, base + s->min_sub_at, &min_walk, &min));
    }
    for (int i = 0; i < 4; i++) {
      float level = type->mode == FLOATS ? AT(const float *, type->floats)[(uint8_t)bytes[4 * lane + i]]
                                         : (float)(bytes[4 * lane + i] - type->zero) * type->unit;
      if (type->has_min == ZERO) level -= mins[lane];
      float product = scales[lane] * level;
      if (type->has_min == MIN || type->has_min == ZERO_FLOAT) product -= mins[lane];
      put(y + column + i, rounded(type->round, product), s->flags & SEGMENT_ADDS);
    }
  }
}

static void embed_packed(const Segment *s, const uint8_t *band, int row, float *y) {
  for (int32_t chunk = 0; chunk < s->columns; chunk += s->chunk, band += s->chunk_bytes) {
    int32_t left = s->columns - chunk;
    embed_chunk(s, band, left < s->chunk ? left : s->chunk, row, y + chunk);
  }
}

static void embed_dense(const Segment *s, const uint8_t *band, int row, float *y) {
  for (int32_t k = 0; k < s->columns; k++) {
    float value;
    if (s->kind == DENSE_F32) {
      value = ((const float *)band)[16 * k + row];
    } else {
      v128_t bits = wasm_i32x4_splat((int16_t)((const uint16_t *)band)[16 * k + row]);
      value = wasm_f32x4_extract_lane(s->kind == DENSE_F16 ? half_to_float(bits) : wasm_i32x4_shl(bits, 16), 0);
    }
    put(y + k, value, s->flags & SEGMENT_ADDS);
  }
}

EXPORT(embed_rows) void embed_rows(const Weight *weight, const int32_t *ids, int32_t count, float *y, Part part) {
  Range mine = share(part, count);
  y += (uint32_t)mine.from * (uint32_t)weight->in;
  for (int32_t t = mine.from; t < mine.to; t++, y += weight->in) {
    int32_t expert = ids[t] / weight->out;
    int32_t row = ids[t] % weight->out;
    if (weight->flags & WEIGHT_GAPS) __builtin_memset(y, 0, (uint32_t)weight->in * 4);
    for (int32_t i = 0; i < weight->segments; i++) {
      const Segment *s = weight->segment + i;
      const uint8_t *band = AT(const uint8_t *, s->data) + (uintptr_t)((uint32_t)expert * (uint32_t)weight->bands + (uint32_t)(row / 16)) * s->band_bytes;
      if (s->kind >= PACKED) embed_packed(s, band, row % 16, y + s->from);
      else embed_dense(s, band, row % 16, y + s->from);
    }
    for (int32_t k = 0; k < weight->in && weight->row_scale; k++) y[k] *= AT(const float *, weight->row_scale)[ids[t]];
  }
}
