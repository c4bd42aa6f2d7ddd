// Packed segments: scales are expanded to f32 once per row strip and column chunk, then the tiles run over all tokens.
#include "linear-internal.h"

// Columns per chunk: its scales (8 kB), eight rows' codes and four tokens' activations fit the level-1 cache.
enum { CHUNK_BLOCKS = 64, CHUNK = 32 * CHUNK_BLOCKS };

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

static void expand_any(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
                       v128_t *out) {
  int32_t format = scale->format, sub_kind = scale->sub;
  v128_t factor = wasm_f32x4_splat(scale->multiplier * unit);
  uint32_t super_next = 0, sub_next = 0;
  int32_t super_left = 0, sub_left = 0;
  v128_t super_value = wasm_f32x4_splat(1), value = super_value;
  int started = 0;
  if (format != SCALE_NONE) {
    super_next = (uint32_t)(first / scale->super_per);
    super_left = first % scale->super_per;
    if (super_left != 0) {
      super_value = load_super(format, scale->table, super, super_next++);
      super_left = scale->super_per - super_left;
    }
  }
  if (sub_kind != SUB_NONE) {
    sub_next = (uint32_t)(first / scale->sub_per);
    sub_left = first % scale->sub_per;
    if (sub_left != 0) {
      sub_next++;
      sub_left = scale->sub_per - sub_left;
    }
  }
  for (int32_t g = 0; g < groups; g++, super_left -= group, sub_left -= group) {
    int fresh = !started;
    if (format != SCALE_NONE && super_left == 0) {
      super_value = load_super(format, scale->table, super, super_next++);
      super_left = scale->super_per;
      fresh = 1;
    }
    if (sub_kind != SUB_NONE && sub_left == 0) {
      sub_next++;
      sub_left = scale->sub_per;
      fresh = 1;
    }
    if (fresh) {
      value = super_value;
      if (sub_kind != SUB_NONE) value = wasm_f32x4_mul(value, load_sub(sub_kind, scale->offset, sub, sub_next - 1));
      value = wasm_f32x4_mul(value, factor);
      started = 1;
    }
    wasm_v128_store(out + STRIP_RECORDS * g, value);
  }
}

// One f16 scale per group.
INLINE void expand_flat(float factor, const uint8_t *super, int32_t first, int32_t groups, int32_t group, v128_t *out) {
  const uint8_t *at = super + 8 * (uint32_t)(first / group);
  v128_t multiplier = wasm_f32x4_splat(factor);
  for (int32_t g = 0; g < groups; g++, at += 8, out += STRIP_RECORDS) {
    wasm_v128_store(out, wasm_f32x4_mul(half_to_float(wasm_i32x4_load16x4(at)), multiplier));
  }
}

// A super-scale per many groups, which begin with the chunk, and a byte per group.
INLINE void expand_nested(int32_t format, int32_t sub_kind, const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub,
                          int32_t first, int32_t groups, int32_t group, v128_t *out) {
  uint32_t next = (uint32_t)(first / scale->super_per);
  int32_t per = scale->super_per / group;
  const uint8_t *at = sub + 4 * (uint32_t)(first / group);
  v128_t offset = wasm_f32x4_splat(scale->offset), factor = wasm_f32x4_splat(scale->multiplier * unit);
  for (int32_t from = 0; from < groups; from += per) {
    v128_t value = wasm_f32x4_mul(load_super(format, scale->table, super, next++), factor);
    int32_t to = from + per < groups ? from + per : groups;
    for (int32_t g = from; g < to; g++, at += 4, out += STRIP_RECORDS) {
      wasm_v128_store(out, wasm_f32x4_mul(value, wasm_f32x4_add(load_bytes(sub_kind, at), offset)));
    }
  }
}

