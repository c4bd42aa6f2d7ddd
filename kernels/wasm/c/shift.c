// Moves positions of a sequence to earlier ones: values as they are, keys turned by the same rotation each. One call is one layer.
#include "linear.h"
#include "math.h"
#include "ops.h"

typedef struct {
  KvLayer kv;
  Address source;  // page tables before and after; the pages may be the same
  Address target;
  Address angles;  // [dimensions] (cos, sin) pairs, as for rope
  Address rows;    // room for two keys
  int32_t from;
  int32_t to;             // below from
  int32_t count;
  int32_t dimensions;
  int32_t halves;
} ShiftCall;

// One head's key at one slot of a page; q8_0 with its scales beside (KvLayer in ops.h).
typedef struct {
  uint8_t *data;
  uint16_t *scales;
} Key;

static void read_key(const KvLayer *kv, Key key, float *x) {
  for (int32_t i = 0; i < kv->key_size; i++) {
    switch (kv->type) {
      case KV_F32: x[i] = ((const float *)key.data)[i]; break;
      case KV_F16: x[i] = half_to_float(((const uint16_t *)key.data)[i]); break;
      default: x[i] = half_to_float(key.scales[i / 32]) * (float)((const int8_t *)key.data)[i];
    }
  }
}

// Blocks of 32 as attention writes them: codes of an unturned block come out as they were.
static void write_q8_block(const float *x, int8_t *codes, uint16_t *scale) {
  float top = 0.0f;
  for (int32_t i = 0; i < 32; i++) top = __builtin_fabsf(x[i]) > top ? __builtin_fabsf(x[i]) : top;
  float step = top / 127.0f;
  float inverse = step > 0.0f ? 1.0f / step : 0.0f;
  *scale = float_to_half(step);
  for (int32_t i = 0; i < 32; i++) {
    float code = __builtin_rintf(x[i] * inverse);
    codes[i] = (int8_t)(code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code);
  }
}

// 0 if the turned key does not fit the type.
static int32_t write_key(const KvLayer *kv, const float *x, Key key) {
  if (kv->type == KV_F32) {
    __builtin_memcpy(key.data, x, (uint32_t)kv->key_size * 4);
    return 1;
  }
  for (int32_t i = 0; i < kv->key_size; i++)
    if (!(__builtin_fabsf(x[i]) <= HALF_MAX)) return 0;
  for (int32_t i = 0; i < kv->key_size; i += kv->type == KV_F16 ? 1 : 32) {
    if (kv->type == KV_F16) {
      ((uint16_t *)key.data)[i] = float_to_half(x[i]);
    } else {
      write_q8_block(x + i, (int8_t *)key.data + i, key.scales + i / 32);
    }
  }
  return 1;
}

// A page's first byte and where in each of its regions a head's slot lies.
static uint8_t *page_of(const KvLayer *kv, const int32_t *table, int32_t position) {
  return AT(uint8_t *, kv->data) + (uintptr_t)table[position >> kv->page_shift] * kv->page_bytes;
}

static uint32_t cell_of(const KvLayer *kv, int32_t head, int32_t position) {
  return ((uint32_t)head << kv->page_shift) + ((uint32_t)position & ((1u << kv->page_shift) - 1));
}

static Key key_at(const KvLayer *kv, uint8_t *page, uint32_t cell) {
  uint32_t element = kv->type == KV_F32 ? 4 : kv->type == KV_F16 ? 2 : 1, size = (uint32_t)kv->key_size;
  return (Key){page + cell * size * element, (uint16_t *)(page + kv->key_scales_at) + cell * (size / 32)};
}

static void copy_value(const KvLayer *kv, const uint8_t *source, uint32_t from, uint8_t *target, uint32_t to) {
  uint32_t element = kv->type == KV_F32 ? 4 : kv->type == KV_F16 ? 2 : 1;
  uint32_t bytes = (uint32_t)kv->value_size * element;
  __builtin_memcpy(target + kv->values_at + to * bytes, source + kv->values_at + from * bytes, bytes);
  if (kv->type != KV_Q8_0) return;
  uint32_t scales = (uint32_t)kv->value_size / 16;
  __builtin_memcpy(target + kv->value_scales_at + to * scales, source + kv->value_scales_at + from * scales, scales);
}

// Positions go in rising order, so that what is written over has been read. Returns 0, or 1 if a turned key does not fit the type.
EXPORT(shift_positions) int32_t shift_positions(Address address) {
  const ShiftCall *call = AT(const ShiftCall *, address);
  const KvLayer *kv = &call->kv;
  float *x = AT(float *, call->rows), *y = x + ((kv->key_size + 3) & ~3);
  for (int32_t i = 0; i < call->count; i++) {
    int32_t from = call->from + i, to = call->to + i;
    uint8_t *source = page_of(kv, AT(const int32_t *, call->source), from), *target = page_of(kv, AT(const int32_t *, call->target), to);
    for (int32_t head = 0; head < kv->kv_heads; head++) {
      uint32_t read = cell_of(kv, head, from), written = cell_of(kv, head, to);
      read_key(kv, key_at(kv, source, read), x);
      rope(x, AT(const float *, call->angles), y, 1, 1, kv->key_size, call->dimensions, call->halves, (Part){0, 1, 0});
      if (!write_key(kv, y, key_at(kv, target, written))) return 1;
      copy_value(kv, source, read, target, written);
    }
  }
  return 0;
}
