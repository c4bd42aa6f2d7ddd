// Executes a recorded list. An entry is `op | words << 8` followed by its arguments, one 32-bit word each: integers, addresses or
// f32 bits, in the order that the cases below read them (src/ops.ts writes them); row ids and constants follow in place.
// Everything was checked when it was recorded.
#include "run.h"

#include "linear.h"
#include "ops.h"

enum {
  OP_COPY = 1,
  OP_EMBED,
  OP_QUANTIZE,
  OP_LINEAR,
  OP_EXPERT_LINEAR,
  OP_RMS_NORM,
  OP_LAYER_NORM,
  OP_ROPE,
  OP_ATTENTION_WRITE,
  OP_ADD,
  OP_MUL,
  OP_ACTIVATE,
  OP_GATE,
  OP_SCALE,
  OP_SOFTCAP,
  OP_SOFTMAX,
  OP_TOP_K,
  OP_COLUMNS,
  OP_GATHER_ROWS,
  OP_WEIGHTED_SUM,
  OP_NORMALIZE_ROWS,
  OP_PERMUTE_COLUMNS,
  OP_ATTENTION,
  OP_PHASE,  // run.h
};

typedef union {
  int32_t integer;
  uint32_t address;
  float real;
} Word;

#define INT(i) (a[i].integer)
#define REAL(i) (a[i].real)
#define POINTER(i) AT(void *, a[i].address)

// Each expert with its tokens as one linear call. Entry i of ids [n, k] reads row i / k of x, or row i if `spread`, and writes
// row i. `scratch`: (2·entries + experts + 1) words for each thread, which sort the entries for themselves.
static int32_t expert_linear(const Weight *weight, const float *x, const Activation *quantized, const int32_t *ids, int32_t n,
                             int32_t k, int32_t spread, float *y, int32_t *scratch, Part part) {
  int32_t entries = n * k;
  int32_t *ends = scratch + part.thread * (2 * entries + weight->experts + 1);
  int32_t *x_rows = ends + weight->experts + 1, *y_rows = x_rows + entries;
  for (int32_t e = 0; e <= weight->experts; e++) ends[e] = 0;
  for (int32_t i = 0; i < entries; i++) {
    if (ids[i] < 0 || ids[i] >= weight->experts) return 0;
    ends[ids[i] + 1]++;
  }
  for (int32_t e = 0; e < weight->experts; e++) ends[e + 1] += ends[e];
  // ends[e] is where expert e starts, and walks on to where it ends.
  for (int32_t i = 0; i < entries; i++) {
    int32_t slot = ends[ids[i]]++;
    x_rows[slot] = spread ? i : i / k;
    y_rows[slot] = i;
  }
  for (int32_t e = 0, from = 0; e < weight->experts; from = ends[e++]) {
    if (ends[e] == from) continue;
    LinearCall call = {.weight = weight,
                       .expert = e,
                       .row_to = weight->out,
                       .x = x,
                       .quantized = quantized,
                       .x_rows = x_rows + from,
                       .y_rows = y_rows + from,
                       .tokens = ends[e] - from,
                       .y = y,
                       .y_stride = weight->out};
    linear(&call, part);
  }
  return 1;
}

static void run_linear(const Word *a, Part part) {
  const Weight *weight = POINTER(0);
  LinearCall call = {.weight = weight,
                     .row_to = weight->out,
                     .x = POINTER(1),
                     .quantized = POINTER(2),
                     .tokens = INT(3),
                     .y = POINTER(4),
                     .y_stride = weight->out};
  linear(&call, part);
}

// KvLayer's fields in order, then the rest of AttentionCall in order.
static AttentionCall attention_call(const Word *a) {
  return (AttentionCall){
      .kv = {a[0].address, a[1].address, a[2].address, a[3].address, a[4].address, INT(5), INT(6), INT(7), INT(8), INT(9)},
      .q = POINTER(10),
      .k = POINTER(11),
      .v = POINTER(12),
      .out = POINTER(13),
      .batch = POINTER(14),
      .scratch = POINTER(15),
      .heads = INT(16),
      .scale = REAL(17),
      .softcap = REAL(18),
      .window = INT(19),
      .causal = INT(20)};
}

static void copy(const Word *a, Part part) {
  Range mine = share_of(part, (int32_t)a[1].address, ELEMENTS);
  if (mine.from < mine.to) __builtin_memcpy((int32_t *)POINTER(0) + mine.from, a + 2 + mine.from, (uint32_t)(mine.to - mine.from) * 4);
}

