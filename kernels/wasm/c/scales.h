// Reads the scales and codes of a band.
#ifndef LOWBIT_SCALES_H
#define LOWBIT_SCALES_H

#include "linear.h"
#include "type.h"

#define INLINE static inline __attribute__((always_inline))

// f16 → f32 of four finite halves, sign-extended to 32 bits. Subnormals pass through normal numbers only, as processors are slow with f32
// subnormals and scales are often that small: read as normal, m · 2^-24 is t = 2^-15 + m · 2^-25; then 2t − 2^-14 is right, and for all
// other halves it is at least t.
INLINE v128_t half_to_float(v128_t half) {
  v128_t t = wasm_i32x4_add(wasm_v128_and(wasm_i32x4_shl(half, 13), wasm_i32x4_splat(0x0fffe000)), wasm_i32x4_splat(112 << 23));
  v128_t doubled = wasm_f32x4_sub(wasm_f32x4_add(t, t), wasm_f32x4_splat(0x1p-14f));
  return wasm_v128_or(wasm_f32x4_pmin(t, doubled), wasm_v128_and(half, wasm_i32x4_splat((int32_t)0x80000000)));
}

// The same of halves that are neither subnormal nor 0.
INLINE v128_t normal_half_to_float(v128_t half) {
  return wasm_i32x4_add(wasm_v128_and(wasm_i32x4_shl(half, 13), wasm_i32x4_splat((int32_t)0x8fffe000)), wasm_i32x4_splat(112 << 23));
}

INLINE v128_t load_super(int32_t format, Address table, const uint8_t *super, uint32_t i) {
  switch (format) {
    case SCALE_F32: return wasm_v128_load(super + 16 * i);
    case SCALE_F16: return half_to_float(wasm_i32x4_load16x4(super + 8 * i));
    case SCALE_BF16: return wasm_i32x4_shl(wasm_u32x4_load16x4(super + 8 * i), 16);
    case SCALE_TABLE: {
      const uint8_t *at = super + 4 * i;
      const float *values = AT(const float *, table);
      return wasm_f32x4_make(values[at[0]], values[at[1]], values[at[2]], values[at[3]]);
    }
    default: return wasm_f32x4_splat(1);
  }
}

// The four bytes at `bytes` as f32.
INLINE v128_t load_bytes(int32_t kind, const uint8_t *bytes) {
  v128_t word = wasm_v128_load32_zero(bytes);
  return wasm_f32x4_convert_i32x4(kind == SUB_SIGNED ? wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(word))
                                                     : wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(word)));
}

// (sub + offset) of the four rows. TypeScript has checked that the sum is exact.
INLINE v128_t load_sub(int32_t kind, float offset, const uint8_t *sub, uint32_t i) {
  return wasm_f32x4_add(load_bytes(kind, sub + 4 * i), wasm_f32x4_splat(offset));
}

// The codes of one quad: 4 rows × 4 columns, unsigned bytes (BYTES: as stored). `planes` are the quarter's vectors of its 32 columns.
INLINE v128_t quad_codes(int width, const uint8_t *planes, int quad) {
#define VECTOR(i) wasm_v128_load(planes + 16 * (i))
#define SPLIT(vector, shift, mask) \
  wasm_v128_and((shift) >= 0 ? wasm_u16x8_shr(vector, (uint32_t)(shift)) : wasm_i16x8_shl(vector, (uint32_t) - (shift)), wasm_i8x16_splat(mask))
  switch (width) {
    case 1: return SPLIT(VECTOR(0), quad, 1);
    case 2: return SPLIT(VECTOR(quad / 4), 2 * (quad % 4), 3);
    case 3: return wasm_v128_or(SPLIT(VECTOR(quad / 4), 2 * (quad % 4), 3), SPLIT(VECTOR(2), quad - 2, 4));
    case 4: return SPLIT(VECTOR(quad / 2), 4 * (quad % 2), 15);
    case 5: return wasm_v128_or(SPLIT(VECTOR(quad / 2), 4 * (quad % 2), 15), SPLIT(VECTOR(4), quad - 4, 16));
    case 6: return wasm_v128_or(SPLIT(VECTOR(quad / 2), 4 * (quad % 2), 15), SPLIT(VECTOR(4 + quad / 4), 2 * (quad % 4) - 4, 48));
    default: return VECTOR(quad);
  }
#undef SPLIT
#undef VECTOR
}

// Four codes' operands in the dot product.
INLINE v128_t lookup(v128_t table, v128_t codes) {
#ifdef __wasm_relaxed_simd__
  return wasm_i8x16_relaxed_swizzle(table, codes);  // codes are below 16, where both builds agree
#else
  return wasm_i8x16_swizzle(table, codes);
#endif
}

#endif
