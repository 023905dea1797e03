// Quantises activations per 32 inputs by the rule of docs/numerics.md.
#include <cstring>

#include "kernels/cpu/functions.h"

namespace hotset::HOTSET_ISA {
namespace {

// One unit of 32 inputs. Loops over integers, so that the compiler may vectorise them.
bool quantise_unit(const float* x, int8_t* q, float* scale, int16_t* half_sum) {
  // Bits of a float without its sign are ordered like its magnitude, and NaN and infinity last.
  int32_t amax_bits = 0;
  for (int i = 0; i < 32; ++i) {
    const int32_t bits = __builtin_bit_cast(int32_t, x[i]) & 0x7fffffff;
    amax_bits = bits > amax_bits ? bits : amax_bits;
  }
  if (amax_bits >= 0x7f800000) return false;
  const float amax = __builtin_bit_cast(float, amax_bits);
  if (amax < 0x1p-100f) {  // below, 127 / amax might overflow
    *scale = 0.0f;
    std::memset(q, 0, 32);
    half_sum[0] = half_sum[1] = 0;
    return true;
  }
  *scale = amax / 127.0f;
  const float r = 127.0f / amax;
  int32_t sum[2] = {0, 0};
  for (int half = 0; half < 2; ++half) {
    for (int i = 16 * half; i < 16 * half + 16; ++i) {
      // Adding 1.5 * 2^23 leaves rint(v) in the low bits of the result: |v| is at most about 127.
      const float shifted = x[i] * r + 0x1.8p23f;
      int32_t value = __builtin_bit_cast(int32_t, shifted) - 0x4b400000;
      value = value > 127 ? 127 : value;
      value = value < -127 ? -127 : value;
      q[i] = static_cast<int8_t>(value);
      sum[half] += value;
    }
  }
  half_sum[0] = static_cast<int16_t>(sum[0]);
  half_sum[1] = static_cast<int16_t>(sum[1]);
  return true;
}

}  // namespace

bool quantise_activations(const float* x, int64_t k, const QuantisedRows& out, int64_t row) {
  const int64_t first = row * out.units;
  bool finite = true;
  for (int64_t unit = 0; unit * 32 < k; ++unit) {
    const int64_t at = first + unit;
    const int64_t left = k - unit * 32;
    float tail[32] = {};
    const float* inputs = x + unit * 32;
    if (left < 32) {
      std::memcpy(tail, inputs, static_cast<size_t>(left) * sizeof(float));
      inputs = tail;
    }
    finite &= quantise_unit(inputs, out.q + at * 32, out.scale + at, out.half_sum + at * 2);
  }
  return finite;
}

}  // namespace hotset::HOTSET_ISA
