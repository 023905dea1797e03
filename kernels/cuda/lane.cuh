// kernels/simd/lanes.h on a card: a lane is a thread. Operations by name, since nvcc would contract
// a product and a sum that are written as operators.
#pragma once

#include <cstdint>

#include "kernels/simd/device_function.h"
#include "kernels/simd/half.h"
#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace hotset::HOTSET_ISA {

using F = float;

HOTSET_DEVICE inline F set(float x) {
  return x;
}
HOTSET_DEVICE inline F zero() {
  return 0.0f;
}
#ifdef __CUDACC__
HOTSET_DEVICE inline F add(F a, F b) {
  return __fadd_rn(a, b);
}
HOTSET_DEVICE inline F sub(F a, F b) {
  return __fsub_rn(a, b);
}
HOTSET_DEVICE inline F mul(F a, F b) {
  return __fmul_rn(a, b);
}
HOTSET_DEVICE inline F div(F a, F b) {
  return __fdiv_rn(a, b);
}
HOTSET_DEVICE inline F fma(F a, F b, F c) {
  return __fmaf_rn(a, b, c);
}
HOTSET_DEVICE inline F square_root(F a) {
  return __fsqrt_rn(a);
}
HOTSET_DEVICE inline F from_half(uint16_t h) {
  return __half2float(__ushort_as_half(h));
}
HOTSET_DEVICE inline uint16_t to_half(F a) {
  return __half_as_ushort(__float2half_rn(a));
}
#else
inline F add(F a, F b) {
  return a + b;
}
inline F sub(F a, F b) {
  return a - b;
}
inline F mul(F a, F b) {
  return a * b;
}
inline F div(F a, F b) {
  return a / b;
}
inline F fma(F a, F b, F c) {
  return __builtin_fmaf(a, b, c);
}
inline F square_root(F a) {
  return __builtin_sqrtf(a);
}
inline F from_half(uint16_t h) {
  return half_bits_to_float(h);
}
inline uint16_t to_half(F a) {
  return float_to_half_bits(a);
}
#endif
// The second operand if either is NaN.
HOTSET_DEVICE inline F max(F a, F b) {
  return a > b ? a : b;
}
HOTSET_DEVICE inline F min(F a, F b) {
  return a < b ? a : b;
}
HOTSET_DEVICE inline F power_of_two(F t) {
  return __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, t) << 23) + 0x3f800000u);
}
HOTSET_DEVICE inline float fold_max(F a) {
  return a;
}

}  // namespace hotset::HOTSET_ISA