// A part of an entry. Returns 0 if it cannot run.
static int32_t run_entry(uint32_t op, const Word *a, Part part) {
  AttentionCall call;
  switch (op) {
    case OP_PHASE: return 1;
    case OP_COPY: copy(a, part); return 1;
    case OP_EMBED: embed_rows(POINTER(0), &INT(3), INT(2), POINTER(1), part); return 1;
    case OP_QUANTIZE: activation_quantize(POINTER(0), POINTER(1), INT(2), INT(3), INT(3), part); return 1;
    case OP_LINEAR: run_linear(a, part); return 1;
    case OP_EXPERT_LINEAR:
      return expert_linear(POINTER(0), POINTER(1), POINTER(2), POINTER(3), INT(4), INT(5), INT(6), POINTER(7), POINTER(8), part);
    case OP_RMS_NORM: rms_norm(POINTER(0), POINTER(1), POINTER(2), INT(3), INT(4), INT(5), REAL(6), part); return 1;
    case OP_LAYER_NORM:
      layer_norm(POINTER(0), POINTER(1), POINTER(2), POINTER(3), INT(4), INT(5), REAL(6), part);
      return 1;
    case OP_ROPE: rope(POINTER(0), POINTER(1), POINTER(2), INT(3), INT(4), INT(5), INT(6), INT(7), part); return 1;
    case OP_ATTENTION_WRITE: call = attention_call(a); return attention_write(&call, part);
    case OP_ATTENTION: call = attention_call(a); attention(&call, part); return 1;
    case OP_ADD: add(POINTER(0), POINTER(1), POINTER(2), INT(3), INT(4), INT(5), part); return 1;
    case OP_MUL: mul(POINTER(0), POINTER(1), POINTER(2), INT(3), INT(4), INT(5), part); return 1;
    case OP_ACTIVATE: activate(INT(0), POINTER(1), POINTER(2), INT(3), part); return 1;
    case OP_GATE: gate(INT(0), POINTER(1), POINTER(2), POINTER(3), INT(4), part); return 1;
    case OP_SCALE: scale(POINTER(0), POINTER(1), INT(2), REAL(3), part); return 1;
    case OP_SOFTCAP: softcap(POINTER(0), POINTER(1), INT(2), REAL(3), part); return 1;
    case OP_SOFTMAX: softmax(POINTER(0), POINTER(1), INT(2), INT(3), part); return 1;
    case OP_TOP_K: top_k(POINTER(0), INT(1), INT(2), INT(3), POINTER(4), POINTER(5), part); return 1;
    case OP_COLUMNS: columns_of(POINTER(0), POINTER(1), INT(2), INT(3), INT(4), INT(5), part); return 1;
    case OP_GATHER_ROWS: gather_rows(POINTER(0), &INT(4), POINTER(1), INT(3), INT(2), part); return 1;
    case OP_WEIGHTED_SUM: weighted_sum(POINTER(0), POINTER(1), POINTER(2), INT(3), INT(4), INT(5), part); return 1;
    case OP_NORMALIZE_ROWS: normalize_rows(POINTER(0), POINTER(1), INT(2), INT(3), part); return 1;
    case OP_PERMUTE_COLUMNS:
      permute_columns(POINTER(0), POINTER(1), POINTER(2), INT(3), INT(4), INT(5), INT(6), part);
      return 1;
    default: return 0;
  }
}

int32_t parts_at(const uint32_t *list, uint32_t at) { return (int32_t)list[at + 1]; }
uint32_t phase_after(const uint32_t *list, uint32_t at) { return list[at + 2]; }

uint32_t run_phase(const uint32_t *list, uint32_t at, Part part) {
  uint32_t failed = 0, end = phase_after(list, at);
  for (at += list[at] >> 8; at < end; at += list[at] >> 8) {
    if (!run_entry(list[at] & 255, (const Word *)(list + at + 1), part) && failed == 0) failed = at + 1;
  }
  return failed;
}

// Runs `words` words of list on one thread. Returns 0, or 1 + the position of the entry that failed.
EXPORT(run) uint32_t run(Address address, uint32_t words) {
  const uint32_t *list = AT(const uint32_t *, address);
  for (uint32_t at = 0; at < words; at += list[at] >> 8) {
    if (!run_entry(list[at] & 255, (const Word *)(list + at + 1), (Part){0, 1, 0})) return at + 1;
  }
  return 0;
}

EXPORT(attention_scratch_bytes)
uint32_t attention_scratch_bytes(int32_t heads, int32_t kv_heads, int32_t key_size, int32_t value_size) {
  return attention_scratch(heads, kv_heads, key_size, value_size);
}
