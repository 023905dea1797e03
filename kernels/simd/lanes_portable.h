// lanes.h in plain C++: the reference of the other two.
#pragma once

#include <cstdint>

#include "kernels/simd/half.h"

namespace hotset::HOTSET_ISA {

struct F {
  float v[16];
};

template <class Op>
inline F lanewise(Op op) {
  F r;
  for (int i = 0; i < 16; ++i) r.v[i] = op(i);
  return r;
}

inline F set(float x) {
  return lanewise([&](int) { return x; });
}
inline F zero() {
  return set(0.0f);
}
inline F load(const float* p) {
  return lanewise([&](int i) { return p[i]; });
}
inline void store(float* p, F a) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
inline F load_partial(const float* p, int64_t n) {
  return lanewise([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_partial(float* p, F a, int64_t n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
inline F add(F a, F b) {
  return lanewise([&](int i) { return a.v[i] + b.v[i]; });
}
inline F sub(F a, F b) {
  return lanewise([&](int i) { return a.v[i] - b.v[i]; });
}
inline F mul(F a, F b) {
  return lanewise([&](int i) { return a.v[i] * b.v[i]; });
}
inline F div(F a, F b) {
  return lanewise([&](int i) { return a.v[i] / b.v[i]; });
}
// As the instructions do: the second operand if either is NaN.
inline F max(F a, F b) {
  return lanewise([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F min(F a, F b) {
  return lanewise([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F fma(F a, F b, F c) {
  return lanewise([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline F load_half(const uint16_t* p) {
  return lanewise([&](int i) { return half_bits_to_float(p[i]); });
}
inline void store_half(uint16_t* p, F a) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half_bits(a.v[i]);
}
inline F power_of_two(F t) {
  return lanewise([&](int i) {
    return __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, t.v[i]) << 23) + 0x3f800000u);
  });
}
inline float fold(F a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + a.v[i + width];
  }
  return a.v[0];
}
inline F keep(F x) {
  return x;
}
inline constexpr int kRegisters = 8, kFolds = 1;
inline void fold_some(const F* a, float* out) {
  *out = fold(*a);
}
inline float fold_max(F a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
  }
  return a.v[0];
}

}  // namespace hotset::HOTSET_ISA
