// Dense segments: f32 products and sums, columns in order, a fresh partial sum every 256 columns so that long rows stay accurate.
#include "linear-internal.h"

void partial_dense(const Kernel *kernel, const uint8_t *weights, uint32_t quarter_bytes, const Strip *strip, int32_t column, int32_t columns,
                   v128_t *acc) {
  TileCall call = {.blocks = columns};
  for (int32_t t = 0; t < strip->tokens;) {
    int32_t tokens = t + TILE_TOKENS <= strip->tokens ? TILE_TOKENS : 1;
    for (int32_t i = 0; i < tokens; i++) call.codes[i] = (const uint8_t *)(strip->x[t + i] + column);
    for (int32_t r = 0; r < QUARTERS; r += tokens == 1 ? QUARTERS : TILE_QUARTERS) {
      call.weights = weights + (uint32_t)r * quarter_bytes;
      call.acc = acc + QUARTERS * t + r;
      kernel[tokens > 1](&call);
    }
    t += tokens;
  }
}

void strip_dense(const Segment *segment, const uint8_t *band, const Strip *strip, v128_t *acc) {
  const Kernel *kernel = dense_kernels + 2 * segment->kind;
  uint32_t quarter_bytes = segment->kind == DENSE_F32 ? 16 : 8;
  for (int32_t first = 0; first < segment->columns; first += PARTIAL) {
    int32_t left = segment->columns - first;
    const uint8_t *weights = band + (uint32_t)first * QUARTERS * quarter_bytes;
    partial_dense(kernel, weights, quarter_bytes, strip, segment->from + first, left < PARTIAL ? left : PARTIAL, acc);
  }
}
