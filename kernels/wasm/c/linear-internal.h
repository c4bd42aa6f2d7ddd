// Between linear.c (the loops over tokens, rows and segments), its kernels and their generator (generate/).
#ifndef LOWBIT_LINEAR_INTERNAL_H
#define LOWBIT_LINEAR_INTERNAL_H

#include "activation.h"
#include "scales.h"

// A band, four quarters of four rows, is worked on at a time; so are at most this many tokens, so that their codes stay in the level-2 cache.
enum { QUARTERS = 4, BAND_ROWS = 16, STRIP_TOKENS = 64 };

// The tokens of a strip: rows of x and of the quantized x, already looked up.
typedef struct {
  int32_t tokens;
  const float *x[STRIP_TOKENS];
  uint32_t row[STRIP_TOKENS];
  const Activation *quantized;
} Strip;

// acc[4·t + r] += segment · x for token t and quarter r of the band.
void strip_packed(const Segment *segment, const uint8_t *band, const Strip *strip, v128_t *acc);
void strip_dense(const Segment *segment, const uint8_t *band, const Strip *strip, v128_t *acc);
void strip_lookup(const Segment *segment, const uint8_t *band, const Strip *strip, v128_t *acc);

// out[4·g + r] = scale of quarter r's rows for group g of the columns from `first` on, times `unit`. `subnormal`: of its f16 some may be so.
void expand(const Scale *scale, float unit, const uint8_t *super, const uint8_t *sub, int32_t first, int32_t groups, int32_t group,
            int32_t subnormal, v128_t *out);

// ---------------------------------------------------------------- generated kernels

enum { TILE_TOKENS = 4, TILE_QUARTERS = 2 };

// One token, or TILE_TOKENS, by four quarters; dense kernels of several tokens take TILE_QUARTERS. Pointers are to the first block, or column of dense kernels, whose x are f32.
typedef struct {
  const uint8_t *weights;             // of the first quarter; of all four a block (column) follows the other
  const v128_t *scales;               // [group][QUARTERS]
  const v128_t *constants;            // 16-bit lanes (−zero, 0); the operand table
  v128_t *acc;                        // [token][QUARTERS]
  intptr_t blocks;                    // at least 1
  const uint8_t *codes[TILE_TOKENS];  // of the plane and stride that the kernel reads
  const uint8_t *meta[TILE_TOKENS];
} TileCall;

typedef void (*Kernel)(const TileCall *call);

extern const Kernel packed_kernels[], dense_kernels[];

// One partial sum of f32 columns: `columns` of them, at most PARTIAL, from column `column` of x on. A column's 16 rows lie together, its quarters
// `quarter_bytes` apart.
enum { PARTIAL = 256 };
void partial_dense(const Kernel *kernel, const uint8_t *weights, uint32_t quarter_bytes, const Strip *strip, int32_t column, int32_t columns,
                   v128_t *acc);

#endif
