// Packed segments: scales are expanded to f32 once per band and piece of a chunk, then the tiles run over all tokens.
#include "linear-internal.h"

// Most columns at a time, where a chunk has more: their scales (8 kB), eight rows' codes and four tokens' activations fit the level-1 cache.
enum { PIECE = 2048 };

static const Kernel *choose(const TypeInfo *type) {
  enum { HOLDINGS = 12 };
  int32_t row = type->width - 1;
  switch (type->mode) {
    case CODES: break;
    case TABLE: row += 6; break;
    case SIGNED_TABLE: row = 10; break;
    default: row = 11;
  }
#ifdef __wasm_relaxed_simd__
  if (!wide_dots) row += HOLDINGS;
#endif
  return packed_kernels + 4 * row + 2 * (type->group == 32);
}

// The plane of the activations that a type's kernels read, and its bytes per block.
static const uint8_t *plane_of(const TypeInfo *type, const Activation *a, uint32_t *stride) {
#ifdef __wasm_relaxed_simd__
  if (type->mode == CODES || type->mode == TABLE) {
    *stride = CODE_BYTES;
    return a->codes;
  }
#else
  (void)type;
#endif
  *stride = SPLIT_BYTES;
  return a->split;
}

// ---------------------------------------------------------------- scales

static void fill(v128_t *out, const v128_t *quarters) {
  for (int r = 0; r < QUARTERS; r++) wasm_v128_store(out + r, quarters[r]);
}

static void expand_any(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
                       v128_t *out) {
  int32_t format = scale->format, sub_kind = scale->sub;
  v128_t factor = wasm_f32x4_splat(scale->multiplier * unit);
  for (int32_t g = 0; g < groups; g++, out += QUARTERS) {
    int32_t column = first + g * group;
    int fresh = g == 0 || (format != SCALE_NONE && column % scale->super_per == 0) || (sub_kind != SUB_NONE && column % scale->sub_per == 0);
    if (!fresh) {
      fill(out, out - QUARTERS);
      continue;
    }
    for (uint32_t r = 0; r < QUARTERS; r++) {
      v128_t value = load_super(format, scale->table, super, format == SCALE_NONE ? 0 : QUARTERS * (uint32_t)(column / scale->super_per) + r);
      if (sub_kind != SUB_NONE) {
        value = wasm_f32x4_mul(value, load_sub(sub_kind, scale->offset, sub, QUARTERS * (uint32_t)(column / scale->sub_per) + r));
      }
      wasm_v128_store(out + r, wasm_f32x4_mul(value, factor));
    }
  }
}

// One f16 scale per group.
INLINE void expand_flat(float factor, const uint8_t *super, int32_t first, int32_t groups, int32_t group, int subnormal, int scaled,
                        v128_t *out) {
  const uint8_t *at = super + 8 * QUARTERS * (uint32_t)(first / group);
  v128_t multiplier = wasm_f32x4_splat(factor);
  for (const v128_t *end = out + QUARTERS * groups; out < end; at += 8 * QUARTERS, out += QUARTERS) {
    for (int r = 0; r < QUARTERS; r++) {
      v128_t half = wasm_i32x4_load16x4(at + 8 * r);
      v128_t value = subnormal ? half_to_float(half) : normal_half_to_float(half);
      wasm_v128_store(out + r, scaled ? wasm_f32x4_mul(value, multiplier) : value);
    }
  }
}

// A super-scale per many groups, which begin with the piece, and a byte per group.
INLINE void expand_nested(int32_t format, int32_t sub_kind, const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub,
                          int32_t first, int32_t groups, int32_t group, v128_t *out) {
  uint32_t next = QUARTERS * (uint32_t)(first / scale->super_per);
  int32_t per = scale->super_per / group;
  const uint8_t *at = sub + 4 * QUARTERS * (uint32_t)(first / group);
  v128_t offset = wasm_f32x4_splat(scale->offset), factor = wasm_f32x4_splat(scale->multiplier * unit);
  for (int32_t from = 0; from < groups; from += per) {
    v128_t values[QUARTERS];
    for (int r = 0; r < QUARTERS; r++) values[r] = wasm_f32x4_mul(load_super(format, scale->table, super, next++), factor);
    int32_t to = from + per < groups ? from + per : groups;
    for (int32_t g = from; g < to; g++, at += 4 * QUARTERS, out += QUARTERS) {
      for (int r = 0; r < QUARTERS; r++) {
        wasm_v128_store(out + r, wasm_f32x4_mul(values[r], wasm_f32x4_add(load_bytes(sub_kind, at + 4 * r), offset)));
      }
    }
  }
}

