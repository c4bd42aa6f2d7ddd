// y = W · x: bands of sixteen rows by up to 64 tokens; each weight is read from memory once per 64 tokens.
#include "linear-internal.h"

static void store_rows(float *y, v128_t rows, int32_t count) {
  if (count >= 4) {
    wasm_v128_store(y, rows);
    return;
  }
  float lanes[4];
  wasm_v128_store(lanes, rows);
  for (int32_t i = 0; i < count; i++) y[i] = lanes[i];
}

static v128_t load_rows(const float *bias, int32_t count) {
  if (count >= 4) return wasm_v128_load(bias);
  float lanes[4] = {0};
  for (int32_t i = 0; i < count; i++) lanes[i] = bias[i];
  return wasm_v128_load(lanes);
}

static void strip_rows(const LinearCall *call, const Strip *strip, int32_t first_token, int32_t row, int32_t row_to) {
  const Weight *weight = call->weight;
  int32_t left = row_to - row;
  int32_t quarters = left > BAND_ROWS ? QUARTERS : (left + 3) / 4;
  v128_t acc[STRIP_TOKENS * QUARTERS];
  for (int32_t r = 0; r < QUARTERS; r++) {
    v128_t start = wasm_f32x4_splat(0);
    if (weight->bias && !weight->row_scale && r < quarters) {
      start = load_rows(AT(const float *, weight->bias) + call->expert * weight->out + row + 4 * r, left - 4 * r);
    }
    for (int32_t t = 0; t < strip->tokens; t++) acc[QUARTERS * t + r] = start;
  }
  for (int32_t i = 0; i < weight->segments; i++) {
    const Segment *segment = weight->segment + i;
    uint32_t index = (uint32_t)call->expert * (uint32_t)weight->bands + (uint32_t)(row / BAND_ROWS);
    const uint8_t *band = AT(const uint8_t *, segment->data) + (uintptr_t)index * segment->band_bytes;
    if (segment->kind == PACKED) strip_packed(segment, band, strip, acc);
    else if (segment->kind == LOOKUP) strip_lookup(segment, band, strip, acc);
    else strip_dense(segment, band, strip, acc);
  }
  for (int32_t r = 0; r < quarters && weight->row_scale; r++) {
    int32_t first = call->expert * weight->out + row + 4 * r;
    v128_t factor = load_rows(AT(const float *, weight->row_scale) + first, left - 4 * r);
    v128_t bias = weight->bias ? load_rows(AT(const float *, weight->bias) + first, left - 4 * r) : wasm_f32x4_splat(0);
    for (int32_t t = 0; t < strip->tokens; t++) {
      v128_t *sum = acc + QUARTERS * t + r;
      *sum = wasm_f32x4_add(wasm_f32x4_mul(*sum, factor), bias);
    }
  }
  for (int32_t t = 0; t < strip->tokens; t++) {
    int32_t y_row = call->y_rows ? call->y_rows[first_token + t] : first_token + t;
    float *y = call->y + (uint32_t)y_row * (uint32_t)call->y_stride + row;
    for (int32_t r = 0; r < quarters; r++) store_rows(y + 4 * r, acc[QUARTERS * t + r], left - 4 * r);
  }
}

EXPORT(linear) void linear(const LinearCall *call, Part part) {
  Range mine = share_of(part, call->row_to - call->row_from, ELEMENTS);
  int32_t from = call->row_from + mine.from, to = call->row_from + mine.to;
  Strip strip;
  strip.quantized = call->quantized;
  for (int32_t first = 0; first < call->tokens; first += STRIP_TOKENS) {
    int32_t left = call->tokens - first;
    strip.tokens = left < STRIP_TOKENS ? left : STRIP_TOKENS;
    for (int32_t t = 0; t < strip.tokens; t++) {
      strip.row[t] = (uint32_t)(call->x_rows ? call->x_rows[first + t] : first + t);
      strip.x[t] = call->x + strip.row[t] * (uint32_t)call->weight->in;
    }
    for (int32_t row = from; row < to; row += BAND_ROWS) strip_rows(call, &strip, first, row, to);
  }
}
