// Linear weights in linear memory: the structs that TypeScript writes (src/weights.ts) and the calls on them.
// Every field that it writes is one 32-bit word.
#ifndef LOWBIT_LINEAR_H
#define LOWBIT_LINEAR_H

#include <stdint.h>
#include <wasm_simd128.h>

#include "address.h"
#include "part.h"

#define EXPORT(name) __attribute__((export_name(#name)))

// ---------------------------------------------------------------- activations

// A row of f32 is quantized once per 32 columns to int8: scale = max|x| / 127, q = x · (127 / max|x|) rounded half to even, −127 to 127.
// Blocks are padded with zeros past the last column. Block b of token r is number i = r · stride + b; of it there are
//   meta + 32·i   f32 scale; i32 Σq of columns 0..15, of 16..31, of all; f32 scale · Σq; then, with wide dots, the same three sums of max(−q, 0)
//   codes + 32·i  int8 q[32]; relaxed build only
//   split + 64·i  relaxed build with wide dots: int8 max(q,0)[32], max(−q,0)[32]
//                 else int16 q[32], each four columns k..k+3 in the order k, k+2, k+1, k+3
typedef struct {
  int32_t rows;
  int32_t columns;
  int32_t stride;  // ⌈columns / 32⌉ and a few, so that the rows of a tile do not fall on the same cache sets
  uint8_t *meta;
  uint8_t *codes;
  uint8_t *split;
} Activation;

// Bytes of an Activation, header included, for `rows` rows: the caller allocates them, 16-byte aligned. At most
// rows · (⌈columns/32⌉ + 5) · 128 + 64: TypeScript has the formula (activationBytes in src/weights.ts).
uint32_t activation_bytes(int32_t rows, int32_t columns);

// Lays the header and arrays out in `memory` and quantizes x [rows, columns], rows `stride` floats apart. A row with a NaN or an
// infinity gives a block with scale NaN (its products are then NaN, as in f32).
void activation_quantize(void *memory, const float *x, int32_t rows, int32_t columns, int32_t stride, Part part);

// Relaxed build: 1 if its four-way dot product is one instruction on this machine (VNNI, SDOT), else 0; TypeScript measures. Results do not
// depend on it. To be set before the first activation_quantize; 1 at first.
void prefer_wide(int32_t wide);

// ---------------------------------------------------------------- weights

// PACKED: integer dot products with the quantized activation. LOOKUP: the same planes, but codes stand for f32 values: decoded, a band by
// 256 columns at a time, for f32 products.
enum { DENSE_F32 = 0, DENSE_F16 = 1, DENSE_BF16 = 2, PACKED = 3, LOOKUP = 4 };

struct TypeInfo;  // type.h: what a quantization type compiles to

// Columns [from, from + columns) of a weight; those of planes are multiples of 32, and where the file's columns are fewer the rest is to meet
// zeros. Rows lie in bands of 16 (padded with zeros), and a band of planes in chunks of `chunk` columns, each its scales and then its codes, so
// that a product reads memory in one rising stream, which processors fetch ahead. A chunk takes `chunk_bytes`, the last one perhaps less, a band
// `band_bytes`; both are multiples of 64. The bands of expert e begin at data + e · bands · band_bytes.
typedef struct {
  int32_t kind;
  int32_t from;
  int32_t columns;
  uint32_t band_bytes;
  Address data;                 // bytes
  Address type;                 // TypeInfo, PACKED, LOOKUP
  uint32_t super_at;            // byte offsets in a chunk; unused ones are 0
  uint32_t sub_at;
  uint32_t min_super_at;
  uint32_t min_sub_at;
  uint32_t codes_at;
  int32_t flags;
  int32_t chunk;
  uint32_t chunk_bytes;
  int32_t reserved[2];          // segments are aligned to 16 bytes
} Segment;

// SEGMENT_ADDS: it overlaps an earlier one, so that embed must add. SEGMENT_SUBNORMAL: some f16 super-scale is subnormal or 0 (the packer sets it).
enum { SEGMENT_ADDS = 1, SEGMENT_SUBNORMAL = 2 };

enum { WEIGHT_QUANTIZES = 1, WEIGHT_GAPS = 2 };

typedef struct {
  int32_t out;      // rows of one expert
  int32_t in;       // columns of x as the kernels are given it: in the order that the weight wants, with zeros between segments
  int32_t experts;
  int32_t bands;    // ⌈out / 16⌉
  Address bias;     // float [experts · out] or 0
  int32_t flags;    // WEIGHT_QUANTIZES: some segment is packed, so linear() needs the Activation; WEIGHT_GAPS: columns that no segment covers
  int32_t segments;
  Address row_scale;  // float [experts · out], multiplies before the bias; or 0
  Segment segment[];
} Weight;

// ---------------------------------------------------------------- calls

// y[t] = W[expert] · x[t] (+ bias) for `tokens` tokens and the rows [row_from, row_to) of the expert.
typedef struct {
  const Weight *weight;
  int32_t expert;         // 0 for plain weights
  int32_t row_from;       // a multiple of 16
  int32_t row_to;         // a multiple of 16, or weight->out
  const float *x;         // [·, in], contiguous rows
  const Activation *quantized;  // of the same x; may be 0 unless WEIGHT_QUANTIZES
  const int32_t *x_rows;  // row of x that token t reads; 0: t
  const int32_t *y_rows;  // row of y that token t writes; 0: t
  int32_t tokens;
  float *y;               // [·, out]
  int32_t y_stride;       // floats from one row of y to the next, normally weight->out
} LinearCall;

// Overwrites y. Sums run in a fixed order that depends on neither the build, `tokens`, the row range nor the parts, which share the rows: 32 at
// a time, as ELEMENTS says.
void linear(const LinearCall *call, Part part);

// Rows ids[0..count) of the weight, shared by rows (experts count as one tall matrix), decoded exactly, to y [count, in]. Ids are in range.
void embed_rows(const Weight *weight, const int32_t *ids, int32_t count, float *y, Part part);

#endif
