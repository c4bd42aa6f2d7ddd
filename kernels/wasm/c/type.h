// What a quantization type compiles to: written by src/type-info.ts from core's QuantPlan, once per type. All fields are 32-bit words;
// where an address may be 0, there is no such thing.
#ifndef LOWBIT_TYPE_H
#define LOWBIT_TYPE_H

#include <stdint.h>

#include "address.h"

// Where the values of a bit field lie in a block. `positions` are bit numbers, one per value.
typedef struct {
  Address positions;  // uint16_t
  int32_t bits;       // 1 to 32
  int32_t shift;      // of the piece in the value
  Address runs;       // uint8_t: how each 16 values in a row lie: RUN_ANY, RUN_BYTES, RUN_BITS
} Piece;

// RUN_BYTES: in as many consecutive bytes, at the same place of each. RUN_BITS: single bits, one after the other, from a byte's lowest on.
enum { RUN_ANY = 0, RUN_BYTES = 1, RUN_BITS = 2 };

typedef struct {
  int32_t per;  // weights that share a value
  int32_t count;
  int32_t bits;
  int32_t is_signed;
  int32_t pieces;
  Piece piece[];
} Field;

static inline const Field *field_at(Address address) { return AT(const Field *, address); }

enum { SCALE_NONE = 0, SCALE_F32 = 1, SCALE_F16 = 2, SCALE_BF16 = 3, SCALE_TABLE = 4 };
enum { SUB_NONE = 0, SUB_UNSIGNED = 1, SUB_SIGNED = 2 };

// super · (sub + offset) · multiplier; an absent super or sub counts as 1. In a chunk the super of row r and index i is item 16i + r
// of its plane (items of 4, 2, 2 or 1 bytes by format), the sub likewise (bytes).
typedef struct {
  int32_t format;
  int32_t super_per;
  int32_t sub;
  int32_t sub_per;
  float offset;
  float multiplier;
  Address table;        // float, SCALE_TABLE: the values of the 256 bytes
  Address super_field;  // Field
  Address sub_field;
} Scale;

// How the planes hold a weight. The dot product sees `operand(code) − zero`, times `unit` the value before scaling.
enum {
  CODES = 0,         // operand = code, 1 to 6 bits
  TABLE = 1,         // operand = table[code], 0..127; 1 to 4 bits
  SIGNED_TABLE = 2,  // operand = table[code], signed; 4 bits
  BYTES = 3,         // operand = the signed byte itself
  FLOATS = 4,        // value = floats[code]; 1 to 4 bits, or 8
};

// FLOATS of 8 bits whose finite codes stand for numbers of such a format.
enum { ANY_FLOATS = 0, E4M3 = 1, E5M2 = 2 };

// What its weights are rounded to at the end.
enum { ROUND_NONE = 0, ROUND_F16 = 1, ROUND_BF16 = 2 };

// What a type has besides scales. ZERO: min describes the zero points, w = scale · (level − Z); its super-scales are the scale's own and lie where
// those do, so that scale · Z is an ordinary min. ZERO_FLOAT: zero points are numbers, and planes hold scale · Z.
enum { NO_MIN = 0, MIN = 1, ZERO = 2, ZERO_FLOAT = 3 };

typedef struct TypeInfo {
  int32_t mode;
  int32_t width;  // bits of a code in the planes: 1 to 6, 8
  int32_t group;  // columns per scale as the kernels see it: 16 or 32
  int32_t zero;
  float unit;
  int32_t has_min;
  Scale scale;
  Scale min;
  int8_t table[16];
  int32_t round;  // of embedded rows; products leave it out
  // For packing only:
  int32_t block;
  int32_t block_bytes;
  Address code;            // Field; 0: TypeScript unpacks the codes
  int32_t code_bias;       // added to signed codes
  Address index;           // uint8_t, books: level by variant, entry and position; 0 if the code is the level
  int32_t index_stride;    // entries · dimension
  int32_t dimension;
  Address sign;            // Field
  int32_t parity;
  Address delta;           // Field
  Address stored;          // uint8_t: the byte stored for each level; 0: the level
  int32_t moved;           // not 0: what is stored is the level less this
  Address floats;          // float, FLOATS: value of each code; 16 or 256
  int32_t form;            // FLOATS: of their values
  int32_t zero_format;     // ZERO_FLOAT: how the file holds the zero points
} TypeInfo;

#endif
