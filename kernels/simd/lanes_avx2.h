// lanes.h on AVX2 with FMA and F16C: two registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hotset::HOTSET_ISA {

struct F {
  __m256 a, b;  // lanes 0..7, 8..15
};

inline F set(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline F zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline F load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline __m256i first_lanes(int64_t n) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), index);
}
inline F load_partial(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
inline void store_partial(float* p, F x, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), x.a);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.b);
}
inline F add(F x, F y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F sub(F x, F y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F mul(F x, F y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F div(F x, F y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F max(F x, F y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline F min(F x, F y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void store_half(uint16_t* p, F x) {
  constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, kRound));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, kRound));
}
inline __m256 power_of_two(__m256 t) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
}
inline F power_of_two(F t) {
  return {power_of_two(t.a), power_of_two(t.b)};
}
inline float fold(F x) {
  const __m256 u = _mm256_add_ps(x.a, x.b);
  const __m128 v = _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1));
  const __m128 w = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(w, _mm_movehdup_ps(w)));
}
inline F keep(F x) {
  __asm__("" : "+x"(x.a), "+x"(x.b));
  return x;
}
inline constexpr int kRegisters = 8, kFolds = 4;
// kFolds folds by their common steps: two sums share each addition.
inline __m256 fold_pairs(__m256 a, __m256 b) {  // 4 sums of 4 lanes -> 4 sums of 2
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
}
inline __m256 fold_halves(__m256 a, __m256 b) {  // 2 sums of 8 lanes -> 2 sums of 4
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
inline void fold_some(const F* x, float* out) {
  __m256 u[4];
  for (int i = 0; i < 4; ++i) u[i] = _mm256_add_ps(x[i].a, x[i].b);
  const __m256 w = fold_pairs(fold_halves(u[0], u[1]), fold_halves(u[2], u[3]));
  float sums[8];  // at 0, 4, 2, 6
  _mm256_storeu_ps(sums, _mm256_add_ps(w, _mm256_movehdup_ps(w)));
  for (int i = 0; i < 4; ++i) out[i] = sums[i % 2 * 4 + i / 2 * 2];
}
inline float fold_max(F x) {
  const __m256 u = _mm256_max_ps(x.a, x.b);
  const __m128 v = _mm_max_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1));
  const __m128 w = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(w, _mm_movehdup_ps(w)));
}

}  // namespace hotset::HOTSET_ISA
