// Attention over the paged cache. Keys are walked in blocks of BLOCK positions, aligned to multiples of BLOCK, with an online
// softmax: a row's sums run in the same order whatever the page size, the batch or the chunk of the prompt it came in.
// The query heads that share a key/value head, times a few tokens, form a tile, so that a block is unpacked once per tile.
#include "ops.h"

#include "math.h"

enum { BLOCK = 32, TILE_ROWS = 32 };

static inline v128_t load(const float *x) { return wasm_v128_load(x); }
static inline void store(float *y, v128_t value) { wasm_v128_store(y, value); }
static inline int32_t minimum(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t maximum(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int32_t padded(int32_t size) { return (size + 3) & ~3; }

// ---------------------------------------------------------------- the cache

// Where one head's keys (or values) of one page lie: rows of `size` elements, q8_0 with their scales beside.
typedef struct {
  uint8_t *data;
  uint16_t *scales;
} Slots;

static Slots slots(const KvLayer *kv, int32_t page, int32_t head, int32_t slot, int32_t values) {
  int32_t size = values ? kv->value_size : kv->key_size;
  uint32_t index = ((uint32_t)head << kv->page_shift) + (uint32_t)slot;
  uint8_t *base = AT(uint8_t *, kv->data) + (uintptr_t)page * kv->page_bytes;
  uint32_t element = kv->type == KV_F32 ? 4 : kv->type == KV_F16 ? 2 : 1;
  Slots result = {base + (values ? kv->values_at : 0) + index * (uint32_t)size * element, 0};
  if (kv->type == KV_Q8_0) {
    result.scales = (uint16_t *)(base + (values ? kv->value_scales_at : kv->key_scales_at)) + index * (uint32_t)(size / 32);
  }
  return result;
}

// Are all of x finite and small enough for a half? (A NaN compares as no.)
static int storable(const float *x, int32_t size) {
  for (int32_t i = 0; i < size; i++) {
    if (!(__builtin_fabsf(x[i]) <= HALF_MAX)) return 0;
  }
  return 1;
}

static void write_half(const float *x, int32_t size, uint16_t *y) {
  int32_t i = 0;
  for (; i + 8 <= size; i += 8) {
    v128_t low = float_to_half4(load(x + i)), high = float_to_half4(load(x + i + 4));
    wasm_v128_store(y + i, wasm_i16x8_shuffle(low, high, 0, 2, 4, 6, 8, 10, 12, 14));
  }
  for (; i < size; i++) y[i] = float_to_half(x[i]);
}

// Blocks of 32: scale = max|x| / 127 as f16, codes = x / (unrounded scale) to the nearest.
static void write_q8(const float *x, int32_t size, int8_t *codes, uint16_t *scales) {
  for (int32_t at = 0; at < size; at += 32, x += 32, codes += 32) {
    v128_t top = SPLAT(0.0f);
    for (int32_t i = 0; i < 32; i += 4) top = wasm_f32x4_pmax(top, wasm_f32x4_abs(load(x + i)));
    top = wasm_f32x4_pmax(top, wasm_i32x4_shuffle(top, top, 2, 3, 0, 1));
    top = wasm_f32x4_pmax(top, wasm_i32x4_shuffle(top, top, 1, 0, 3, 2));
    float step = wasm_f32x4_extract_lane(top, 0) / 127.0f;
    scales[at / 32] = float_to_half(step);
    v128_t inverse = wasm_f32x4_splat(step > 0.0f ? 1.0f / step : 0.0f);
    for (int32_t i = 0; i < 32; i += 4) {
      v128_t code = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(clamp(MUL(load(x + i), inverse), -127.0f, 127.0f)));
      code = wasm_i16x8_narrow_i32x4(code, code);
      wasm_v128_store32_lane(codes + i, wasm_i8x16_narrow_i16x8(code, code), 0);
    }
  }
}

static int write_row(const KvLayer *kv, const float *x, int32_t size, Slots to) {
  if (kv->type == KV_F32) {
    __builtin_memcpy(to.data, x, (uint32_t)size * 4);
    return 1;
  }
  if (!storable(x, size)) return 0;
  if (kv->type == KV_F16) {
    write_half(x, size, (uint16_t *)to.data);
  } else {
    write_q8(x, size, (int8_t *)to.data, to.scales);
  }
  return 1;
}

static int write_run(const AttentionCall *call, const Run *run, const int32_t *table, Range tokens) {
  const KvLayer *kv = &call->kv;
  for (int32_t t = tokens.from; t < tokens.to; t++) {
    int32_t position = run->position + t;
    int32_t page = table[position >> kv->page_shift], slot = position & ((1 << kv->page_shift) - 1);
    uint32_t row = (uint32_t)(run->row + t);
    for (int32_t h = 0; h < kv->kv_heads; h++) {
      uint32_t at = row * (uint32_t)kv->kv_heads + (uint32_t)h;
      const float *key = call->k + at * (uint32_t)kv->key_size, *value = call->v + at * (uint32_t)kv->value_size;
      if (!write_row(kv, key, kv->key_size, slots(kv, page, h, slot, 0))) return 0;
      if (!write_row(kv, value, kv->value_size, slots(kv, page, h, slot, 1))) return 0;
    }
  }
  return 1;
}

// A row of the cache as f32: columns c..c+3 go to y + c / 4 · step. Columns from `size` on, to a multiple of 4, become 0.
static inline __attribute__((always_inline)) void read_row(int32_t type, Slots from, int32_t row, int32_t size, float *y,
                                                           int32_t step) {
  uint32_t at = (uint32_t)row * (uint32_t)size;
  if (type == KV_F32) {
    const float *x = (const float *)from.data + at;
    int32_t i = 0;
    for (; i + 4 <= size; i += 4, y += step) store(y, load(x + i));
    if (i < size) store(y, load_tail(x + i, size - i, 0.0f));
  } else if (type == KV_F16) {
    const int16_t *x = (const int16_t *)from.data + at;
    int32_t i = 0;
    for (; i + 4 <= size; i += 4, y += step) store(y, half_to_float4(wasm_i32x4_load16x4(x + i)));
    if (i < size) {
      float rest[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int32_t j = 0; i + j < size; j++) rest[j] = half_to_float((uint16_t)x[i + j]);
      store(y, load(rest));
    }
  } else {
    const int8_t *x = (const int8_t *)from.data + at;
    const uint16_t *scales = from.scales + at / 32;
    for (int32_t i = 0; i < size; i += 8, y += 2 * step) {
      v128_t scale = wasm_f32x4_splat(half_to_float(scales[i / 32]));
      v128_t codes = wasm_i16x8_load8x8(x + i);
      store(y, MUL(scale, wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(codes))));
      store(y + step, MUL(scale, wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(codes))));
    }
  }
}

