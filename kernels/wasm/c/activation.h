// Planes of quantized activations (linear.h) as quantize.c writes and the kernels read them.
#ifndef LOWBIT_ACTIVATION_H
#define LOWBIT_ACTIVATION_H

#include "linear.h"

enum { META_BYTES = 32, SPLIT_BYTES = 64 };
#ifdef __wasm_relaxed_simd__
enum { CODE_BYTES = 32 };
#else
enum { CODE_BYTES = 0 };
#endif

extern int32_t wide_dots;

#endif