// Super and sub, where there are such, cover the same columns, several groups.
static void expand_wide(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
                        v128_t *out) {
  int32_t per = scale->format != SCALE_NONE ? scale->super_per : scale->sub_per;
  uint32_t next = QUARTERS * (uint32_t)(first / per);
  int32_t end = (per - first % per) / group;
  v128_t factor = wasm_f32x4_splat(scale->multiplier * unit);
  for (int32_t g = 0; g < groups; end += per / group) {
    v128_t values[QUARTERS];
    for (int r = 0; r < QUARTERS; r++, next++) {
      values[r] = load_super(scale->format, scale->table, super, next);
      if (scale->sub != SUB_NONE) values[r] = wasm_f32x4_mul(values[r], load_sub(scale->sub, scale->offset, sub, next));
      values[r] = wasm_f32x4_mul(values[r], factor);
    }
    for (int32_t stop = end < groups ? end : groups; g < stop; g++, out += QUARTERS) fill(out, values);
  }
}

void expand(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
            int32_t subnormal, v128_t *out) {
  int has_super = scale->format != SCALE_NONE, has_sub = scale->sub != SUB_NONE;
  if (scale->format == SCALE_F16 && !has_sub && scale->super_per == group) {
    float factor = scale->multiplier * unit;
    if (subnormal) expand_flat(factor, super, first, groups, group, 1, 1, out);
    else if (factor == 1.0f) expand_flat(factor, super, first, groups, group, 0, 0, out);
    else expand_flat(factor, super, first, groups, group, 0, 1, out);
  } else if (scale->format == SCALE_F16 && scale->sub_per == group && first % scale->super_per == 0) {
    if (scale->sub == SUB_UNSIGNED) expand_nested(SCALE_F16, SUB_UNSIGNED, scale, unit, super, sub, first, groups, group, out);
    else expand_nested(SCALE_F16, SUB_SIGNED, scale, unit, super, sub, first, groups, group, out);
  } else if ((has_super || has_sub) && (!has_super || !has_sub || scale->super_per == scale->sub_per)) {
    expand_wide(scale, unit, super, sub, first, groups, group, out);
  } else {
    expand_any(scale, unit, super, sub, first, groups, group, out);
  }
}

// acc[r] −= Σ min · x scale · Σq for the four quarters of a band and one token; mins as `expand` gives them.
static void subtract_mins(const v128_t *mins, int32_t blocks, int32_t group, const uint8_t *meta, v128_t *acc) {
  v128_t sums[QUARTERS];
  for (int r = 0; r < QUARTERS; r++) sums[r] = wasm_f32x4_splat(0);
  for (int32_t b = 0; b < blocks; b++, meta += META_BYTES) {
    if (group == 32) {
      v128_t q = wasm_v128_load32_splat(meta + 16);
      for (int r = 0; r < QUARTERS; r++) sums[r] = wasm_f32x4_add(sums[r], wasm_f32x4_mul(mins[r], q));
      mins += QUARTERS;
    } else {
      v128_t scale = wasm_v128_load32_splat(meta);
      for (int part = 0; part < 2; part++, mins += QUARTERS) {
        v128_t q = wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(wasm_v128_load32_splat(meta + 4 + 4 * part)));
        for (int r = 0; r < QUARTERS; r++) sums[r] = wasm_f32x4_add(sums[r], wasm_f32x4_mul(mins[r], q));
      }
    }
  }
  for (int r = 0; r < QUARTERS; r++) acc[r] = wasm_f32x4_sub(acc[r], sums[r]);
}

// ---------------------------------------------------------------- strips

static void point_at(TileCall *call, const Strip *strip, const uint8_t *plane, uint32_t stride, int32_t token, int32_t i, int32_t column) {
  const Activation *a = strip->quantized;
  uint32_t block = strip->row[token] * (uint32_t)a->stride + (uint32_t)(column / 32);
  call->codes[i] = plane + block * stride;
  call->meta[i] = a->meta + block * META_BYTES;
}

