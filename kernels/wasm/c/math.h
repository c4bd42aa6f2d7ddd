// Transcendental functions on four lanes. Only IEEE operations in a fixed order, so that every engine and both builds give
// the same bits. Polynomials are minimax fits of ours; errors (measured over each function's range, src/math.test.ts):
//
//     exp 1 ulp · tanh 2 ulp · sigmoid, silu 3 ulp · gelu, gelu-tanh 3 ulp of the larger of |gelu(x)| and |x|/4
//
// NaN in, NaN out.
#ifndef LOWBIT_MATH_H
#define LOWBIT_MATH_H

#include <stdint.h>
#include <wasm_simd128.h>

#define SPLAT(value) wasm_f32x4_const_splat(value)
#define ADD(a, b) wasm_f32x4_add(a, b)
#define SUB(a, b) wasm_f32x4_sub(a, b)
#define MUL(a, b) wasm_f32x4_mul(a, b)
#define DIV(a, b) wasm_f32x4_div(a, b)

// pmin and pmax keep a NaN in their first operand.
static inline v128_t clamp(v128_t x, float low, float high) {
  return wasm_f32x4_pmin(wasm_f32x4_pmax(x, wasm_f32x4_splat(low)), wasm_f32x4_splat(high));
}

// x − n·ln 2, and the bits of 1.5·2^23 + n, 0x4b400000 + n: that addition rounds to the nearest integer.
#define ROUNDER 0x1.8p23f
static inline v128_t reduce(v128_t x, v128_t *bits) {
  *bits = ADD(MUL(x, SPLAT(0x1.715476p+0f)), SPLAT(ROUNDER));
  v128_t n = SUB(*bits, SPLAT(ROUNDER));
  // ln 2 = 0x1.63p-1 + low part: n times the high part is exact.
  x = SUB(x, MUL(n, SPLAT(0x1.63p-1f)));
  return SUB(x, MUL(n, SPLAT(-0x1.bd0106p-13f)));
}

// e^r for |r| ≤ ln 2 / 2, and a little beyond.
static inline v128_t exp_near_0(v128_t r) {
  v128_t square = MUL(r, r);
  v128_t high = ADD(MUL(SPLAT(0x1.9f0810p-13f), r), SPLAT(0x1.6d8db0p-10f));
  v128_t middle = ADD(MUL(SPLAT(0x1.111272p-7f), r), SPLAT(0x1.55548ep-5f));
  v128_t low = ADD(MUL(SPLAT(0x1.555554p-3f), r), SPLAT(0x1.0p-1f));
  v128_t p = ADD(MUL(ADD(MUL(high, square), middle), square), low);
  return ADD(ADD(MUL(square, p), r), SPLAT(1.0f));
}

static inline v128_t power_of_two(v128_t exponent) {
  return wasm_i32x4_shl(wasm_i32x4_add(exponent, wasm_i32x4_const_splat(127)), 23);
}

// e^(x + rest), |rest| ≤ 0.1: `rest` carries the bits that a rounded argument lost.
static inline v128_t exp_sum(v128_t x, v128_t rest) {
  v128_t bits;
  v128_t p = exp_near_0(ADD(reduce(clamp(x, -110.0f, 89.0f), &bits), rest));
  // 2^n in two factors, so that results reach down to the subnormals and up to infinity.
  v128_t whole = wasm_i32x4_sub(bits, wasm_i32x4_const_splat(0x4b400000));
  v128_t half = wasm_i32x4_shr(whole, 1);
  return MUL(MUL(p, power_of_two(half)), power_of_two(wasm_i32x4_sub(whole, half)));
}

static inline v128_t exp4(v128_t x) { return exp_sum(x, SPLAT(0.0f)); }

// e^x for x ≤ 0, in fewer steps: below −87, where results leave the normal numbers, it is 0. As exp4 above that.
static inline v128_t exp_falling4(v128_t x) {
  v128_t bits;
  v128_t p = exp_near_0(reduce(wasm_f32x4_pmax(x, SPLAT(-87.0f)), &bits));
  v128_t power = wasm_i32x4_add(p, wasm_i32x4_shl(bits, 23));
  return wasm_v128_andnot(power, wasm_f32x4_lt(x, SPLAT(-87.0f)));
}

static inline v128_t sigmoid4(v128_t x) {
  return DIV(SPLAT(1.0f), ADD(SPLAT(1.0f), exp4(wasm_f32x4_neg(x))));
}

static inline v128_t tanh4(v128_t x) {
  v128_t sign = wasm_v128_and(x, wasm_i32x4_const_splat((int32_t)0x80000000));
  v128_t size = wasm_f32x4_abs(x);
  v128_t z = MUL(x, x);
  v128_t p = SPLAT(-0x1.72fc46p-8f);
  p = ADD(MUL(p, z), SPLAT(0x1.518b14p-6f));
  p = ADD(MUL(p, z), SPLAT(-0x1.b8265cp-5f));
  p = ADD(MUL(p, z), SPLAT(0x1.11068ep-3f));
  p = ADD(MUL(p, z), SPLAT(-0x1.555530p-2f));
  v128_t small = ADD(x, MUL(MUL(x, z), p));
  v128_t large = SUB(SPLAT(1.0f), DIV(SPLAT(2.0f), ADD(exp4(ADD(size, size)), SPLAT(1.0f))));
  return wasm_v128_or(wasm_v128_bitselect(small, large, wasm_f32x4_lt(size, SPLAT(0.625f))), sign);
}

static inline v128_t silu4(v128_t x) { return DIV(x, ADD(SPLAT(1.0f), exp4(wasm_f32x4_neg(x)))); }

