#include "ops.h"

#include "math.h"

static inline v128_t load(const float *x) { return wasm_v128_load(x); }
static inline void store(float *y, v128_t value) { wasm_v128_store(y, value); }

// ---------------------------------------------------------------- norms

// Σ x or Σ (x − mean)² in f64: two accumulators of two lanes, then the tail.
static double sum(const float *x, int32_t n) {
  v128_t low = wasm_f64x2_splat(0), high = low;
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) {
    low = wasm_f64x2_add(low, low_f64(load(x + i)));
    high = wasm_f64x2_add(high, high_f64(load(x + i)));
  }
  double total = sum_f64x2(wasm_f64x2_add(low, high));
  for (; i < n; i++) total += x[i];
  return total;
}

static double sum_squares(const float *x, int32_t n, double mean) {
  v128_t low = wasm_f64x2_splat(0), high = low, center = wasm_f64x2_splat(mean);
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) {
    v128_t a = wasm_f64x2_sub(low_f64(load(x + i)), center);
    v128_t b = wasm_f64x2_sub(high_f64(load(x + i)), center);
    low = wasm_f64x2_add(low, wasm_f64x2_mul(a, a));
    high = wasm_f64x2_add(high, wasm_f64x2_mul(b, b));
  }
  double total = sum_f64x2(wasm_f64x2_add(low, high));
  for (; i < n; i++) total += (x[i] - mean) * (x[i] - mean);
  return total;
}

// One group: columns [at, to) of its result.
static void rms_norm_group(const float *x, const float *weight, float *y, int32_t group, float epsilon, Range columns) {
  float factor = (float)(1.0 / __builtin_sqrt(sum_squares(x, group, 0.0) / group + epsilon));
  v128_t factors = wasm_f32x4_splat(factor);
  int32_t i = columns.from, to = columns.to;
  if (weight) {
    for (; i + 4 <= to; i += 4) store(y + i, MUL(MUL(load(x + i), factors), load(weight + i)));
    for (; i < to; i++) y[i] = x[i] * factor * weight[i];
  } else {
    for (; i + 4 <= to; i += 4) store(y + i, MUL(load(x + i), factors));
    for (; i < to; i++) y[i] = x[i] * factor;
  }
}

void rms_norm(const float *x, const float *weight, float *y, int32_t rows, int32_t columns, int32_t group, float epsilon, Part part) {
  int32_t groups = rows * (columns / group);
  // Of a single row each part works out the sum for itself.
  if (groups == 1) {
    Range range = share_of(part, group, ELEMENTS);
    if (range.from < range.to) rms_norm_group(x, weight, y, group, epsilon, range);
    return;
  }
  Range mine = share(part, groups);
  for (int32_t g = mine.from; g < mine.to; g++) {
    uint32_t at = (uint32_t)g * (uint32_t)group;
    rms_norm_group(x + at, weight, y + at, group, epsilon, (Range){0, group});
  }
}

void layer_norm(const float *x, const float *weight, const float *bias, float *y, int32_t rows, int32_t columns, float epsilon, Part part) {
  Range mine = share(part, rows), all = {0, columns};
  if (rows == 1) {
    mine = (Range){0, 1};
    all = share_of(part, columns, ELEMENTS);
  }
  for (int32_t r = mine.from; r < mine.to; r++) {
    const float *from = x + (uint32_t)r * (uint32_t)columns;
    float *to = y + (uint32_t)r * (uint32_t)columns;
    double mean = sum(from, columns) / columns;
    float factor = (float)(1.0 / __builtin_sqrt(sum_squares(from, columns, mean) / columns + epsilon));
    float center = (float)mean;
    v128_t factors = wasm_f32x4_splat(factor), centers = wasm_f32x4_splat(center);
    int32_t i = all.from;
    for (; i + 4 <= all.to; i += 4) {
      v128_t value = MUL(MUL(SUB(load(from + i), centers), factors), load(weight + i));
      store(to + i, bias ? ADD(value, load(bias + i)) : value);
    }
    for (; i < all.to; i++) {
      float value = (from[i] - center) * factor * weight[i];
      to[i] = bias ? value + bias[i] : value;
    }
  }
}

// ---------------------------------------------------------------- rope

