// Byte dot products without VNNI: pair products in 16 bits, widened as seldom as their range allows
// (docs/numerics.md: a cell's sum is exact). See rows.h; included only by rows_avx512.h.
#pragma once

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kSignedBias = 0;  // what prepare_signed() adds
inline Bytes prepare_signed(Bytes v) {
  return v;
}

// Sums of products under way, begun with `start` and finished with it again (rows.h).
template <Range kRange>
inline Ints begin(Ints start) {
  return kRange == Range::kU4 ? _mm512_setzero_si512() : start;
}
template <Range kRange>
inline Ints add_products(Ints sum, Bytes w0, Inputs x0, Bytes w1, Inputs x1) {
  const __m512i ones = _mm512_set1_epi16(1);
  if constexpr (kRange == Range::kU4) {  // in 16 bits
    sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(w0, x0));
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(w1, x1));
  } else if constexpr (kRange == Range::kU6) {
    const __m512i pairs =
        _mm512_add_epi16(_mm512_maddubs_epi16(w0, x0), _mm512_maddubs_epi16(w1, x1));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, ones));
  } else {
    // |w| times q with w's sign: 2 * 128 * 127 fits 16 bits, two of them do not.
    const auto widened = [&](Bytes w, Inputs x) {
      const __mmask64 negative = _mm512_movepi8_mask(w);
      const __m512i signed_q = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
      return _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_q), ones);
    };
    return _mm512_add_epi32(_mm512_add_epi32(sum, widened(w0, x0)), widened(w1, x1));
  }
}
template <Range kRange>
inline Ints finish(Ints sum, Ints start) {
  if constexpr (kRange != Range::kU4) return sum;
  return _mm512_add_epi32(start, _mm512_madd_epi16(sum, _mm512_set1_epi16(1)));
}

}  // namespace hotset::HOTSET_ISA::rows
