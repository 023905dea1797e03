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

// Words times words, as in rows_avx2.h.
inline constexpr int kWideBias = 0;
inline void wide_weights(Bytes high, Bytes low, Bytes* w) {
  w[0] = _mm512_unpacklo_epi8(low, high);
  w[1] = _mm512_unpackhi_epi8(low, high);
}
class WideUnit {
 public:
  WideUnit() = default;
  explicit WideUnit(const int8_t* q) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    _mm512_store_si512(q_, _mm512_cvtepi8_epi16(v));
  }
  Inputs four(int j) const {
    int64_t four;
    std::memcpy(&four, q_ + 4 * j, sizeof(four));
    return keep(_mm512_set1_epi64(four));
  }

 private:
  alignas(64) int16_t q_[32];
};
inline WideSums add_wide_products(WideSums sums, const Bytes* w, Inputs x) {
  return {_mm512_add_epi32(sums.a, _mm512_madd_epi16(w[0], x)),
          _mm512_add_epi32(sums.b, _mm512_madd_epi16(w[1], x))};
}
inline Ints finish_wide(WideSums sums, Ints start) {
  const __m512 a = _mm512_castsi512_ps(sums.a), b = _mm512_castsi512_ps(sums.b);
  const __m512i even = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88));
  const __m512i odd = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd));
  return _mm512_add_epi32(start, _mm512_add_epi32(even, odd));
}

}  // namespace hotset::HOTSET_ISA::rows