static void rotate_adjacent(const float *x, const float *angles, float *y, int32_t dimensions) {
  int32_t i = 0;
  for (; i + 4 <= dimensions; i += 4) {
    v128_t pairs = load(x + i), turn = load(angles + i);
    v128_t cosine = wasm_i32x4_shuffle(turn, turn, 0, 0, 2, 2);
    v128_t sine = wasm_i32x4_shuffle(turn, turn, 1, 1, 3, 3);
    v128_t swapped = wasm_i32x4_shuffle(pairs, pairs, 1, 0, 3, 2);
    // (a, b) → (a·cos − b·sin, b·cos + a·sin): the sine's sign flips in the even lanes.
    sine = wasm_v128_xor(sine, wasm_i32x4_const((int32_t)0x80000000, 0, (int32_t)0x80000000, 0));
    store(y + i, ADD(MUL(pairs, cosine), MUL(swapped, sine)));
  }
  for (; i < dimensions; i += 2) {
    float a = x[i], b = x[i + 1], cosine = angles[i], sine = angles[i + 1];
    y[i] = a * cosine - b * sine;
    y[i + 1] = b * cosine + a * sine;
  }
}

static void rotate_halves(const float *x, const float *angles, float *y, int32_t dimensions) {
  int32_t half = dimensions / 2, i = 0;
  for (; i + 4 <= half; i += 4) {
    v128_t first = load(angles + 2 * i), second = load(angles + 2 * i + 4);
    v128_t cosine = wasm_i32x4_shuffle(first, second, 0, 2, 4, 6);
    v128_t sine = wasm_i32x4_shuffle(first, second, 1, 3, 5, 7);
    v128_t a = load(x + i), b = load(x + half + i);
    store(y + i, SUB(MUL(a, cosine), MUL(b, sine)));
    store(y + half + i, ADD(MUL(b, cosine), MUL(a, sine)));
  }
  for (; i < half; i++) {
    float a = x[i], b = x[half + i], cosine = angles[2 * i], sine = angles[2 * i + 1];
    y[i] = a * cosine - b * sine;
    y[half + i] = b * cosine + a * sine;
  }
}

void rope(const float *x, const float *angles, float *y, int32_t rows, int32_t heads, int32_t head_size, int32_t dimensions,
          int32_t halves, Part part) {
  Range mine = share(part, rows * heads);
  for (int32_t i = mine.from; i < mine.to; i++) {
    const float *from = x + (uint32_t)i * (uint32_t)head_size, *turns = angles + (uint32_t)(i / heads) * (uint32_t)dimensions;
    float *to = y + (uint32_t)i * (uint32_t)head_size;
    if (halves) {
      rotate_halves(from, turns, to, dimensions);
    } else {
      rotate_adjacent(from, turns, to, dimensions);
    }
    __builtin_memcpy(to + dimensions, from + dimensions, (uint32_t)(head_size - dimensions) * 4);
  }
}

// ---------------------------------------------------------------- element-wise

// Loops over the whole tensor as one array, or row by row against one repeated row.
#define BINARY(name, VECTOR, OPERATOR)                                                                                \
  void name(const float *x, const float *y, float *z, int32_t rows, int32_t columns, int32_t repeat, Part part) {     \
    if (!repeat) {                                                                                                    \
      Range mine = share_of(part, rows * columns, ELEMENTS);                                                          \
      for (int32_t i = mine.from; i < mine.to; i += 4) store(z + i, VECTOR(load(x + i), load(y + i)));                \
      return;                                                                                                         \
    }                                                                                                                 \
    Range mine = share(part, rows);                                                                                   \
    x += (uint32_t)mine.from * (uint32_t)columns;                                                                     \
    z += (uint32_t)mine.from * (uint32_t)columns;                                                                     \
    for (int32_t r = mine.from; r < mine.to; r++, x += columns, z += columns) {                                       \
      int32_t i = 0;                                                                                                  \
      for (; i + 4 <= columns; i += 4) store(z + i, VECTOR(load(x + i), load(y + i)));                                \
      for (; i < columns; i++) z[i] = x[i] OPERATOR y[i];                                                             \
    }                                                                                                                 \
  }

BINARY(add, ADD, +)
BINARY(mul, MUL, *)

static inline v128_t relu4(v128_t x) { return wasm_f32x4_pmax(x, SPLAT(0.0f)); }
static inline v128_t relu_squared4(v128_t x) { return MUL(relu4(x), relu4(x)); }