// x·(1 + tanh(u))/2 = x·sigmoid(2u), u = √(2/π)·(x + 0.044715·x³).
static inline v128_t gelu_tanh4(v128_t x) {
  v128_t inner = ADD(SPLAT(1.0f), MUL(SPLAT(0.044715f), MUL(x, x)));
  return DIV(x, ADD(SPLAT(1.0f), exp4(MUL(MUL(SPLAT(-1.5957691216f), x), inner))));
}

// x·Φ(x). For t = |x|: Φ(−t) = e^(−t²/2)·R, R a polynomial in (t − 3)/(t + 3) up to t = 13.5, where Φ leaves f32.
static inline v128_t gelu4(v128_t x) {
  v128_t size = wasm_f32x4_abs(x);
  v128_t t = wasm_f32x4_pmin(size, SPLAT(13.5f));
  v128_t w = DIV(SUB(t, SPLAT(3.0f)), ADD(t, SPLAT(3.0f)));
  v128_t p = SPLAT(0x1.c6405cp-15f);
  p = ADD(MUL(p, w), SPLAT(0x1.e6b26cp-14f));
  p = ADD(MUL(p, w), SPLAT(-0x1.646c42p-12f));
  p = ADD(MUL(p, w), SPLAT(-0x1.01ff66p-10f));
  p = ADD(MUL(p, w), SPLAT(0x1.7cb9a6p-9f));
  p = ADD(MUL(p, w), SPLAT(0x1.91e0f6p-8f));
  p = ADD(MUL(p, w), SPLAT(-0x1.7a9458p-5f));
  p = ADD(MUL(p, w), SPLAT(0x1.f8baccp-4f));
  p = ADD(MUL(p, w), SPLAT(-0x1.a6b66ap-3f));
  p = ADD(MUL(p, w), SPLAT(0x1.f1b89cp-4f));
  // t² to more than f32: the square of the top 12 bits is exact, the rest goes in beside it.
  v128_t u = wasm_f32x4_pmin(size, SPLAT(20.0f));
  v128_t high = wasm_v128_and(u, wasm_i32x4_const_splat((int32_t)0xfffff000));
  v128_t rest = MUL(SUB(u, high), ADD(u, high));
  v128_t tail = MUL(exp_sum(MUL(SPLAT(-0.5f), MUL(high, high)), MUL(SPLAT(-0.5f), rest)), p);
  v128_t negative = wasm_f32x4_lt(x, SPLAT(0.0f));
  return MUL(x, wasm_v128_bitselect(tail, SUB(SPLAT(1.0f), tail), negative));
}

// ---------------------------------------------------------------- sums in f64, in a fixed order

static inline double sum_f64x2(v128_t a) { return wasm_f64x2_extract_lane(a, 0) + wasm_f64x2_extract_lane(a, 1); }

static inline v128_t low_f64(v128_t x) { return wasm_f64x2_promote_low_f32x4(x); }

static inline v128_t high_f64(v128_t x) { return wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(x, x, 2, 3, 0, 1)); }

// Loads and stores of the 1 to 3 floats after the last whole vector; the other lanes are `fill`.
static inline v128_t load_tail(const float *x, int32_t count, float fill) {
  float lanes[4] = {fill, fill, fill, fill};
  for (int32_t i = 0; i < count; i++) lanes[i] = x[i];
  return wasm_v128_load(lanes);
}

static inline void store_tail(float *y, int32_t count, v128_t value) {
  float lanes[4];
  wasm_v128_store(lanes, value);
  for (int32_t i = 0; i < count; i++) y[i] = lanes[i];
}

// ---------------------------------------------------------------- half precision

// Four finite halves, sign-extended to i32 lanes, to f32: the bits land 112 exponents too low, so the product is exact,
// subnormals included.
static inline v128_t half_to_float4(v128_t half) {
  v128_t bits = wasm_v128_and(wasm_i32x4_shl(half, 13), wasm_i32x4_const_splat((int32_t)0x8fffffff));
  return MUL(bits, SPLAT(0x1p112f));
}

#define HALF_MAX 65504.0f

// Nearest half, ties to even, of |x| ≤ HALF_MAX, in the low 16 bits of each lane.
static inline v128_t float_to_half4(v128_t x) {
  v128_t sign = wasm_v128_and(wasm_u32x4_shr(x, 16), wasm_i32x4_const_splat(0x8000));
  v128_t size = wasm_f32x4_abs(x);
  v128_t odd = wasm_v128_and(wasm_u32x4_shr(size, 13), wasm_i32x4_const_splat(1));
  v128_t rounded = wasm_i32x4_add(wasm_i32x4_add(size, wasm_i32x4_const_splat(0xfff)), odd);
  v128_t normal = wasm_u32x4_shr(wasm_i32x4_sub(rounded, wasm_i32x4_const_splat(0x38000000)), 13);
  // A half's subnormals are multiples of 2^−24: the unit in the last place of 0.5.
  v128_t subnormal = wasm_i32x4_sub(ADD(size, SPLAT(0.5f)), wasm_i32x4_const_splat(0x3f000000));
  v128_t half = wasm_v128_bitselect(subnormal, normal, wasm_f32x4_lt(size, SPLAT(0x1p-14f)));
  return wasm_v128_or(half, sign);
}

// One number at a time.
static inline float half_to_float(uint16_t half) {
  return wasm_f32x4_extract_lane(half_to_float4(wasm_i32x4_splat((int16_t)half)), 0);
}

static inline uint16_t float_to_half(float x) {
  return (uint16_t)wasm_i32x4_extract_lane(float_to_half4(wasm_f32x4_splat(x)), 0);
}

#endif
