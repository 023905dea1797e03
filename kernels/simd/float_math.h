// exp, sigmoid and SiLU over sixteen lanes, from IEEE operations only (docs/numerics.md), so that
// every instruction set agrees.
#pragma once

#include "kernels/simd/lanes.h"

namespace hotset::HOTSET_ISA {

// e^x for x clamped to [-87, 88], NaN to -87; below 2 ulp (tests/kernels/exp_test.cc). n = rint(x
// log2 e) by adding 1.5 * 2^23; e^f on |f| <= ln2/2 by its Taylor polynomial with the last
// coefficients fitted; 2^n through the exponent bits.
inline F exp_lanes(F x) {
  const F magic = set(12582912.0f);
  x = min(max(x, set(-87.0f)), set(88.0f));
  const F t = fma(x, set(1.44269504088896341f), magic);
  const F n = sub(t, magic);
  F f = fma(n, set(-0.693145751953125f), x);
  f = fma(n, set(-1.42860677e-6f), f);
  F p = set(1.9875691500e-4f);
  p = fma(p, f, set(1.3981999507e-3f));
  p = fma(p, f, set(8.3334519073e-3f));
  p = fma(p, f, set(4.1665795894e-2f));
  p = fma(p, f, set(1.6666665459e-1f));
  p = fma(p, f, set(5.0000001201e-1f));
  p = fma(mul(f, f), p, add(f, set(1.0f)));
  return mul(p, power_of_two(t));
}

// e^x of one number, by the same operations.
inline float exp_one(float x) {
  return fold_max(exp_lanes(set(x)));
}

inline F sigmoid_lanes(F x) {
  return div(set(1.0f), add(set(1.0f), exp_lanes(sub(zero(), x))));
}

inline F silu_lanes(F x) {
  return div(x, add(set(1.0f), exp_lanes(sub(zero(), x))));
}

// Calls body(i, n) for i = 0, 16, ...: n is 16, or what is left at the end.
template <class Body>
inline void for_lanes(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) body(i, int64_t{16});
  if (i < count) body(i, count - i);
}
inline F load_some(const float* p, int64_t n) {
  return n == 16 ? load(p) : load_partial(p, n);
}
inline void store_some(float* p, F a, int64_t n) {
  if (n == 16) {
    store(p, a);
  } else {
    store_partial(p, a, n);
  }
}

}  // namespace hotset::HOTSET_ISA