// Super and sub, where there are such, cover the same columns, several groups.
static void expand_wide(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
                        v128_t *out) {
  int32_t per = scale->format != SCALE_NONE ? scale->super_per : scale->sub_per;
  uint32_t next = (uint32_t)(first / per);
  int32_t end = (per - first % per) / group;
  v128_t factor = wasm_f32x4_splat(scale->multiplier * unit);
  for (int32_t g = 0; g < groups; end += per / group) {
    v128_t value = load_super(scale->format, scale->table, super, next);
    if (scale->sub != SUB_NONE) value = wasm_f32x4_mul(value, load_sub(scale->sub, scale->offset, sub, next));
    value = wasm_f32x4_mul(value, factor);
    next++;
    for (int32_t stop = end < groups ? end : groups; g < stop; g++, out += STRIP_RECORDS) wasm_v128_store(out, value);
  }
}

void expand(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
            v128_t *out) {
  int has_super = scale->format != SCALE_NONE, has_sub = scale->sub != SUB_NONE;
  if (scale->format == SCALE_F16 && !has_sub && scale->super_per == group) {
    expand_flat(scale->multiplier * unit, super, first, groups, group, out);
  } else if (scale->format == SCALE_F16 && scale->sub_per == group && first % scale->super_per == 0) {
    if (scale->sub == SUB_UNSIGNED) expand_nested(SCALE_F16, SUB_UNSIGNED, scale, unit, super, sub, first, groups, group, out);
    else expand_nested(SCALE_F16, SUB_SIGNED, scale, unit, super, sub, first, groups, group, out);
  } else if ((has_super || has_sub) && (!has_super || !has_sub || scale->super_per == scale->sub_per)) {
    expand_wide(scale, unit, super, sub, first, groups, group, out);
  } else {
    expand_any(scale, unit, super, sub, first, groups, group, out);
  }
}

// acc[r] −= Σ min · x scale · Σq for the four records of a strip
static void subtract_mins(const v128_t *mins, int32_t blocks, int32_t group, const uint8_t *meta, v128_t *acc) {
  v128_t sums[STRIP_RECORDS];
  for (int r = 0; r < STRIP_RECORDS; r++) sums[r] = wasm_f32x4_splat(0);
  for (int32_t b = 0; b < blocks; b++, meta += META_BYTES) {
    if (group == 32) {
      v128_t q = wasm_v128_load32_splat(meta + 16);
      for (int r = 0; r < STRIP_RECORDS; r++) sums[r] = wasm_f32x4_add(sums[r], wasm_f32x4_mul(mins[r], q));
      mins += STRIP_RECORDS;
    } else {
      v128_t scale = wasm_v128_load32_splat(meta);
      for (int part = 0; part < 2; part++, mins += STRIP_RECORDS) {
        v128_t q = wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(wasm_v128_load32_splat(meta + 4 + 4 * part)));
        for (int r = 0; r < STRIP_RECORDS; r++) sums[r] = wasm_f32x4_add(sums[r], wasm_f32x4_mul(mins[r], q));
      }
    }
  }
  for (int r = 0; r < STRIP_RECORDS; r++) acc[r] = wasm_f32x4_sub(acc[r], sums[r]);
}

// ---------------------------------------------------------------- strips

static void point_at(TileCall *call, const Segment *segment, const Strip *strip, const uint8_t *plane, uint32_t stride, int32_t token,
                     int32_t i, int32_t chunk) {
  const Activation *a = strip->quantized;
  uint32_t block = strip->row[token] * (uint32_t)a->stride + (uint32_t)((segment->from + chunk) / 32);
  call->codes[i] = plane + block * stride;
  call->meta[i] = a->meta + block * META_BYTES;
}

// Reads one byte of each cache line, so that lines on their way from memory overlap: the loops behind wait for each of theirs in turn, and
// hardware does not follow short streams that alternate. WebAssembly has no prefetch; a load whose value nobody waits for is one.
static void touch(const uint8_t *from, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes; at += 64) (void)*(const volatile uint8_t *)(from + at);
}

