// Byte dot products with VNNI: unsigned weights times signed inputs, four to an int32, nothing to
// saturate. See rows.h; included only by rows_avx512.h.
#pragma once

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kSignedBias = 128;  // what prepare_signed() adds
inline Bytes prepare_signed(Bytes v) {
  return _mm512_xor_si512(v, _mm512_set1_epi8(-128));
}

// Sums of products under way, begun with `start` and finished with it again (rows.h).
template <Range kRange>
inline Ints begin(Ints start) {
  return start;
}
template <Range kRange>
inline Ints add_products(Ints sum, Bytes w0, Inputs x0, Bytes w1, Inputs x1) {
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, w0, x0), w1, x1);
}
template <Range kRange>
inline Ints finish(Ints sum, Ints /*start*/) {
  return sum;
}

}  // namespace hotset::HOTSET_ISA::rows
