// The router's picks and the head's: top-k with softmax, argmax. Ties go to the lower index.
#pragma once

#include "kernels/cuda/dense_ops.cuh"

namespace hotset::HOTSET_ISA {

inline constexpr unsigned kRouterThreads = 256;

// A number that orders like the float (NaN least, the zeros alike), and then by falling index: no
// two are equal, so whatever the logits are, ranks are a permutation.
HOTSET_DEVICE uint64_t ordered(float x, int64_t index) {
  const auto bits = __builtin_bit_cast(uint32_t, add(x, 0.0f));  // -0 + 0 = +0
  const uint32_t up = bits >> 31 ? ~bits : bits | 0x80000000u;
  const uint32_t key = x == x ? up : 0;
  return static_cast<uint64_t>(key) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

// p = exp(logits - largest) for n logits, by a whole block; returns the sum to each thread. `total`
// is a float of shared memory.
HOTSET_DEVICE float softmax_sum(float* p, const float* logits, float largest, int64_t n,
                                float* total) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) p[i] = exp_lanes(sub(logits[i], largest));
  __syncthreads();
  if (threadIdx.x < kWarp) {
    const float all = sum(p, n);
    if (threadIdx.x == 0) *total = all;
  }
  __syncthreads();
  return *total;
}

// Picks of row blockIdx.x. A logit's rank is the number of those before it: width^2 comparisons by
// all threads, which no thread waits for, where k rounds of a maximum are k barriers. Dynamic
// shared: `width` ranks' keys and `width` floats, then k floats.
HOTSET_KERNEL route_kernel(int32_t* experts, float* weights, const float* logits, int64_t width,
                           int64_t k, int normalise) {
  HOTSET_DYNAMIC_SHARED(uint64_t, keys);
  float* p = reinterpret_cast<float*>(keys + width);
  float* picked = p + width;
  HOTSET_SHARED(float, largest, 1);
  HOTSET_SHARED(float, total, 1);
  const float* row = logits + blockIdx.x * width;
  int32_t* out = experts + blockIdx.x * k;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) keys[i] = ordered(row[i], i);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const uint64_t key = keys[i];
    int64_t rank = 0;
    for (int64_t j = 0; j < width; ++j) rank += keys[j] > key ? 1 : 0;
    if (rank < k) out[rank] = static_cast<int32_t>(i);
    if (rank == 0) *largest = row[i];
  }
  __syncthreads();
  const float all = softmax_sum(p, row, *largest, width, total);
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) picked[i] = div(p[out[i]], all);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    float of_picks = 0.0f;
    for (int64_t j = 0; j < k; ++j) of_picks = add(of_picks, picked[j]);
    weights[blockIdx.x * k + i] = normalise ? div(picked[i], of_picks) : picked[i];
  }
}

// The weights of given picks. Grid: rows. Dynamic shared: 2 * k floats.
HOTSET_KERNEL weigh_kernel(float* weights, const int32_t* experts, const float* logits,
                           int64_t width, int64_t k) {
  HOTSET_DYNAMIC_SHARED(float, of_picks);
  float* p = of_picks + k;
  HOTSET_SHARED(float, total, 1);
  const int32_t* picks = experts + blockIdx.x * k;
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    of_picks[i] = logits[blockIdx.x * width + picks[i]];
  }
  __syncthreads();
  float largest = of_picks[0];
  for (int64_t i = 1; i < k; ++i) largest = of_picks[i] > largest ? of_picks[i] : largest;
  const float all = softmax_sum(p, of_picks, largest, k, total);
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    weights[blockIdx.x * k + i] = div(p[i], all);
  }
}

// The largest of a block's keys, to thread 0. `of_warps`: a key of shared memory for each warp.
HOTSET_DEVICE uint64_t block_max(uint64_t key, uint64_t* of_warps) {
  for (unsigned step = 16; step >= 1; step /= 2) {
    const uint64_t other =
        __shfl_xor_sync(kWholeWarp, static_cast<unsigned long long>(key), static_cast<int>(step));
    key = other > key ? other : key;
  }
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = key;
  __syncthreads();
  for (unsigned w = 0; threadIdx.x == 0 && w < blockDim.x / kWarp; ++w) {
    key = of_warps[w] > key ? of_warps[w] : key;
  }
  return key;
}

// The best key of part blockIdx.y of row blockIdx.x; 0: nothing there is allowed.
HOTSET_KERNEL argmax_parts_kernel(uint64_t* best, const float* logits, const uint8_t* allowed,
                                  int64_t width) {
  HOTSET_SHARED(uint64_t, of_warps, kRouterThreads / kWarp);
  const float* row = logits + blockIdx.x * width;
  uint64_t key = 0;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < width; i += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const uint64_t mine = allowed == nullptr || allowed[i] != 0 ? ordered(row[i], i) : 0;
    key = mine > key ? mine : key;
  }
  key = block_max(key, of_warps);
  if (threadIdx.x == 0) best[blockIdx.x * kCardArgmaxParts + blockIdx.y] = key;
}

// The best of the parts of row blockIdx.x, by one warp.
HOTSET_KERNEL argmax_kernel(int32_t* ids, const uint64_t* best, int64_t parts) {
  HOTSET_SHARED(uint64_t, of_warps, 1);
  uint64_t key = 0;
  for (int64_t i = threadIdx.x; i < parts; i += blockDim.x) {
    const uint64_t mine = best[blockIdx.x * kCardArgmaxParts + i];
    key = mine > key ? mine : key;
  }
  key = block_max(key, of_warps);
  if (threadIdx.x == 0) {
    ids[blockIdx.x] = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
  }
}

}  // namespace hotset::HOTSET_ISA