void strip_packed(const Segment *segment, const uint8_t *const *records, int32_t record_count, const Strip *strip, v128_t *acc) {
  const TypeInfo *type = segment->type;
  const Kernel *kernel = choose(type);
  uint32_t stride;
  const uint8_t *plane = plane_of(type, strip->quantized, &stride);
  uint32_t block_bytes = (uint32_t)(16 * type->width);
  v128_t scales[STRIP_RECORDS * CHUNK / 16], mins[STRIP_RECORDS * CHUNK / 16];
  v128_t constants[2] = {wasm_i32x4_splat(-type->zero & 0xffff), wasm_v128_load(type->table)};
  for (int32_t chunk = 0; chunk < segment->columns; chunk += CHUNK) {
    int32_t left = (segment->columns - chunk) / 32;
    int32_t blocks = left < CHUNK_BLOCKS ? left : CHUNK_BLOCKS;
    int32_t groups = blocks * (32 / type->group);
    for (int32_t r = 0; r < record_count && chunk == 0; r++) touch(records[r], segment->group_bytes);
    for (int32_t r = 0; r < STRIP_RECORDS; r++) {
      const uint8_t *w = records[r];
      expand(&type->scale, type->unit, w + segment->super_at, w + segment->sub_at, chunk, groups, type->group, scales + r);
      if (type->has_min) {
        expand(&type->min, 1.0f, w + segment->min_super_at, w + segment->min_sub_at, chunk, groups, type->group, mins + r);
      }
    }
    TileCall call = {.blocks = blocks, .constants = constants};
    uint32_t skipped = (uint32_t)(chunk / 32) * block_bytes;
    int32_t t = 0;
    for (; t + 2 <= strip->tokens; t += TILE_TOKENS) {
      int32_t rest = strip->tokens - t;
      int32_t tokens = rest < TILE_TOKENS ? rest : TILE_TOKENS;
      for (int32_t i = 0; i < TILE_TOKENS; i++) {
        point_at(&call, segment, strip, plane, stride, t + (i < tokens ? i : tokens - 1), i, chunk);
      }
      // A tile that is not full repeats its last token in spare accumulators.
      v128_t spare[TILE_TOKENS * STRIP_RECORDS], *to = acc + STRIP_RECORDS * t;
      if (tokens < TILE_TOKENS) {
        for (int32_t i = 0; i < TILE_TOKENS * STRIP_RECORDS; i++) spare[i] = to[i < tokens * STRIP_RECORDS ? i : 0];
        to = spare;
      }
      for (int32_t r = 0; r < record_count; r += TILE_RECORDS) {
        for (int32_t i = 0; i < TILE_RECORDS; i++) call.weights[i] = records[r + i] + skipped;
        call.scales = scales + r;
        call.acc = to + r;
        kernel[1](&call);
      }
      for (int32_t i = 0; i < tokens && type->has_min; i++) {
        subtract_mins(mins, blocks, type->group, call.meta[i], to + STRIP_RECORDS * i);
      }
      for (int32_t i = 0; i < tokens * STRIP_RECORDS && to == spare; i++) acc[STRIP_RECORDS * t + i] = spare[i];
    }
    if (t < strip->tokens) {
      point_at(&call, segment, strip, plane, stride, t, 0, chunk);
      for (int32_t r = 0; r < STRIP_RECORDS; r++) call.weights[r] = records[r] + skipped;
      call.scales = scales;
      call.acc = acc + STRIP_RECORDS * t;
      kernel[0](&call);
      if (type->has_min) subtract_mins(mins, blocks, type->group, call.meta[0], acc + STRIP_RECORDS * t);
    }
  }
}

// Runs the wide or the narrow four-token kernel of 4-bit codes `count` times over nothing in particular, for the host to time.
EXPORT(dot_trial) void dot_trial(int32_t wide, int32_t count) {
  enum { BLOCKS = 16 };
  static v128_t zeros[BLOCKS * STRIP_RECORDS];
  const uint8_t *from = (const uint8_t *)zeros;
  v128_t acc[TILE_TOKENS * STRIP_RECORDS] = {0};
  TileCall call = {.weights = {from, from}, .blocks = BLOCKS, .scales = zeros, .constants = zeros, .acc = acc};
  for (int i = 0; i < TILE_TOKENS; i++) call.codes[i] = call.meta[i] = from;
  TypeInfo type = {.mode = CODES, .width = 4, .group = 32};
  int32_t before = wide_dots;
  wide_dots = wide;
  Kernel kernel = choose(&type)[1];
  for (int32_t n = 0; n < count; n++) kernel(&call);
  wide_dots = before;
}
