// exp, sigmoid and SiLU over lanes, from IEEE operations only (docs/numerics.md), so that every
// instruction set and every card agree.
#pragma once

#include "kernels/simd/device_function.h"
#include "kernels/simd/lanes.h"

namespace hotset::HOTSET_ISA {

// e^x for x clamped to [-87, 88], NaN to -87; below 2 ulp (tests/kernels/exp_test.cc). n = rint(x
// log2 e) by adding 1.5 * 2^23; e^f on |f| <= ln2/2 by its Taylor polynomial with the last
// coefficients fitted; 2^n through the exponent bits.
HOTSET_DEVICE F exp_lanes(F x) {
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
HOTSET_DEVICE float exp_one(float x) {
  return fold_max(exp_lanes(set(x)));
}

HOTSET_DEVICE F sigmoid_lanes(F x) {
  return div(set(1.0f), add(set(1.0f), exp_lanes(sub(zero(), x))));
}

HOTSET_DEVICE F silu_lanes(F x) {
  return div(x, add(set(1.0f), exp_lanes(sub(zero(), x))));
}

}  // namespace hotset::HOTSET_ISA
