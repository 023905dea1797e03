// Byte dot products without VNNI: pair products in 16 bits, widened as seldom as their range allows
// (docs/numerics.md: a cell's sum is exact). See rows.h; included only by rows_avx512.h.
#pragma once

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kSignedBias = 0;  // what prepare_signed() adds
inline Bytes prepare_signed(Bytes v) {
  return v;
}

// start + the dot product of byte vectors kFirst .. kFirst+kCount-1 of a unit with its inputs x.
template <Range kRange, int kFirst, int kCount>
inline Ints dot(const Bytes* w, const Inputs* x, Ints start) {
  const __m512i ones = _mm512_set1_epi16(1);
  if constexpr (kRange == Range::kU4) {
    __m512i sum = _mm512_maddubs_epi16(w[kFirst], x[kFirst]);
    for (int j = kFirst + 1; j < kFirst + kCount; ++j) {
      sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(w[j], x[j]));
    }
    return _mm512_add_epi32(start, _mm512_madd_epi16(sum, ones));
  } else if constexpr (kRange == Range::kU6) {
    for (int j = kFirst; j < kFirst + kCount; j += 2) {
      const __m512i a = _mm512_maddubs_epi16(w[j], x[j]);
      const __m512i b = _mm512_maddubs_epi16(w[j + 1], x[j + 1]);
      start = _mm512_add_epi32(start, _mm512_madd_epi16(_mm512_add_epi16(a, b), ones));
    }
    return start;
  } else {
    // |w| times q with w's sign: 2 * 128 * 127 fits 16 bits, two of them do not.
    for (int j = kFirst; j < kFirst + kCount; ++j) {
      const __mmask64 negative = _mm512_movepi8_mask(w[j]);
      const __m512i signed_q = _mm512_mask_sub_epi8(x[j], negative, _mm512_setzero_si512(), x[j]);
      const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w[j]), signed_q);
      start = _mm512_add_epi32(start, _mm512_madd_epi16(pairs, ones));
    }
    return start;
  }
}

}  // namespace hotset::HOTSET_ISA::rows
