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

// The high bytes biased like signed ones, the low ones as they are.
inline constexpr int kWideBias = 128 * 256;
inline void wide_weights(Bytes high, Bytes low, Bytes* w) {
  w[0] = prepare_signed(high);
  w[1] = low;
}
class WideUnit {
 public:
  WideUnit() = default;
  explicit WideUnit(const int8_t* q) : q_(q) {}
  Inputs four(int j) const { return four_inputs(q_ + 4 * j); }

 private:
  const int8_t* q_;
};
inline WideSums add_wide_products(WideSums sums, const Bytes* w, Inputs x) {
  return {_mm512_dpbusd_epi32(sums.a, w[0], x), _mm512_dpbusd_epi32(sums.b, w[1], x)};
}
inline Ints finish_wide(WideSums sums, Ints start) {
  return _mm512_add_epi32(_mm512_add_epi32(_mm512_slli_epi32(sums.a, 8), sums.b), start);
}

}  // namespace hotset::HOTSET_ISA::rows
