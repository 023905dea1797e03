// lanes.h on AVX-512: one register.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hotset::HOTSET_ISA {

struct F {
  __m512 v;
};

inline F set(float x) {
  return {_mm512_set1_ps(x)};
}
inline F zero() {
  return {_mm512_setzero_ps()};
}
inline F load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline void store(float* p, F a) {
  _mm512_storeu_ps(p, a.v);
}
inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
inline F load_partial(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
inline void store_partial(float* p, F a, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
inline F add(F a, F b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline F sub(F a, F b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline F mul(F a, F b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline F div(F a, F b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline F max(F a, F b) {
  return {_mm512_max_ps(a.v, b.v)};
}
inline F min(F a, F b) {
  return {_mm512_min_ps(a.v, b.v)};
}
inline F fma(F a, F b, F c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline F load_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_half(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Bits of t shifted left by 23, plus the bias of the exponent: 2^n where t = n + 1.5 * 2^23.
inline F power_of_two(F t) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)))};
}
inline float fold(F a) {
  const __m256 low = _mm512_castps512_ps256(a.v);
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 u = _mm256_add_ps(low, high);
  const __m128 v = _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1));
  const __m128 w = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(w, _mm_movehdup_ps(w)));
}
inline F keep(F x) {
  __asm__("" : "+v"(x.v));
  return x;
}
inline constexpr int kRegisters = 32, kFolds = 8;
// kFolds folds by their common steps: several sums share each addition.
inline __m512 fold_16(F a, F b) {  // 2 sums of 16 lanes -> 2 sums of 8
  return _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee));
}
inline __m512 fold_8(__m512 a, __m512 b) {  // 4 sums of 8 lanes -> 4 sums of 4
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
inline __m512 fold_4(__m512 a, __m512 b) {  // 8 sums of 4 lanes -> 8 sums of 2
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}
inline void fold_some(const F* a, float* out) {
  const __m512 low = fold_8(fold_16(a[0], a[1]), fold_16(a[2], a[3]));
  const __m512 high = fold_8(fold_16(a[4], a[5]), fold_16(a[6], a[7]));
  const __m512 w = fold_4(low, high);
  const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512 sums = _mm512_permutexvar_ps(places, _mm512_add_ps(w, _mm512_movehdup_ps(w)));
  _mm256_storeu_ps(out, _mm512_castps512_ps256(sums));
}
inline float fold_max(F a) {
  return _mm512_reduce_max_ps(a.v);
}

}  // namespace hotset::HOTSET_ISA
