// How an operation is divided: into parts, each a share of some units. Undivided, the only part is all.
#ifndef LOWBIT_PART_H
#define LOWBIT_PART_H

#include <stdint.h>

typedef struct {
  int32_t index;
  int32_t count;
  int32_t thread;  // that does it: which scratch memory is free
} Part;

typedef struct {
  int32_t from, to;
} Range;

// The part's share of `units` units, in order.
static inline Range share(Part part, int32_t units) {
  return (Range){(int32_t)((int64_t)units * part.index / part.count), (int32_t)((int64_t)units * (part.index + 1) / part.count)};
}

// Its share of n elements, in whole units of `unit`.
static inline Range share_of(Part part, int32_t n, int32_t unit) {
  Range range = share(part, (n + unit - 1) / unit);
  int32_t from = range.from * unit, to = range.to * unit;
  return (Range){from < n ? from : n, to < n ? to : n};
}

// Elements of element-wise operations are shared in units of this many, and so are the blocks of quantized activations and, for one token, rows of
// products: what one part of an operation wrote, the same part of the next may read in the same phase (`Sharing` in src/phases.ts counts on it).
enum { ELEMENTS = 32 };

#endif
