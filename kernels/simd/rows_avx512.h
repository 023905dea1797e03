// The row dot vocabulary for AVX-512 (F, BW, VL, DQ), with and without VNNI: two row groups, 16
// rows, a vector. See rows.h; included only there.
#pragma once

// GCC 12's own intrinsics pass an undefined vector where every lane is written anyway, and warn.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

namespace hotset::HOTSET_ISA::rows {

inline constexpr int kGroups = 2;
inline constexpr int kRows = 16;
using Bytes = __m512i;           // 4 inputs of each row
using Ints = __m512i;            // an int32 a row
using Floats = __m512;           // a float a row
using Inputs = __m512i;          // 4 inputs, for each row again
inline constexpr int kSets = 2;  // vector sets of rows that several tokens share
// Sums of byte dots that are under way together: tokens x sets.
inline constexpr int kTileTokens = 4, kTileSets = 2;

inline Floats load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void store(float* p, Floats v) {
  _mm512_storeu_ps(p, v);
}
inline Floats zero() {
  return _mm512_setzero_ps();
}
inline Floats broadcast(float v) {
  return _mm512_set1_ps(v);
}
inline Floats add(Floats a, Floats b) {
  return _mm512_add_ps(a, b);
}
inline Floats mul(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
inline Floats fma(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
// Into the L2 cache.
inline void prefetch(const std::byte* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1);
}
inline Floats to_floats(Ints v) {
  return _mm512_cvtepi32_ps(v);
}

// Loads of a plane: `at` is the first row group's place, the second group's is `next` bytes
// further. `next` is 0 where there is no second group: its lanes are computed and dropped.
inline Bytes load_bytes(const std::byte* at, int64_t next) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + next));
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}
inline Floats load_f32(const std::byte* at, int64_t next) {
  return _mm512_castsi512_ps(load_bytes(at, next));
}
inline __m256i load_16(const std::byte* at, int64_t next) {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + next));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}
inline Floats load_f16(const std::byte* at, int64_t next) {
  return _mm512_cvtph_ps(load_16(at, next));
}
inline Floats load_bf16(const std::byte* at, int64_t next) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_16(at, next)), 16));
}
inline __m128i load_8(const std::byte* at, int64_t next) {
  const __m128i a = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
  const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + next));
  return _mm_unpacklo_epi64(a, b);
}
inline Floats load_u8(const std::byte* at, int64_t next) {
  return to_floats(_mm512_cvtepu8_epi32(load_8(at, next)));
}
inline Floats load_i8(const std::byte* at, int64_t next) {
  return to_floats(_mm512_cvtepi8_epi32(load_8(at, next)));
}
// 2^(e - 128); e = 0 and 1 are float32 subnormals.
inline Floats load_e8m0(const std::byte* at, int64_t next) {
  const __m512i e = _mm512_cvtepu8_epi32(load_8(at, next));
  const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
  const __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
  const __mmask16 is_tiny = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_tiny, tiny));
}

// The e4m3 number / 256: its bits as those of a half.
inline Floats load_e4m3(const std::byte* at, int64_t next) {
  const __m256i v = _mm256_cvtepu8_epi16(load_8(at, next));
  const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(v, _mm256_set1_epi16(0x7f)), 7);
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(v, _mm256_set1_epi16(0x80)), 8);
  return _mm512_cvtph_ps(_mm256_or_si256(magnitude, sign));
}

inline Bytes low_nibbles(Bytes v) {
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
inline Bytes high_nibbles(Bytes v) {
  return low_nibbles(_mm512_srli_epi16(v, 4));
}
inline Bytes combine(Bytes a, Bytes b) {
  return _mm512_or_si512(a, b);
}
// Bits 2f and 2f+1 of each byte, moved to bits 4 and 5.
template <int kF>
inline Bytes top_bits(Bytes v) {
  if constexpr (kF < 2) {
    v = _mm512_slli_epi16(v, 4 - 2 * kF);
  } else {
    v = _mm512_srli_epi16(v, 2 * kF - 4);
  }
  return _mm512_and_si512(v, _mm512_set1_epi8(0x30));
}
inline Bytes load_table(const int8_t* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
inline Bytes look_up(Bytes table, Bytes codes) {
  return _mm512_shuffle_epi8(table, codes);
}

// first * sum of the first half + second * sum of the other, where `weights` = half_weights(...).
inline Ints half_weights(int first, int second) {
  return _mm512_set1_epi32(static_cast<int>(static_cast<uint32_t>(first) & 0xffffu) |
                           static_cast<int>(static_cast<uint32_t>(second) << 16));
}
inline Ints weigh_halves(const int16_t* half_sum, Ints weights) {
  int32_t both;
  std::memcpy(&both, half_sum, sizeof(both));
  return _mm512_madd_epi16(_mm512_set1_epi32(both), weights);
}
inline Ints zero_ints() {
  return _mm512_setzero_si512();
}
// Minus (a row's i8 zero point + bias), as weights for weigh_rows.
inline Ints load_zeros(const std::byte* at, int64_t next, int bias) {
  const __m512i z = _mm512_cvtepi8_epi32(load_8(at, next));
  const __m512i minus = _mm512_sub_epi32(_mm512_set1_epi32(-bias), z);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, minus, _mm512_slli_epi32(minus, 16));
}
inline Ints weigh_rows(const int16_t* half_sum, Ints weights) {
  return weigh_halves(half_sum, weights);
}

inline Floats keep(Floats x) {
  __asm__("" : "+v"(x));
  return x;
}
inline Inputs keep(Inputs x) {
  __asm__("" : "+v"(x));
  return x;
}
// Held in a register: the compiler would load it again for each set, and the loads are what prefill
// waits for (Zen 4: 0.55 instead of 1 byte dot a cycle).
inline Inputs four_inputs(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, sizeof(four));
  return keep(_mm512_set1_epi32(four));
}

struct WideSums {
  __m512i a, b;
};

}  // namespace hotset::HOTSET_ISA::rows

#if defined(HOTSET_ISA_amx)
#include "kernels/simd/rows_amx.h"
#elif defined(HOTSET_ISA_avx512vnni)
#include "kernels/simd/rows_avx512_vnni.h"
#else
#include "kernels/simd/rows_avx512_widen.h"
#endif
