// Addresses as the host writes them, one 32-bit word each: bytes, or with 64-bit memory units of 16 bytes, which reach 64 GiB. Whatever they point
// to is aligned to 16 bytes.
#ifndef LOWBIT_ADDRESS_H
#define LOWBIT_ADDRESS_H

#include <stdint.h>

typedef uint32_t Address;

#ifdef __wasm64__
enum { ADDRESS_SHIFT = 4 };
#else
enum { ADDRESS_SHIFT = 0 };
#endif

#define AT(type, address) ((type)((uintptr_t)(address) << ADDRESS_SHIFT))

#endif
