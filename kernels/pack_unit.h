// How the codes of a unit, one a byte, become a row's share of a packed unit. Private to kernels/.
#pragma once

#include "kernels/formats/block_layout.h"
#include "kernels/pack_group.h"

namespace hotset {

struct CodedForm;

// Of coded_rows.cc: what the integers of a float table in two planes are multiples of, and the
// factor of a row with this scale and factor of its own.
float table_unit(const CodedForm& form);
float row_factor(const CodedForm& form, float scale, float factor);

// Vectors of the compiler (g++ and clang), not of an instruction set: with plain loops over 32-bit
// words the 5-, 6- and 2-bit types packed at half the speed or less (measured with g++ 12 -O3).
using Words = uint32_t __attribute__((vector_size(16)));
using Quads = uint64_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));

// The codes of 32 inputs of one row, one a byte in the inputs' order.
struct Codes {
  Words first, second;  // inputs 0..15, 16..31
};

inline Words each_byte(uint32_t byte) {
  return Words{} + byte * 0x01010101;
}

// Writes row r's dwords of one unit; the other 7 rows' dwords lie between them.
template <Layout kLayout>
void write_unit(const Codes& codes, int64_t r, std::byte* low, std::byte* high) {
  if constexpr (kLayout == Layout::kP8) {
    for (int64_t d = 0; d < 4; ++d) {
      store<uint32_t>(low + d * 32 + r * 4, codes.first[d]);
      store<uint32_t>(low + (d + 4) * 32 + r * 4, codes.second[d]);
    }
    return;
  }
  const Words nibble_pairs = (codes.first & each_byte(15)) | (codes.second & each_byte(15)) << 4;
  for (int64_t d = 0; d < 4; ++d) store<uint32_t>(low + d * 32 + r * 4, nibble_pairs[d]);
  if constexpr (kLayout == Layout::kP6) {
    const Words top = (codes.first >> 4 & each_byte(3)) | (codes.second >> 2 & each_byte(12));
    store<uint32_t>(high + r * 4, top[0] | top[1] << 4);
    store<uint32_t>(high + 32 + r * 4, top[2] | top[3] << 4);
  }
}

}  // namespace hotset
