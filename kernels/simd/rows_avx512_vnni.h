// Byte dot products with VNNI: unsigned weights times signed inputs, four to an int32, nothing to
// saturate. See rows.h; included only by rows_avx512.h.
#pragma once

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kSignedBias = 128;  // what prepare_signed() adds
inline Bytes prepare_signed(Bytes v) {
  return _mm512_xor_si512(v, _mm512_set1_epi8(-128));
}

// start + the dot product of byte vectors kFirst .. kFirst+kCount-1 of a unit with its inputs x. In
// two chains: eight dependent products would fill the scheduler while they wait for each other.
template <Range kRange, int kFirst, int kCount>
inline Ints dot(const Bytes* w, const Inputs* x, Ints start) {
  Ints other = _mm512_setzero_si512();
  for (int j = kFirst; j < kFirst + kCount; j += 2) {
    start = _mm512_dpbusd_epi32(start, w[j], x[j]);
    other = _mm512_dpbusd_epi32(other, w[j + 1], x[j + 1]);
  }
  return _mm512_add_epi32(start, other);
}

}  // namespace hotset::HOTSET_ISA::rows
