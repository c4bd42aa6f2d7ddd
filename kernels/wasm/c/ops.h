// The operations besides linear (linear.h). Matrices are row-major f32; every tensor's memory is a multiple of 16 bytes, so
// element-wise loops may run over the last vector's unused lanes. Sizes are positive and were checked when recorded. Each
// does its part: of one row's norm, and of element-wise operations, units of ELEMENTS; else rows (heads, groups, ids).
#ifndef LOWBIT_OPS_H
#define LOWBIT_OPS_H

#include "address.h"
#include "part.h"

// ---------------------------------------------------------------- ops.c

enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3, RELU_SQUARED = 4, SIGMOID = 5 };

// y = x / √(mean(x²) + epsilon) · weight, over each `group` columns; weight [group] or 0.
void rms_norm(const float *x, const float *weight, float *y, int32_t rows, int32_t columns, int32_t group, float epsilon, Part part);

// y = (x − mean) / √(variance + epsilon) · weight + bias; bias [columns] or 0.
void layer_norm(const float *x, const float *weight, const float *bias, float *y, int32_t rows, int32_t columns, float epsilon, Part part);

// Rotates the leading `dimensions` of each head; angles [rows, dimensions] holds (cos, sin) pairs. `halves`: dimension i pairs
// with i + dimensions/2, else 2i with 2i + 1.
void rope(const float *x, const float *angles, float *y, int32_t rows, int32_t heads, int32_t head_size, int32_t dimensions,
          int32_t halves, Part part);

// `repeat`: y is one row, added to (multiplied into) each row of x.
void add(const float *x, const float *y, float *z, int32_t rows, int32_t columns, int32_t repeat, Part part);
void mul(const float *x, const float *y, float *z, int32_t rows, int32_t columns, int32_t repeat, Part part);

void activate(int32_t kind, const float *x, float *y, int32_t count, Part part);
// activate(x) · up
void gate(int32_t kind, const float *x, const float *up, float *y, int32_t count, Part part);
void scale(const float *x, float *y, int32_t count, float factor, Part part);
// cap · tanh(x / cap)
void softcap(const float *x, float *y, int32_t count, float cap, Part part);
void softmax(const float *x, float *y, int32_t rows, int32_t columns, Part part);
void normalize_rows(const float *x, float *y, int32_t rows, int32_t columns, Part part);

// The k largest of each row, falling, ties to the lower column. NaN counts as −∞.
void top_k(const float *x, int32_t rows, int32_t columns, int32_t k, int32_t *ids, float *values, Part part);

// `count` columns from `from` on.
void columns_of(const float *x, float *y, int32_t rows, int32_t columns, int32_t from, int32_t count, Part part);
// order [count]: columns of x [rows, columns], each once, or −1. y[r][j] = x[r][order[j]], or 0; `scatter`: x is [rows, count], y[r][order[j]] = x[r][j].
void permute_columns(const float *x, const int32_t *order, float *y, int32_t rows, int32_t columns, int32_t count, int32_t scatter, Part part);
void gather_rows(const float *x, const int32_t *ids, float *y, int32_t count, int32_t columns, Part part);
// y [n·k, columns], weights [n, k]: z[r] = Σ_j weights[r, j] · y[r·k + j].
void weighted_sum(const float *y, const float *weights, float *z, int32_t n, int32_t k, int32_t columns, Part part);

// ---------------------------------------------------------------- attention.c

enum { KV_F32 = 0, KV_F16 = 1, KV_Q8_0 = 2 };

// One layer's part of the key/value cache: `page_bytes` from one page to the next. In a page, keys come first, values at
// `values_at`; each is [kv_heads][page_tokens][size] elements. q8_0: int8 codes so ordered, then at `key_scales_at`
// (`value_scales_at`) the f16 scales, [kv_heads][page_tokens][size / 32].
typedef struct {
  Address data;
  uint32_t page_bytes;
  uint32_t values_at;
  uint32_t key_scales_at;
  uint32_t value_scales_at;
  int32_t page_shift;  // log2(page_tokens)
  int32_t kv_heads;
  int32_t key_size;
  int32_t value_size;
  int32_t type;
} KvLayer;

// Consecutive tokens of one sequence: rows [row, row + count) of q, k, v at positions [position, position + count).
typedef struct {
  int32_t row;
  int32_t count;
  int32_t position;
  int32_t table;  // words from the start of the batch to the sequence's page table
} Run;

typedef struct {
  int32_t runs;
  Run run[];
} Batch;

typedef struct {
  KvLayer kv;
  const float *q;  // [n, heads · key_size]
  const float *k;  // [n, kv_heads · key_size]
  const float *v;  // [n, kv_heads · value_size]
  float *out;      // [n, heads · value_size]
  const Batch *batch;
  uint8_t *scratch;  // attention_scratch bytes for each thread
  int32_t heads;
  float scale;
  float softcap;   // 0: none
  int32_t window;  // 0: all earlier positions
  int32_t causal;  // 0: later positions of the same batch too
} AttentionCall;

// Of each thread.
uint32_t attention_scratch(int32_t heads, int32_t kv_heads, int32_t key_size, int32_t value_size);

// Stores k and v. Returns 1, or 0 if a key or value is not finite or too large for the cache's type.
int32_t attention_write(const AttentionCall *call, Part part);
// Attends, once all of k and v are stored.
void attention(const AttentionCall *call, Part part);

#endif