#define EACH(FUNCTION)                                                                \
  for (int32_t i = mine.from; i < mine.to; i += 4) {                                  \
    v128_t value = FUNCTION(load(x + i));                                             \
    store(y + i, up ? MUL(value, load(up + i)) : value);                              \
  }                                                                                   \
  break

static inline __attribute__((always_inline)) void activate_and(int32_t kind, const float *x, const float *up, float *y,
                                                               int32_t count, Part part) {
  Range mine = share_of(part, count, ELEMENTS);
  switch (kind) {
    case SILU: EACH(silu4);
    case GELU: EACH(gelu4);
    case GELU_TANH: EACH(gelu_tanh4);
    case RELU: EACH(relu4);
    case RELU_SQUARED: EACH(relu_squared4);
    case SIGMOID: EACH(sigmoid4);
  }
}

void activate(int32_t kind, const float *x, float *y, int32_t count, Part part) { activate_and(kind, x, 0, y, count, part); }

void gate(int32_t kind, const float *x, const float *up, float *y, int32_t count, Part part) { activate_and(kind, x, up, y, count, part); }

void scale(const float *x, float *y, int32_t count, float factor, Part part) {
  Range mine = share_of(part, count, ELEMENTS);
  v128_t factors = wasm_f32x4_splat(factor);
  for (int32_t i = mine.from; i < mine.to; i += 4) store(y + i, MUL(load(x + i), factors));
}

void softcap(const float *x, float *y, int32_t count, float cap, Part part) {
  Range mine = share_of(part, count, ELEMENTS);
  v128_t caps = wasm_f32x4_splat(cap);
  for (int32_t i = mine.from; i < mine.to; i += 4) store(y + i, MUL(caps, tanh4(DIV(load(x + i), caps))));
}

// ---------------------------------------------------------------- rows

static float largest(const float *x, int32_t n) {
  v128_t best = SPLAT(-__builtin_inff());
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) best = wasm_f32x4_pmax(best, load(x + i));
  best = wasm_f32x4_pmax(best, wasm_i32x4_shuffle(best, best, 2, 3, 0, 1));
  best = wasm_f32x4_pmax(best, wasm_i32x4_shuffle(best, best, 1, 0, 3, 2));
  float result = wasm_f32x4_extract_lane(best, 0);
  for (; i < n; i++) result = x[i] > result ? x[i] : result;
  return result;
}

static void divide(const float *x, float *y, int32_t n, float by) {
  v128_t divisor = wasm_f32x4_splat(by);
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) store(y + i, DIV(load(x + i), divisor));
  for (; i < n; i++) y[i] = x[i] / by;
}

void softmax(const float *x, float *y, int32_t rows, int32_t columns, Part part) {
  Range mine = share(part, rows);
  x += (uint32_t)mine.from * (uint32_t)columns;
  y += (uint32_t)mine.from * (uint32_t)columns;
  for (int32_t r = mine.from; r < mine.to; r++, x += columns, y += columns) {
    v128_t top = wasm_f32x4_splat(largest(x, columns));
    int32_t i = 0;
    for (; i + 4 <= columns; i += 4) store(y + i, exp4(SUB(load(x + i), top)));
    if (i < columns) store_tail(y + i, columns - i, exp4(SUB(load_tail(x + i, columns - i, 0.0f), top)));
    divide(y, y, columns, (float)sum(y, columns));
  }
}

void normalize_rows(const float *x, float *y, int32_t rows, int32_t columns, Part part) {
  Range mine = share(part, rows);
  x += (uint32_t)mine.from * (uint32_t)columns;
  y += (uint32_t)mine.from * (uint32_t)columns;
  for (int32_t r = mine.from; r < mine.to; r++, x += columns, y += columns) divide(x, y, columns, (float)sum(x, columns));
}

// Is entry a after entry b: smaller, or equal and further right?
static inline int after(float a, int32_t a_id, float b, int32_t b_id) { return a < b || (a == b && a_id > b_id); }

// Moves the entry at `at` down a heap whose root is the last entry in the order of `after`.
static void sift(float *values, int32_t *ids, int32_t count, int32_t at) {
  float value = values[at];
  int32_t id = ids[at];
  for (;;) {
    int32_t child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && after(values[child + 1], ids[child + 1], values[child], ids[child])) child++;
    if (!after(values[child], ids[child], value, id)) break;
    values[at] = values[child];
    ids[at] = ids[child];
    at = child;
  }
  values[at] = value;
  ids[at] = id;
}

