// How the codes of a unit, one a byte, become a row's share of a packed unit. Private to kernels/.
#pragma once

#include <array>
#include <bit>

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

// Dword d of row r becomes dword 8 d + r: two transpositions of 4 x 4 instead of 32 strided stores.
inline void store_interleaved(const std::array<Words, 8>& rows, std::byte* out) {
  for (int half = 0; half < 2; ++half) {
    const Words* const w = rows.data() + 4 * half;
    const auto low01 = std::bit_cast<Quads>(__builtin_shufflevector(w[0], w[1], 0, 4, 1, 5));
    const auto low23 = std::bit_cast<Quads>(__builtin_shufflevector(w[2], w[3], 0, 4, 1, 5));
    const auto high01 = std::bit_cast<Quads>(__builtin_shufflevector(w[0], w[1], 2, 6, 3, 7));
    const auto high23 = std::bit_cast<Quads>(__builtin_shufflevector(w[2], w[3], 2, 6, 3, 7));
    out += 16 * half;
    store(out, __builtin_shufflevector(low01, low23, 0, 2));
    store(out + 32, __builtin_shufflevector(low01, low23, 1, 3));
    store(out + 64, __builtin_shufflevector(high01, high23, 0, 2));
    store(out + 96, __builtin_shufflevector(high01, high23, 1, 3));
  }
}

// Writes one unit of 8 rows; codes of rows that are missing are 0.
template <Layout kLayout>
void write_unit(const std::array<Codes, 8>& codes, std::byte* low, std::byte* high) {
  std::array<Words, 8> words;
  if constexpr (kLayout == Layout::kP8) {
    for (int r = 0; r < 8; ++r) words[r] = codes[r].first;
    store_interleaved(words, low);
    for (int r = 0; r < 8; ++r) words[r] = codes[r].second;
    store_interleaved(words, low + 128);
    return;
  }
  for (int r = 0; r < 8; ++r) {
    words[r] = (codes[r].first & each_byte(15)) | (codes[r].second & each_byte(15)) << 4;
  }
  store_interleaved(words, low);
  if constexpr (kLayout == Layout::kP6) {
    for (int64_t r = 0; r < 8; ++r) {
      const Words top =
          (codes[r].first >> 4 & each_byte(3)) | (codes[r].second >> 2 & each_byte(12));
      store<uint32_t>(high + r * 4, top[0] | top[1] << 4);
      store<uint32_t>(high + 32 + r * 4, top[2] | top[3] << 4);
    }
  }
}

}  // namespace hotset
