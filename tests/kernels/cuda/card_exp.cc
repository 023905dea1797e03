#define HOTSET_ISA emulated
#define HOTSET_ISA_card 1

#include "tests/kernels/cuda/card_exp.h"

#include "kernels/simd/float_math.h"

namespace hotset {

void card_exp(float* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = emulated::exp_lanes(x[i]);
}

}  // namespace hotset
