// The row dot vocabulary for AVX2, FMA and F16C: 8 rows a vector. See rows.h; included only there.
#pragma once

#include <immintrin.h>

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kGroups = 1;
inline constexpr int kRows = 8;
using Bytes = __m256i;           // 4 inputs of each row
using Ints = __m256i;            // an int32 a row
using Floats = __m256;           // a float a row
using Inputs = __m256i;          // 4 inputs, for each row again
inline constexpr int kSets = 1;  // vector sets of rows that several tokens share
// Sums of byte dots that are under way together: tokens x sets, in sixteen registers with their
// operands. Six loads then serve eight multiply-adds.
inline constexpr int kTileTokens = 2, kTileSets = 4;
inline constexpr int kSignedBias = 0;  // what prepare_signed() adds

inline Floats load(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void store(float* p, Floats v) {
  _mm256_storeu_ps(p, v);
}
inline Floats zero() {
  return _mm256_setzero_ps();
}
inline Floats broadcast(float v) {
  return _mm256_set1_ps(v);
}
inline Floats add(Floats a, Floats b) {
  return _mm256_add_ps(a, b);
}
inline Floats mul(Floats a, Floats b) {
  return _mm256_mul_ps(a, b);
}
inline Floats fma(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
// Into the L2 cache.
inline void prefetch(const std::byte* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}
inline Floats to_floats(Ints v) {
  return _mm256_cvtepi32_ps(v);
}

// Loads of a plane: `at` is the first row group's place; the second group's, `next` bytes further,
// is not used here.
inline Bytes load_bytes(const std::byte* at, int64_t /*next*/) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
inline Floats load_f32(const std::byte* at, int64_t /*next*/) {
  return _mm256_loadu_ps(reinterpret_cast<const float*>(at));
}
inline Floats load_f16(const std::byte* at, int64_t /*next*/) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
inline Floats load_bf16(const std::byte* at, int64_t /*next*/) {
  const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
inline __m128i load_8(const std::byte* at) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
}
inline Floats load_u8(const std::byte* at, int64_t /*next*/) {
  return to_floats(_mm256_cvtepu8_epi32(load_8(at)));
}
inline Floats load_i8(const std::byte* at, int64_t /*next*/) {
  return to_floats(_mm256_cvtepi8_epi32(load_8(at)));
}
// 2^(e - 128); e = 0 and 1 are float32 subnormals.
inline Floats load_e8m0(const std::byte* at, int64_t /*next*/) {
  const __m256i e = _mm256_cvtepu8_epi32(load_8(at));
  const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  const __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
  const __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, is_tiny));
}

// The e4m3 number / 256: its bits as those of a half.
inline Floats load_e4m3(const std::byte* at, int64_t /*next*/) {
  const __m128i v = _mm_cvtepu8_epi16(load_8(at));
  const __m128i magnitude = _mm_slli_epi16(_mm_and_si128(v, _mm_set1_epi16(0x7f)), 7);
  const __m128i sign = _mm_slli_epi16(_mm_and_si128(v, _mm_set1_epi16(0x80)), 8);
  return _mm256_cvtph_ps(_mm_or_si128(magnitude, sign));
}

inline Bytes low_nibbles(Bytes v) {
  return _mm256_and_si256(v, _mm256_set1_epi8(15));
}
inline Bytes high_nibbles(Bytes v) {
  return low_nibbles(_mm256_srli_epi16(v, 4));
}
inline Bytes combine(Bytes a, Bytes b) {
  return _mm256_or_si256(a, b);
}
// Bits 2f and 2f+1 of each byte, moved to bits 4 and 5.
template <int kF>
inline Bytes top_bits(Bytes v) {
  if constexpr (kF < 2) {
    v = _mm256_slli_epi16(v, 4 - 2 * kF);
  } else {
    v = _mm256_srli_epi16(v, 2 * kF - 4);
  }
  return _mm256_and_si256(v, _mm256_set1_epi8(0x30));
}
inline Bytes load_table(const int8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
inline Bytes look_up(Bytes table, Bytes codes) {
  return _mm256_shuffle_epi8(table, codes);
}
inline Bytes prepare_signed(Bytes v) {
  return v;
}

// first * sum of the first half + second * sum of the other, where `weights` = half_weights(...).
inline Ints half_weights(int first, int second) {
  return _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(first) & 0xffffu) |
                           static_cast<int>(static_cast<uint32_t>(second) << 16));
}
inline Ints weigh_halves(const int16_t* half_sum, Ints weights) {
  int32_t both;
  std::memcpy(&both, half_sum, sizeof(both));
  return _mm256_madd_epi16(_mm256_set1_epi32(both), weights);
}
inline Ints zero_ints() {
  return _mm256_setzero_si256();
}
// Minus (a row's i8 zero point + bias), as weights for weigh_rows.
inline Ints load_zeros(const std::byte* at, int64_t /*next*/, int bias) {
  const __m256i z = _mm256_cvtepi8_epi32(load_8(at));
  const __m256i minus = _mm256_sub_epi32(_mm256_set1_epi32(-bias), z);
  return _mm256_blend_epi16(minus, _mm256_slli_epi32(minus, 16), 0xaa);
}
inline Ints weigh_rows(const int16_t* half_sum, Ints weights) {
  return weigh_halves(half_sum, weights);
}

