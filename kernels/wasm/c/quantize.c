// Activations to int8 per 32 columns.
#include "activation.h"

#ifdef __wasm_relaxed_simd__
int32_t wide_dots = 1;
EXPORT(prefer_wide) void prefer_wide(int32_t wide) { wide_dots = wide; }
#else
int32_t wide_dots = 0;
EXPORT(prefer_wide) void prefer_wide(int32_t wide) { (void)wide; }
#endif

// Blocks from one row to the next: at 64 bytes past a multiple of 128, a tile's rows use different cache sets whatever the columns.
static uint32_t stride_of(int32_t columns) { return (((uint32_t)columns + 31) / 32 + 3) / 4 * 4 + 2; }

EXPORT(activation_bytes) uint32_t activation_bytes(int32_t rows, int32_t columns) {
  uint32_t blocks = stride_of(columns) * (uint32_t)rows;
  return 64 + blocks * (META_BYTES + CODE_BYTES + SPLIT_BYTES);
}

// 16 signed bytes as the dot products want them.
static void store_codes(uint8_t *codes, uint8_t *split, int half, v128_t q) {
#ifdef __wasm_relaxed_simd__
  wasm_v128_store(codes + 16 * half, q);
  if (wide_dots) {
    v128_t zero = wasm_i8x16_splat(0);
    wasm_v128_store(split + 16 * half, wasm_i8x16_max(q, zero));
    wasm_v128_store(split + 32 + 16 * half, wasm_i8x16_max(wasm_i8x16_neg(q), zero));
    return;
  }
#else
  (void)codes;
#endif
  // Even columns of each four first, so that a plane's 16-bit lanes split with and/shift into matching pairs.
  v128_t order = wasm_i8x16_shuffle(q, q, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  wasm_v128_store(split + 32 * half, wasm_i16x8_extend_low_i8x16(order));
  wasm_v128_store(split + 32 * half + 16, wasm_i16x8_extend_high_i8x16(order));
}

// Constants in memory: engines would build them anew at each use. 1.5 · 2^23 added to a number below 2^22 in size rounds it half to even and
// leaves it, less 0x4b400000, in the bits.
// External, or the compiler would know them.
struct {
  int32_t magnitude[4], rounder[4];
} quantize_constants = {{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}, {0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000}};

// The sum of the first 16 bytes is that of lanes 0 and 1, the sum of the second 16 that of lanes 2 and 3.
static v128_t half_sums(v128_t first, v128_t second) {
  v128_t low = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extadd_pairwise_i8x16(first));
  v128_t high = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extadd_pairwise_i8x16(second));
  return wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_narrow_i32x4(low, high));
}

// Words 1 to 3 of a half of the meta: the two sums and both.
static v128_t with_sums(v128_t sums, float first) {
  int32_t low = wasm_i32x4_extract_lane(sums, 0) + wasm_i32x4_extract_lane(sums, 1);
  int32_t high = wasm_i32x4_extract_lane(sums, 2) + wasm_i32x4_extract_lane(sums, 3);
  return wasm_f32x4_replace_lane(wasm_i32x4_make(0, low, high, low + high), 0, first);
}

static void quantize_block(const float *x, uint8_t *meta, uint8_t *codes, uint8_t *split) {
  v128_t magnitude = wasm_v128_load(quantize_constants.magnitude), rounder = wasm_v128_load(quantize_constants.rounder);
  // As integers, so that NaN counts as largest.
  v128_t top = wasm_v128_and(wasm_v128_load(x), magnitude);
  for (int i = 1; i < 8; i++) top = wasm_i32x4_max(top, wasm_v128_and(wasm_v128_load(x + 4 * i), magnitude));
  top = wasm_i32x4_max(top, wasm_i32x4_shuffle(top, top, 2, 3, 0, 1));
  top = wasm_i32x4_max(top, wasm_i32x4_shuffle(top, top, 1, 0, 3, 2));
  int32_t bits = wasm_i32x4_extract_lane(top, 0);
  float largest = wasm_f32x4_extract_lane(top, 0);
  // Below 2^-100 the reciprocal would overflow: such a block counts as zero.
  int tiny = bits < 0x0d800000, usable = !tiny && bits < 0x7f800000;
  float scale = usable ? largest / 127.0f : tiny ? 0.0f : __builtin_nanf("");
  v128_t factor = wasm_f32x4_splat(usable ? 127.0f / largest : 0.0f);
  v128_t q[2];
  for (int half = 0; half < 2; half++) {
    v128_t v[4];
    for (int i = 0; i < 4; i++) {
      v128_t scaled = wasm_f32x4_mul(wasm_v128_load(x + 16 * half + 4 * i), factor);
      v[i] = wasm_i32x4_sub(wasm_f32x4_add(scaled, rounder), rounder);
    }
    q[half] = wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(v[0], v[1]), wasm_i16x8_narrow_i32x4(v[2], v[3]));
    store_codes(codes, split, half, q[half]);
  }
  v128_t sums = with_sums(half_sums(q[0], q[1]), scale);
  wasm_v128_store(meta, sums);
  float product = scale * (float)wasm_i32x4_extract_lane(sums, 3);
  if (wide_dots) {
    v128_t zero = wasm_i8x16_splat(0);
    v128_t first = wasm_i8x16_max(wasm_i8x16_neg(q[0]), zero), second = wasm_i8x16_max(wasm_i8x16_neg(q[1]), zero);
    wasm_v128_store(meta + 16, with_sums(half_sums(first, second), product));
  } else {
    wasm_v128_store(meta + 16, wasm_f32x4_replace_lane(wasm_i32x4_splat(0), 0, product));
  }
}

EXPORT(activation_quantize) void activation_quantize(void *memory, const float *x, int32_t rows, int32_t columns, int32_t stride, Part part) {
  int32_t blocks = (columns + 31) / 32;
  uint32_t row_stride = stride_of(columns), all = row_stride * (uint32_t)rows;
  uint8_t *meta = (uint8_t *)memory + 64, *codes = meta + all * META_BYTES, *split = codes + all * CODE_BYTES;
  if (part.index == 0) {
    *(Activation *)memory =
        (Activation){.rows = rows, .columns = columns, .stride = (int32_t)row_stride, .meta = meta, .codes = codes, .split = split};
  }
  Range mine = share(part, rows * blocks);
  for (int32_t at = mine.from; at < mine.to; at++) {
    int32_t r = at / blocks, b = at % blocks;
    const float *from = x + (uint32_t)r * (uint32_t)stride + b * 32;
    float padded[32];
    if (b * 32 + 32 > columns) {
      for (int i = 0; i < 32; i++) padded[i] = b * 32 + i < columns ? from[i] : 0.0f;
      from = padded;
    }
    uint32_t i = (uint32_t)r * row_stride + (uint32_t)b;
    quantize_block(from, meta + i * META_BYTES, codes + i * CODE_BYTES, split + i * SPLIT_BYTES);
  }
}