// Positions [from, to) of one head. Values are rows of `stride` floats. Keys lie in fours, a vector of each in turn: key i's
// columns c..c+3 at i / 4 · 4 · stride + c · 4 + i % 4 · 4, so that the scores' loop walks one pointer. What is before `begin`,
// or fills up the last four, is 0: no one sees it, and what lies in the cache there may be anything.
static void read_block(const KvLayer *kv, const int32_t *table, int32_t head, int32_t begin, int32_t from, int32_t to,
                       int32_t values, float *y, int32_t stride) {
  int32_t size = values ? kv->value_size : kv->key_size;
  int32_t page_tokens = 1 << kv->page_shift;
  int32_t i = 0;
  for (; i < begin - from; i++)
    for (int32_t c = 0; c < stride; c += 4)
      store(values ? y + i * stride + c : y + (i & ~3) * stride + c * 4 + (i & 3) * 4, SPLAT(0.0f));
  while (from + i < to) {
    int32_t slot = (from + i) & (page_tokens - 1);
    int32_t count = minimum(page_tokens - slot, to - from - i);
    Slots source = slots(kv, table[(from + i) >> kv->page_shift], head, slot, values);
#define READ(TYPE)                                                                                             \
  if (values)                                                                                                  \
    for (int32_t row = 0; row < count; row++, i++) read_row(TYPE, source, row, size, y + i * stride, 4);       \
  else                                                                                                         \
    for (int32_t row = 0; row < count; row++, i++)                                                             \
      read_row(TYPE, source, row, size, y + (i & ~3) * stride + (i & 3) * 4, 16);
    switch (kv->type) {
      case KV_F32: READ(KV_F32) break;
      case KV_F16: READ(KV_F16) break;
      default: READ(KV_Q8_0) break;
    }
#undef READ
  }
  for (; !values && (i & 3); i++)
    for (int32_t c = 0; c < stride; c += 4) store(y + (i & ~3) * stride + c * 4 + (i & 3) * 4, SPLAT(0.0f));
}