inline Floats keep(Floats x) {
  __asm__("" : "+x"(x));
  return x;
}
inline Inputs keep(Inputs x) {
  __asm__("" : "+x"(x));
  return x;
}
inline Inputs four_inputs(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, sizeof(four));
  return _mm256_set1_epi32(four);
}

// Sums of products under way, begun with `start` and finished with it again (rows.h).
template <Range kRange>
inline Ints begin(Ints start) {
  return kRange == Range::kU4 ? _mm256_setzero_si256() : start;
}
template <Range kRange>
inline Ints add_products(Ints sum, Bytes w0, Inputs x0, Bytes w1, Inputs x1) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (kRange == Range::kU4) {  // in 16 bits
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w0, x0));
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w1, x1));
  } else if constexpr (kRange == Range::kU6) {
    const __m256i pairs =
        _mm256_add_epi16(_mm256_maddubs_epi16(w0, x0), _mm256_maddubs_epi16(w1, x1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
  } else {
    // |w| times q with w's sign: 2 * 128 * 127 fits 16 bits, two of them do not.
    const auto widened = [&](Bytes w, Inputs x) {
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
      return _mm256_madd_epi16(pairs, ones);
    };
    return _mm256_add_epi32(_mm256_add_epi32(sum, widened(w0, x0)), widened(w1, x1));
  }
}
template <Range kRange>
inline Ints finish(Ints sum, Ints start) {
  if constexpr (kRange != Range::kU4) return sum;
  return _mm256_add_epi32(start, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
}

// Words times words: half the products an instruction of bytes, but no signs to move and nothing to
// widen. A word's neighbour is of the same row: of four inputs, two sums remain, and of the eight
// rows' `sums`, .a has those of rows 0, 1, 4, 5.
inline constexpr int kWideBias = 0;
struct WideSums {
  __m256i a, b;
};
inline void wide_weights(Bytes high, Bytes low, Bytes* w) {
  w[0] = _mm256_unpacklo_epi8(low, high);
  w[1] = _mm256_unpackhi_epi8(low, high);
}
// A unit's inputs, widened once.
class WideUnit {
 public:
  WideUnit() = default;
  explicit WideUnit(const int8_t* q) {
    for (int i = 0; i < 32; i += 16) {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i));
      _mm256_store_si256(reinterpret_cast<__m256i*>(q_ + i), _mm256_cvtepi8_epi16(v));
    }
  }
  Inputs four(int j) const {
    int64_t four;
    std::memcpy(&four, q_ + 4 * j, sizeof(four));
    return _mm256_set1_epi64x(four);
  }

 private:
  alignas(32) int16_t q_[32];
};
inline WideSums add_wide_products(WideSums sums, const Bytes* w, Inputs x) {
  return {keep(_mm256_add_epi32(sums.a, _mm256_madd_epi16(w[0], x))),
          keep(_mm256_add_epi32(sums.b, _mm256_madd_epi16(w[1], x)))};
}
inline Ints finish_wide(WideSums sums, Ints start) {
  return _mm256_add_epi32(start, _mm256_hadd_epi32(sums.a, sums.b));
}

}  // namespace hotset::HOTSET_ISA::rows
