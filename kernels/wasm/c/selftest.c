// What the host asks of an engine before it relies on it.
#include "linear.h"

// 1 if the instructions of this build give the right answers; Node 20's baseline compiler does not. The operands come from memory so that
// no compiler folds them.
EXPORT(selftest) int32_t selftest(void) {
#ifdef __wasm_relaxed_simd__
  static volatile int8_t a[16] = {-128, -128, 127, 127, -128, 127, -1, 1, 100, -100, 50, -50, -127, -127, -127, -127};
  static volatile int8_t b[16] = {127, 127, 127, 127, 127, 127, 127, 127, 0, 1, 2, 63, 127, 126, 125, 124};
  int8_t x[16], y[16];
  int32_t right = 0;
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < 16; i++) {
      x[i] = (int8_t)(a[i] ^ (round & 1 ? -1 : 0));
      y[i] = (int8_t)(round & 2 ? 127 - b[i] : b[i]);
    }
    int32_t sums[4];
    int16_t pairs[8];
    int8_t picked[16];
    wasm_v128_store(pairs, wasm_i16x8_relaxed_dot_i8x16_i7x16(wasm_v128_load(x), wasm_v128_load(y)));
    wasm_v128_store(sums, wasm_i32x4_relaxed_dot_i8x16_i7x16_add(wasm_v128_load(x), wasm_v128_load(y),
                                                                 wasm_i32x4_make(-1000003, 0, 1000003, 2000006)));
    for (int lane = 0; lane < 4; lane++) {
      int32_t expected = 1000003 * (lane - 1);
      for (int j = 0; j < 4; j++) expected += x[4 * lane + j] * y[4 * lane + j];
      right += sums[lane] == expected;
    }
    for (int lane = 0; lane < 8; lane++) {
      right += pairs[lane] == x[2 * lane] * y[2 * lane] + x[2 * lane + 1] * y[2 * lane + 1];
    }
    for (int i = 0; i < 16; i++) y[i] = (int8_t)((i * 7 + round) & 15);
    wasm_v128_store(picked, wasm_i8x16_relaxed_swizzle(wasm_v128_load(x), wasm_v128_load(y)));
    for (int i = 0; i < 16; i++) right += picked[i] == x[y[i]];
  }
  return right == 4 * (4 + 8 + 16);
#else
  return 1;
#endif
}

// 1 if inf − inf is a NaN with its sign set, as on x86.
EXPORT(looks_like_x86) int32_t looks_like_x86(void) {
  static volatile float infinity = __builtin_inff();
  union { float f; int32_t i; } nan = {infinity - infinity};
  return nan.i < 0;
}