// ---------------------------------------------------------------- one tile

typedef struct {
  int32_t rows;
  int32_t key_stride;
  int32_t value_stride;
  float *q;           // [rows / 2][key_stride / 4][2][4]: two rows, a vector of each in turn
  float *out;         // [rows][value_stride], not yet divided by total
  float *weights;     // [rows][BLOCK]
  float *block;       // 32 keys or values, as read_block lays them
  float *top;         // [rows] largest score so far
  float *total;       // [rows] Σ e^(score − top)
  float *correction;  // [rows] e^(old top − new top)
  int32_t *first;     // [rows] first and last visible position
  int32_t *last;
} Tile;

static int32_t tile_tokens(int32_t group) { return maximum(1, TILE_ROWS / group); }

uint32_t attention_scratch(int32_t heads, int32_t kv_heads, int32_t key_size, int32_t value_size) {
  int32_t group = heads / kv_heads;
  uint32_t rows = (uint32_t)(tile_tokens(group) * group);
  uint32_t keys = (uint32_t)padded(key_size), values = (uint32_t)padded(value_size);
  return 4 * (((rows + 1) & ~1u) * keys + rows * (values + BLOCK + 8) + BLOCK * (uint32_t)maximum((int32_t)keys, (int32_t)values));
}

static Tile lay_out(const AttentionCall *call, uint8_t *scratch, int32_t rows) {
  Tile tile = {.rows = rows, .key_stride = padded(call->kv.key_size), .value_stride = padded(call->kv.value_size)};
  int32_t capacity = (rows + 3) & ~3;
  float *at = (float *)scratch;
  tile.block = at, at += BLOCK * maximum(tile.key_stride, tile.value_stride);
  tile.q = at, at += ((rows + 1) & ~1) * tile.key_stride;
  tile.out = at, at += rows * tile.value_stride;
  tile.weights = at, at += rows * BLOCK;
  tile.top = at, at += capacity;
  tile.total = at, at += capacity;
  tile.correction = at, at += capacity;
  tile.first = (int32_t *)at, at += capacity;
  tile.last = (int32_t *)at;
  return tile;
}

// Lane j: ((a_j)₀ + (a_j)₁) + ((a_j)₂ + (a_j)₃).
static inline v128_t sum4(v128_t a0, v128_t a1, v128_t a2, v128_t a3) {
  v128_t a = ADD(wasm_i32x4_shuffle(a0, a1, 0, 4, 2, 6), wasm_i32x4_shuffle(a0, a1, 1, 5, 3, 7));
  v128_t b = ADD(wasm_i32x4_shuffle(a2, a3, 0, 4, 2, 6), wasm_i32x4_shuffle(a2, a3, 1, 5, 3, 7));
  return ADD(wasm_i32x4_shuffle(a, b, 0, 1, 4, 5), wasm_i32x4_shuffle(a, b, 2, 3, 6, 7));
}

// Scores of `rows` (1 or 2) query rows of a pair against `fours` (1 or 2) times four keys.
static inline __attribute__((always_inline)) void dots(const float *q, const float *k, int32_t stride, v128_t scale, float *s,
                                                       const int32_t rows, const int32_t fours) {
  v128_t sums[2][8];
  for (int32_t r = 0; r < rows; r++)
    for (int32_t j = 0; j < 4 * fours; j++) sums[r][j] = SPLAT(0.0f);
  for (const float *end = q + 2 * stride; q < end; q += 8, k += 16) {
    v128_t x[2];
    for (int32_t r = 0; r < rows; r++) x[r] = load(q + 4 * r);
    for (int32_t j = 0; j < 4 * fours; j++) {
      v128_t key = load(k + (j / 4) * 4 * stride + (j % 4) * 4);
      for (int32_t r = 0; r < rows; r++) sums[r][j] = ADD(sums[r][j], MUL(x[r], key));
    }
  }
  for (int32_t r = 0; r < rows; r++)
    for (int32_t j = 0; j < 4 * fours; j += 4)
      store(s + r * BLOCK + j, MUL(scale, sum4(sums[r][j], sums[r][j + 1], sums[r][j + 2], sums[r][j + 3])));
}

