// The card's kernels over rows of activations: norm, sum, SwiGLU, copy. Bytes moved: each input
// once (norm: twice, the second time from the cache), each output once.
#pragma once

#include "kernels/cuda/dense_ops.cuh"

namespace hotset::HOTSET_ISA {

inline constexpr unsigned kRowThreads = 256;

// y[r] = RMSNorm(x[r]) * weight. Grid: rows. The sum has 16 lanes by rule, so one warp makes it.
HOTSET_KERNEL norm_kernel(float* y, const float* x, const float* weight, int64_t width, float eps) {
  HOTSET_SHARED(float, shared_scale, 1);
  const float* from = x + blockIdx.x * width;
  float* to = y + blockIdx.x * width;
  if (threadIdx.x < kWarp) {
    const float scale = rms_scale(from, width, eps);
    if (threadIdx.x == 0) *shared_scale = scale;
  }
  __syncthreads();
  const float scale = *shared_scale;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    to[i] = mul(mul(from[i], scale), weight[i]);
  }
}

// x += y
HOTSET_KERNEL add_kernel(float* x, const float* y, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) x[i] = add(x[i], y[i]);
}

HOTSET_KERNEL copy_kernel(float* to, const float* from, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) to[i] = from[i];
}

// out = SiLU(gate) * up
HOTSET_KERNEL swiglu_kernel(float* out, const float* gate, const float* up, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    out[i] = mul(silu_lanes(gate[i]), up[i]);
  }
}

}  // namespace hotset::HOTSET_ISA
