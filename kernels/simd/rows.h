// The vector vocabulary of the row dots: one lane per row, for one row group of 8 (portable, AVX2)
// or two (AVX-512). Every set has the same names with the same bits, so a kernel is written once.
// Only headers of this folder use intrinsics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hotset::HOTSET_ISA::rows {

// What the byte vectors of a matrix hold, which decides how often a byte dot has to be widened.
enum class Range {
  kU4,      // 0..15: eight pair products add up in 16 bits (16 * 15 * 127 = 30,480)
  kU6,      // 0..63: two do (4 * 63 * 127 = 32,004)
  kSigned,  // -128..127, in the form that prepare_signed() makes
};

// Weights of 16 bits come from two byte vectors of table entries, entry = 256 * signed high +
// unsigned low. wide_weights() puts them into two vectors of the set's own form, which
// add_wide_products() multiplies by four of a WideUnit's inputs; finish_wide() makes one int32 a
// row of the sums, each with kWideBias added to its weights.

// A cell's sum of products is made in three steps, so that the sums of several tokens and row sets
// can be under way at once: begin(start), add_products() for two byte vectors of weights and their
// inputs at a time, finish(sum, start).

#ifndef HOTSET_ISA_amx
inline constexpr int kTokensLeast = 0;  // fewer are another set's work, as are longer rows
inline constexpr int64_t kUnitsMost = int64_t{1} << 62;
inline constexpr bool kTokenLeadsCodes = false;
#endif

}  // namespace hotset::HOTSET_ISA::rows

#if defined(HOTSET_ISA_avx512) || defined(HOTSET_ISA_avx512vnni) || defined(HOTSET_ISA_amx)
#include "kernels/simd/rows_avx512.h"
#elif defined(HOTSET_ISA_avx2)
#include "kernels/simd/rows_avx2.h"
#else
#include "kernels/simd/rows_portable.h"
#endif
