// kernels/simd/lanes.h on a card: a lane is a thread. Operations by name, since nvcc would contract
// a product and a sum that are written as operators.
#pragma once

#include <cstdint>

#include "kernels/cuda/card.cuh"
#include "kernels/simd/half.h"

namespace hotset::HOTSET_ISA {

using F = float;

HOTSET_DEVICE F set(float x) {
  return x;
}
HOTSET_DEVICE F zero() {
  return 0.0f;
}
HOTSET_DEVICE F add(F a, F b) {
  return __fadd_rn(a, b);
}
HOTSET_DEVICE F sub(F a, F b) {
  return __fsub_rn(a, b);
}
HOTSET_DEVICE F mul(F a, F b) {
  return __fmul_rn(a, b);
}
HOTSET_DEVICE F div(F a, F b) {
  return __fdiv_rn(a, b);
}
HOTSET_DEVICE F fma(F a, F b, F c) {
  return __fmaf_rn(a, b, c);
}
HOTSET_DEVICE F square_root(F a) {
  return __fsqrt_rn(a);
}
#ifdef __CUDACC__
HOTSET_DEVICE F from_half(uint16_t h) {
  return __half2float(__ushort_as_half(h));
}
HOTSET_DEVICE uint16_t to_half(F a) {
  return __half_as_ushort(__float2half_rn(a));
}
#else
HOTSET_DEVICE F from_half(uint16_t h) {
  return half_bits_to_float(h);
}
HOTSET_DEVICE uint16_t to_half(F a) {
  return float_to_half_bits(a);
}
#endif
// The second operand if either is NaN.
HOTSET_DEVICE F max(F a, F b) {
  return a > b ? a : b;
}
HOTSET_DEVICE F min(F a, F b) {
  return a < b ? a : b;
}
HOTSET_DEVICE F power_of_two(F t) {
  return __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, t) << 23) + 0x3f800000u);
}
HOTSET_DEVICE float fold_max(F a) {
  return a;
}

}  // namespace hotset::HOTSET_ISA