static void score_block(const Tile *tile, int32_t keys, float scale) {
  v128_t factor = wasm_f32x4_splat(scale);
  int32_t stride = tile->key_stride, r = 0;
  for (; r + 2 <= tile->rows; r += 2)
    for (int32_t j = 0; j < keys; j += 4)
      dots(tile->q + r * stride, tile->block + j * stride, stride, factor, tile->weights + r * BLOCK + j, 2, 1);
  if (r == tile->rows) return;
  int32_t j = 0;
  for (; j + 4 < keys; j += 8)
    dots(tile->q + r * stride, tile->block + j * stride, stride, factor, tile->weights + r * BLOCK + j, 1, 2);
  for (; j < keys; j += 4)
    dots(tile->q + r * stride, tile->block + j * stride, stride, factor, tile->weights + r * BLOCK + j, 1, 1);
}

static inline v128_t largest4(v128_t x) {
  x = wasm_f32x4_pmax(x, wasm_i32x4_shuffle(x, x, 2, 3, 0, 1));
  return wasm_f32x4_pmax(x, wasm_i32x4_shuffle(x, x, 1, 0, 3, 2));
}

// Scores of row r become weights e^(score − top); outside its visible positions, up to BLOCK, they become 0. NaN passes through.
static void weigh_row(const Tile *tile, int32_t r, int32_t from, int32_t keys, float cap) {
  float *s = tile->weights + r * BLOCK;
  int32_t low = maximum(tile->first[r] - from, 0), high = minimum(tile->last[r] + 1 - from, keys);
  tile->correction[r] = 1.0f;
  if (low >= high) {
    for (int32_t j = 0; j < BLOCK; j += 4) store(s + j, SPLAT(0.0f));
    return;
  }
  if (cap > 0.0f) {
    v128_t caps = wasm_f32x4_splat(cap);
    for (int32_t j = 0; j < padded(keys); j += 4) store(s + j, MUL(caps, tanh4(DIV(load(s + j), caps))));
  }
  for (int32_t j = 0; j < low; j++) s[j] = -__builtin_inff();
  for (int32_t j = high; j < BLOCK; j++) s[j] = -__builtin_inff();
  v128_t before = wasm_f32x4_splat(tile->top[r]), best = before, sums = SPLAT(0.0f);
#pragma clang loop unroll(full)
  for (int32_t j = 0; j < BLOCK; j += 4) best = wasm_f32x4_pmax(best, load(s + j));
  best = largest4(best);
#pragma clang loop unroll(full)
  for (int32_t j = 0; j < BLOCK; j += 4) {
    v128_t weight = exp_falling4(SUB(load(s + j), best));
    store(s + j, weight);
    sums = ADD(sums, weight);
  }
  sums = ADD(sums, wasm_i32x4_shuffle(sums, sums, 2, 3, 0, 1));
  sums = ADD(sums, wasm_i32x4_shuffle(sums, sums, 1, 0, 3, 2));
  v128_t correction = exp_falling4(SUB(before, best));
  tile->top[r] = wasm_f32x4_extract_lane(best, 0);
  tile->total[r] = wasm_f32x4_extract_lane(ADD(MUL(wasm_f32x4_splat(tile->total[r]), correction), sums), 0);
  tile->correction[r] = wasm_f32x4_extract_lane(correction, 0);
}

// out = out · correction + weights · values for `rows` (1 or 2) rows and `vectors` (1 or 4) vectors of columns.
static inline __attribute__((always_inline)) void blend(const Tile *tile, int32_t r, int32_t c, int32_t keys, const int32_t rows,
                                                        const int32_t vectors) {
  int32_t stride = tile->value_stride;
  float *out = tile->out + r * stride + c;
  const float *weights = tile->weights + r * BLOCK;
  v128_t sums[2][4];
  for (int32_t i = 0; i < rows; i++) {
    v128_t correction = wasm_f32x4_splat(tile->correction[r + i]);
    for (int32_t j = 0; j < vectors; j++) sums[i][j] = MUL(load(out + i * stride + 4 * j), correction);
  }
  for (int32_t t = 0; t < keys; t++) {
    v128_t weight[2];
    for (int32_t i = 0; i < rows; i++) weight[i] = wasm_v128_load32_splat(weights + i * BLOCK + t);
    for (int32_t j = 0; j < vectors; j++) {
      v128_t value = load(tile->block + t * stride + c + 4 * j);
      for (int32_t i = 0; i < rows; i++) sums[i][j] = ADD(sums[i][j], MUL(weight[i], value));
    }
  }
  for (int32_t i = 0; i < rows; i++)
    for (int32_t j = 0; j < vectors; j++) store(out + i * stride + 4 * j, sums[i][j]);
}

