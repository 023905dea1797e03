// lanes.h in plain C++: the reference of the other two.
#pragma once

#include <cstdint>

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
inline float half_bits_to_float(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023u;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits =
      exponent == 31 ? 0x7f800000u | mantissa << 13 : (exponent + 112) << 23 | mantissa << 13;
  return __builtin_bit_cast(float, sign | bits);
}
inline uint16_t float_to_half_bits(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x1ffu);  // a quiet NaN that keeps its payload
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // rounds to infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 puts the rounded mantissa into the low bits.
    const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
    half = __builtin_bit_cast(uint32_t, shifted) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
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