// Columns [first, first + 32 · blocks) of the chunk at `base`; `column` is the first one's in x.
static void strip_piece(const Segment *segment, const uint8_t *base, int32_t first, int32_t blocks, int32_t column, const Strip *strip,
                        v128_t *acc) {
  const TypeInfo *type = AT(const TypeInfo *, segment->type);
  const Kernel *kernel = choose(type);
  uint32_t stride;
  const uint8_t *plane = plane_of(type, strip->quantized, &stride);
  uint32_t quarter_bytes = (uint32_t)(16 * type->width);
  int32_t subnormal = segment->flags & SEGMENT_SUBNORMAL;
  v128_t scales[QUARTERS * PIECE / 16], mins[QUARTERS * PIECE / 16];
  v128_t constants[2] = {wasm_i32x4_splat(-type->zero & 0xffff), wasm_v128_load(type->table)};
  int32_t groups = blocks * (32 / type->group);
  expand(&type->scale, type->unit, base + segment->super_at, base + segment->sub_at, first, groups, type->group, subnormal, scales);
  if (type->has_min) {
    expand(&type->min, 1.0f, base + segment->min_super_at, base + segment->min_sub_at, first, groups, type->group, subnormal, mins);
  }
  TileCall call = {.blocks = blocks, .constants = constants};
  const uint8_t *codes = base + segment->codes_at + (uint32_t)(first / 32) * QUARTERS * quarter_bytes;
  int32_t t = 0;
  for (; t + 2 <= strip->tokens; t += TILE_TOKENS) {
    int32_t rest = strip->tokens - t;
    int32_t tokens = rest < TILE_TOKENS ? rest : TILE_TOKENS;
    for (int32_t i = 0; i < TILE_TOKENS; i++) {
      point_at(&call, strip, plane, stride, t + (i < tokens ? i : tokens - 1), i, column);
    }
    // A tile that is not full repeats its last token in spare accumulators.
    v128_t spare[TILE_TOKENS * QUARTERS], *to = acc + QUARTERS * t;
    if (tokens < TILE_TOKENS) {
      for (int32_t i = 0; i < TILE_TOKENS * QUARTERS; i++) spare[i] = to[i < tokens * QUARTERS ? i : 0];
      to = spare;
    }
    call.weights = codes;
    call.scales = scales;
    call.acc = to;
    kernel[1](&call);
    for (int32_t i = 0; i < tokens && type->has_min; i++) {
      subtract_mins(mins, blocks, type->group, call.meta[i], to + QUARTERS * i);
    }
    for (int32_t i = 0; i < tokens * QUARTERS && to == spare; i++) acc[QUARTERS * t + i] = spare[i];
  }
  if (t < strip->tokens) {
    point_at(&call, strip, plane, stride, t, 0, column);
    call.weights = codes;
    call.scales = scales;
    call.acc = acc + QUARTERS * t;
    kernel[0](&call);
    if (type->has_min) subtract_mins(mins, blocks, type->group, call.meta[0], acc + QUARTERS * t);
  }
}

void strip_packed(const Segment *segment, const uint8_t *band, const Strip *strip, v128_t *acc) {
  for (int32_t chunk = 0; chunk < segment->columns; chunk += segment->chunk, band += segment->chunk_bytes) {
    int32_t left = segment->columns - chunk, columns = left < segment->chunk ? left : segment->chunk;
    for (int32_t first = 0; first < columns; first += PIECE) {
      int32_t rest = columns - first;
      strip_piece(segment, band, first, (rest < PIECE ? rest : PIECE) / 32, segment->from + chunk + first, strip, acc);
    }
  }
}

// Runs the wide or the narrow four-token kernel of 4-bit codes `count` times over nothing in particular, for the host to time.
EXPORT(dot_trial) void dot_trial(int32_t wide, int32_t count) {
  enum { BLOCKS = 16 };
  static v128_t zeros[BLOCKS * QUARTERS];
  const uint8_t *from = (const uint8_t *)zeros;
  v128_t acc[TILE_TOKENS * QUARTERS] = {0};
  TileCall call = {.weights = from, .blocks = BLOCKS, .scales = zeros, .constants = zeros, .acc = acc};
  for (int i = 0; i < TILE_TOKENS; i++) call.codes[i] = call.meta[i] = from;
  TypeInfo type = {.mode = CODES, .width = 4, .group = 32};
  int32_t before = wide_dots;
  wide_dots = wide;
  Kernel kernel = choose(&type)[1];
  for (int32_t n = 0; n < count; n++) kernel(&call);
  wide_dots = before;
}
