// The logarithm of the delta net's decay.
#pragma once

#include <cstdint>

#include "kernels/simd/device_function.h"

namespace hotset {

// log(1 + e) for e >= 0, in double precision from basic operations: log1p = log(1 + e) by splitting
// off the exponent and the series of atanh. No libm: its code may differ by processor.
HOTSET_DEVICE double log_one_plus(double e) {
  const double x = 1.0 + e;
  const auto bits = __builtin_bit_cast(uint64_t, x);
  auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = __builtin_bit_cast(double, (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.41421356237309515) {
    m *= 0.5;
    ++exponent;
  }
  // For small e the rounding of 1 + e matters: add back what it lost, relative to x.
  const double lost = exponent == 0 ? (e - (x - 1.0)) / x : 0.0;
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  double sum = 0.0;
  for (int n = 21; n >= 1; n -= 2) sum = sum * s2 + 1.0 / n;
  return static_cast<double>(exponent) * 0.693147180559945309 + 2.0 * s * sum + lost;
}

}  // namespace hotset