static void blend_block(const Tile *tile, int32_t keys) {
  int32_t stride = tile->value_stride, c = 0;
  for (; c + 16 <= stride; c += 16) {
    int32_t r = 0;
    for (; r + 2 <= tile->rows; r += 2) blend(tile, r, c, keys, 2, 4);
    for (; r < tile->rows; r++) blend(tile, r, c, keys, 1, 4);
  }
  for (; c < stride; c += 4)
    for (int32_t r = 0; r < tile->rows; r++) blend(tile, r, c, keys, 1, 1);
}

// Tokens [t, t + count) of the run, all query heads of one key/value head.
static void attend(const AttentionCall *call, uint8_t *scratch, const Run *run, const int32_t *table, int32_t head, int32_t t, int32_t count) {
  const KvLayer *kv = &call->kv;
  int32_t group = call->heads / kv->kv_heads;
  Tile tile = lay_out(call, scratch, count * group);
  int32_t begin = INT32_MAX, end = 0;
  for (int32_t r = 0; r < tile.rows; r++) {
    uint32_t row = (uint32_t)(run->row + t + r / group);
    int32_t position = run->position + t + r / group;
    const float *q = call->q + (row * (uint32_t)call->heads + (uint32_t)(head * group + r % group)) * (uint32_t)kv->key_size;
    float *to = tile.q + (r & ~1) * tile.key_stride + (r & 1) * 4;
    int32_t full = kv->key_size & ~3;
    for (int32_t c = 0; c < full; c += 4) store(to + 2 * c, load(q + c));
    if (full < kv->key_size) store(to + 2 * full, load_tail(q + full, kv->key_size - full, 0.0f));
    for (int32_t c = 0; c < tile.value_stride; c++) tile.out[r * tile.value_stride + c] = 0.0f;
    tile.top[r] = -__builtin_inff();
    tile.total[r] = 0.0f;
    tile.first[r] = call->window > 0 ? maximum(position - call->window + 1, 0) : 0;
    tile.last[r] = call->causal ? position : run->position + run->count - 1;
    begin = minimum(begin, tile.first[r]);
    end = maximum(end, tile.last[r] + 1);
  }
  for (int32_t from = begin - begin % BLOCK; from < end; from += BLOCK) {
    int32_t keys = minimum(BLOCK, end - from);
    read_block(kv, table, head, begin, from, from + keys, 0, tile.block, tile.key_stride);
    score_block(&tile, keys, call->scale);
    for (int32_t r = 0; r < tile.rows; r++) weigh_row(&tile, r, from, keys, call->softcap);
    read_block(kv, table, head, begin, from, from + keys, 1, tile.block, tile.value_stride);
    blend_block(&tile, keys);
  }
  for (int32_t r = 0; r < tile.rows; r++) {
    uint32_t row = (uint32_t)(run->row + t + r / group);
    float *y = call->out + (row * (uint32_t)call->heads + (uint32_t)(head * group + r % group)) * (uint32_t)kv->value_size;
    const float *x = tile.out + r * tile.value_stride;
    for (int32_t c = 0; c < kv->value_size; c++) y[c] = x[c] / tile.total[r];
  }
}

int32_t attention_write(const AttentionCall *call, Part part) {
  const Batch *batch = call->batch;
  for (int32_t i = 0; i < batch->runs; i++) {
    const Run *run = &batch->run[i];
    if (!write_run(call, run, (const int32_t *)batch + run->table, share(part, run->count))) return 0;
  }
  return 1;
}

// Parts take turns at the tiles of all runs and heads, as later tokens see more.
void attention(const AttentionCall *call, Part part) {
  const Batch *batch = call->batch;
  int32_t group = call->heads / call->kv.kv_heads, tokens = tile_tokens(group), turn = 0;
  uint8_t *scratch = call->scratch + (uint32_t)part.thread * attention_scratch(call->heads, call->kv.kv_heads, call->kv.key_size, call->kv.value_size);
  for (int32_t i = 0; i < batch->runs; i++) {
    const Run *run = &batch->run[i];
    const int32_t *table = (const int32_t *)batch + run->table;
    for (int32_t h = 0; h < call->kv.kv_heads; h++)
      for (int32_t t = 0; t < run->count; t += tokens, turn++) {
        if (turn % part.count != part.index) continue;
        attend(call, scratch, run, table, h, t, minimum(tokens, run->count - t));
      }
  }
}
