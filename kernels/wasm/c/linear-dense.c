// Dense segments: f32 products and sums, columns in order, a fresh partial sum every 256 columns so that long rows stay accurate.
#include "linear-internal.h"

void partial_dense(const Kernel *kernel, const uint8_t *const *records, int32_t record_count, const Strip *strip, int32_t column,
                   int32_t columns, v128_t *acc) {
  TileCall call = {.blocks = columns};
  for (int32_t t = 0; t < strip->tokens;) {
    int32_t tokens = t + TILE_TOKENS <= strip->tokens ? TILE_TOKENS : 1;
    for (int32_t i = 0; i < tokens; i++) call.codes[i] = (const uint8_t *)(strip->x[t + i] + column);
    int32_t step = tokens == 1 ? STRIP_RECORDS : TILE_RECORDS;
    for (int32_t r = 0; r < record_count; r += step) {
      for (int32_t i = 0; i < step; i++) call.weights[i] = records[r + i];
      call.acc = acc + STRIP_RECORDS * t + r;
      kernel[tokens > 1](&call);
    }
    t += tokens;
  }
}

void strip_dense(const Segment *segment, const uint8_t *const *records, int32_t record_count, const Strip *strip, v128_t *acc) {
  const Kernel *kernel = dense_kernels + 2 * segment->kind;
  uint32_t column_bytes = segment->kind == DENSE_F32 ? 16 : 8;
  for (int32_t first = 0; first < segment->columns; first += PARTIAL) {
    int32_t left = segment->columns - first;
    const uint8_t *parts[STRIP_RECORDS];
    for (int32_t r = 0; r < STRIP_RECORDS; r++) parts[r] = records[r] + (uint32_t)first * column_bytes;
    partial_dense(kernel, parts, record_count, strip, segment->from + first, left < PARTIAL ? left : PARTIAL, acc);
  }
}