static inline float number(float x) { return x == x ? x : -__builtin_inff(); }

void top_k(const float *x, int32_t rows, int32_t columns, int32_t k, int32_t *ids, float *values, Part part) {
  Range mine = share(part, rows);
  x += (uint32_t)mine.from * (uint32_t)columns;
  ids += (uint32_t)mine.from * (uint32_t)k;
  values += (uint32_t)mine.from * (uint32_t)k;
  for (int32_t r = mine.from; r < mine.to; r++, x += columns, ids += k, values += k) {
    for (int32_t i = 0; i < k; i++) {
      values[i] = number(x[i]);
      ids[i] = i;
    }
    for (int32_t i = k / 2 - 1; i >= 0; i--) sift(values, ids, k, i);
    for (int32_t i = k; i < columns; i++) {
      // Four at a time while none is above the smallest kept: later columns lose ties.
      v128_t floor = wasm_f32x4_splat(values[0]);
      while (i + 4 <= columns && !wasm_v128_any_true(wasm_f32x4_gt(load(x + i), floor))) i += 4;
      if (i >= columns) break;
      if (!(x[i] > values[0])) continue;
      values[0] = x[i];
      ids[0] = i;
      sift(values, ids, k, 0);
    }
    for (int32_t last = k - 1; last > 0; last--) {
      float value = values[0];
      int32_t id = ids[0];
      values[0] = values[last];
      ids[0] = ids[last];
      values[last] = value;
      ids[last] = id;
      sift(values, ids, last, 0);
    }
  }
}

void columns_of(const float *x, float *y, int32_t rows, int32_t columns, int32_t from, int32_t count, Part part) {
  Range mine = share(part, rows);
  for (int32_t r = mine.from; r < mine.to; r++) {
    __builtin_memcpy(y + (uint32_t)r * (uint32_t)count, x + (uint32_t)r * (uint32_t)columns + from, (uint32_t)count * 4);
  }
}

void permute_columns(const float *x, const int32_t *order, float *y, int32_t rows, int32_t columns, int32_t count, int32_t scatter, Part part) {
  Range mine = share(part, rows);
  x += (uint32_t)mine.from * (uint32_t)(scatter ? count : columns);
  y += (uint32_t)mine.from * (uint32_t)(scatter ? columns : count);
  for (int32_t r = mine.from; r < mine.to; r++) {
    if (scatter) {
      for (int32_t j = 0; j < count; j++) {
        if (order[j] >= 0) y[order[j]] = x[j];
      }
      x += count;
      y += columns;
    } else {
      for (int32_t j = 0; j < count; j++) y[j] = order[j] >= 0 ? x[order[j]] : 0.0f;
      x += columns;
      y += count;
    }
  }
}

void gather_rows(const float *x, const int32_t *ids, float *y, int32_t count, int32_t columns, Part part) {
  Range mine = share(part, count);
  for (int32_t i = mine.from; i < mine.to; i++) {
    __builtin_memcpy(y + (uint32_t)i * (uint32_t)columns, x + (uint32_t)ids[i] * (uint32_t)columns, (uint32_t)columns * 4);
  }
}

void weighted_sum(const float *y, const float *weights, float *z, int32_t n, int32_t k, int32_t columns, Part part) {
  Range mine = share(part, n);
  y += (uint32_t)mine.from * (uint32_t)k * (uint32_t)columns;
  weights += (uint32_t)mine.from * (uint32_t)k;
  z += (uint32_t)mine.from * (uint32_t)columns;
  for (int32_t r = mine.from; r < mine.to; r++, y += (uint32_t)k * (uint32_t)columns, weights += k, z += columns) {
    int32_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      v128_t total = SPLAT(0.0f);
      for (int32_t j = 0; j < k; j++) {
        total = ADD(total, MUL(wasm_f32x4_splat(weights[j]), load(y + (uint32_t)j * (uint32_t)columns + c)));
      }
      store(z + c, total);
    }
    for (; c < columns; c++) {
      float total = 0.0f;
      for (int32_t j = 0; j < k; j++) total += weights[j] * y[(uint32_t)j * (uint32_t)columns + c];
      z[c] = total;
    }
  }
}
