// What the card's dense kernels share: sums in 16 lanes (docs/numerics.md), a step's rows and runs,
// 16-byte reads.
#pragma once

#include <cstdint>

#include "kernels/cuda/card.cuh"
#include "kernels/cuda/card_kernels.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;

// The fold of 16 lanes: threads t and t + 16 of a warp hold lane t, and all get the sum.
HOTSET_DEVICE float fold_lanes(float lane) {
  for (unsigned step = 8; step >= 1; step /= 2) {
    lane = add(lane, __shfl_xor_sync(kWholeWarp, lane, static_cast<int>(step)));
  }
  return lane;
}

// The sum of x[i]^2, by a whole warp; each thread gets it.
HOTSET_DEVICE float sum_of_squares(const float* x, int64_t n) {
  float lane = 0.0f;
  for (int64_t i = threadIdx.x % 16; i < n; i += 16) lane = fma(x[i], x[i], lane);
  return fold_lanes(lane);
}

// The sum of x[i], likewise.
HOTSET_DEVICE float sum(const float* x, int64_t n) {
  float lane = 0.0f;
  for (int64_t i = threadIdx.x % 16; i < n; i += 16) lane = add(lane, x[i]);
  return fold_lanes(lane);
}

// What RMSNorm multiplies x by before the weight.
HOTSET_DEVICE float rms_scale(const float* x, int64_t n, float eps) {
  const float mean = div(sum_of_squares(x, n), static_cast<float>(n));
  return div(1.0f, square_root(add(mean, eps)));
}

// The largest value that a thread of the warp has.
HOTSET_DEVICE float warp_max(float x) {
  for (unsigned step = 16; step >= 1; step /= 2) {
    x = max(x, __shfl_xor_sync(kWholeWarp, x, static_cast<int>(step)));
  }
  return x;
}

// The run that row `row` of a step belongs to.
HOTSET_DEVICE const CardRun& run_of(const CardStep& step, int64_t row) {
  int64_t i = 0;
  while (i + 1 < step.run_count && step.runs[i + 1].first_row <= row) ++i;
  return step.runs[i];
}

// An index of this thread among all of a launch of one dimension, and how many there are.
HOTSET_DEVICE int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
HOTSET_DEVICE int64_t global_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// Blocks of `threads` threads that go through n items, a few each where there are many.
inline unsigned blocks_for(int64_t n, int64_t threads) {
  constexpr int64_t kMost = 1024;
  const int64_t blocks = (n + threads - 1) / threads;
  return static_cast<unsigned>(blocks < kMost ? blocks : kMost);
}

// Keys and values: eight consecutive elements as floats, in reads of 16 bytes.
struct HalfElements {
  using Type = uint16_t;
  HOTSET_DEVICE static void load8(const uint16_t* p, float* out) {
    const uint4 raw = load_wide<uint4>(p);
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = from_half(static_cast<uint16_t>(words[i] & 0xffffu));
      out[2 * i + 1] = from_half(static_cast<uint16_t>(words[i] >> 16));
    }
  }
  HOTSET_DEVICE static uint16_t store(float x) {
    return to_half(x);
  }
};
struct FloatElements {
  using Type = float;
  HOTSET_DEVICE static void load8(const float* p, float* out) {
    const float4 a = load_wide<float4>(p);
    const float4 b = load_wide<float4>(p + 4);
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
  }
  HOTSET_DEVICE static float store(float x) { return x; }
};

}  // namespace hotset::HOTSET_ISA
