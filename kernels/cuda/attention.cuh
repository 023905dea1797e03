// Full attention on the card. Each KV block of 256 positions gives its own maximum, sum and
// weighted values, which are merged in block order: for decoding a block of threads for each KV
// block and a kernel that merges, for prompts one block of threads that goes through all. Both have
// the bits of kernels/cpu/attention.cc.
//
// Bytes: keys and values of a sequence once for each 8 query heads that share them. Threads:
// kAttendThreads, one a position for the scores, one for 8 dimensions of a head for the values.
#pragma once

#include "kernels/cuda/dense_ops.cuh"

namespace hotset::HOTSET_ISA {

inline constexpr unsigned kAttendThreads = kKvBlockPositions, kMergeThreads = 128;
inline constexpr int64_t kBundle = 8;  // query heads that go through a KV block together
inline constexpr int kScoreHeads = 2;  // of them, those whose sums a thread holds at once

// Keys (0) or values (1) of one KV head in one block.
template <class Elements>
HOTSET_DEVICE typename Elements::Type* kv_plane(const CardAttendArgs& a, const CardRun& run,
                                                int64_t block, int64_t kv_head, int values) {
  std::byte* const at = a.step.kv_blocks[run.sequence * a.step.blocks_each + block];
  const int64_t plane = (a.layer * 2 + values) * a.kv_heads + kv_head;
  return reinterpret_cast<typename Elements::Type*>(at) + plane * kKvBlockPositions * a.dim;
}

// Row blockIdx.x, head blockIdx.y: a query (normed, rotated, scaled) or, from `heads` on, a key and
// its value, which go into the sequence. One warp. Dynamic shared: dim floats.
template <class Elements>
HOTSET_KERNEL rotate_kernel(CardAttendArgs a, float query_scale) {
  HOTSET_DYNAMIC_SHARED(float, head);
  const int64_t row = blockIdx.x, h = blockIdx.y, kv_head = h - a.heads;
  const bool is_query = kv_head < 0;
  const CardRun& run = run_of(a.step, row);
  const int64_t position = run.position + (row - run.first_row);
  const float* from = is_query ? a.q + (row * a.heads + h) * (a.gated ? 2 : 1) * a.dim
                               : a.k + (row * a.kv_heads + kv_head) * a.dim;
  const float* weight = is_query ? a.q_norm : a.k_norm;
  const float scale = rms_scale(from, a.dim, a.eps);
  for (int64_t i = threadIdx.x; i < a.dim; i += kWarp)
    head[i] = mul(mul(from[i], scale), weight[i]);
  __syncwarp();

  const int64_t block = position / kKvBlockPositions;
  const int64_t at = position % kKvBlockPositions * a.dim;
  for (int64_t i = threadIdx.x; i < a.dim; i += kWarp) {
    float x = head[i];
    if (i < 2 * a.half) {
      const int64_t j = i < a.half ? i : i - a.half;
      const float c = a.cos[position * a.half + j], s = a.sin[position * a.half + j];
      const float other = head[i < a.half ? i + a.half : j];
      x = i < a.half ? sub(mul(x, c), mul(other, s)) : add(mul(x, c), mul(other, s));
    }
    if (is_query) {
      a.rotated[(row * a.heads + h) * a.dim + i] = mul(x, query_scale);
    } else {
      const float value = a.v[(row * a.kv_heads + kv_head) * a.dim + i];
      kv_plane<Elements>(a, run, block, kv_head, 0)[at + i] = Elements::store(x);
      kv_plane<Elements>(a, run, block, kv_head, 1)[at + i] = Elements::store(value);
    }
  }
}

// The maximum and the sum of a block, or of the blocks merged so far.
struct BlockSum {
  float largest, sum;
};

// Shared memory of a block of threads, at most kBundle heads: queries [heads][dim], scores
// [heads][256], later exp(score - maximum).
struct AttendShared {
  float *queries, *scores;
  BlockSum* sums;  // [kBundle]
};

// The fold of 16 lanes that one thread holds. Written out: an index that is no constant would put
// the lanes into memory.
HOTSET_DEVICE float fold_of(const float* l) {
  float u[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) u[i] = add(add(l[i], l[i + 8]), add(l[i + 4], l[i + 12]));
  return add(add(u[0], u[2]), add(u[1], u[3]));
}

// scores[h][p] = q_h . k_p in 16 lanes, for kCount heads from `first` on and this thread's
// position.
template <class Elements, int kCount>
HOTSET_DEVICE void score(const AttendShared& shared, int64_t first,
                         const typename Elements::Type* key, int64_t dim) {
  float lanes[kCount][16];
#pragma unroll
  for (int h = 0; h < kCount; ++h) {
#pragma unroll
    for (int i = 0; i < 16; ++i) lanes[h][i] = 0.0f;
  }
#pragma unroll 1  // else the registers do not suffice
  for (int64_t d = 0; d < dim; d += 16) {
#pragma unroll
    for (int half = 0; half < 16; half += 8) {
      float k[8];
      Elements::load8(key + d + half, k);
#pragma unroll
      for (int h = 0; h < kCount; ++h) {
        float q[8];
        FloatElements::load8(shared.queries + (first + h) * dim + d + half, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) lanes[h][half + i] = fma(q[i], k[i], lanes[h][half + i]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < kCount; ++h) {
    shared.scores[(first + h) * kKvBlockPositions + threadIdx.x] = fold_of(lanes[h]);
  }
}

// Scores of `heads` heads, their softmax's numerators and sums. Each warp takes some heads for the
// latter. Ends with a barrier.
template <class Elements>
HOTSET_DEVICE void block_scores(const AttendShared& shared, int64_t heads,
                                const typename Elements::Type* keys, int64_t dim,
                                int64_t positions) {
  if (threadIdx.x < positions) {
    const typename Elements::Type* key = keys + threadIdx.x * dim;
    int64_t h = 0;
    for (; h + kScoreHeads <= heads; h += kScoreHeads) {
      score<Elements, kScoreHeads>(shared, h, key, dim);
    }
    for (; h < heads; ++h) score<Elements, 1>(shared, h, key, dim);
  }
  __syncthreads();
  for (int64_t h = threadIdx.x / kWarp; h < heads; h += kAttendThreads / kWarp) {
    float* p = shared.scores + h * kKvBlockPositions;
    const unsigned lane = threadIdx.x % kWarp;
    float largest = p[0];
    for (int64_t j = lane; j < positions; j += kWarp) largest = max(p[j], largest);
    largest = warp_max(largest);
    __syncwarp();  // all have read p[0]
    for (int64_t j = lane; j < positions; j += kWarp) p[j] = exp_lanes(sub(p[j], largest));
    __syncwarp();
    const float total = sum(p, positions);
    if (lane == 0) shared.sums[h] = {largest, total};
  }
  __syncthreads();
}

// out[i] = sum_j p[j] * v[j][i], j rising, for eight dimensions.
template <class Elements>
HOTSET_DEVICE void weighted_values(const float* p, const typename Elements::Type* values,
                                   int64_t dim, int64_t positions, float* out) {
#pragma unroll
  for (int i = 0; i < 8; ++i) out[i] = 0.0f;
#pragma unroll 4
  for (int64_t j = 0; j < positions; ++j) {
    float v[8];
    Elements::load8(values + j * dim, v);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = fma(p[j], v[i], out[i]);
  }
}

// What one more block does to the blocks before it: out = fma(values, fresh, out * kept).
struct Merge {
  BlockSum merged;
  float kept, fresh;
};
HOTSET_DEVICE Merge merge(BlockSum before, BlockSum block) {
  const float largest = max(block.largest, before.largest);
  const float kept = exp_one(sub(before.largest, largest));
  const float fresh = exp_one(sub(block.largest, largest));
  return {{largest, fma(block.sum, fresh, mul(before.sum, kept))}, kept, fresh};
}

// The heads that this block of threads serves: blockIdx.y counts the bundles of every KV head.
struct Bundle {
  int64_t kv_head, first, heads;  // first: of the query heads
};
HOTSET_DEVICE Bundle bundle_of(const CardAttendArgs& a, int64_t index) {
  const int64_t group = a.heads / a.kv_heads, bundles = (group + kBundle - 1) / kBundle;
  const int64_t skipped = index % bundles * kBundle, left = group - skipped;
  return {index / bundles, index / bundles * group + skipped, left < kBundle ? left : kBundle};
}

// Splits dynamic shared memory and brings the row's queries there. Ends with a barrier.
HOTSET_DEVICE AttendShared load_queries(const CardAttendArgs& a, float* shared, BlockSum* sums,
                                        int64_t row, const Bundle& b) {
  for (int64_t i = threadIdx.x; i < b.heads * a.dim; i += blockDim.x) {
    shared[i] = a.rotated[(row * a.heads + b.first) * a.dim + i];
  }
  __syncthreads();
  return {shared, shared + kBundle * a.dim, sums};
}

HOTSET_DEVICE float gate(const CardAttendArgs& a, int64_t row, int64_t head, int64_t d, float x) {
  if (!a.gated) return x;
  return mul(x, sigmoid_lanes(a.q[((row * a.heads + head) * 2 + 1) * a.dim + d]));
}

// Decoding: row blockIdx.x, bundle blockIdx.y, KV block blockIdx.z, which leaves its values,
// maximum and sum in scratch [rows][heads][context_blocks][dim + 2]. A block beyond the row's
// positions has nothing to do. Dynamic shared: kBundle * (dim + 256) floats.
template <class Elements>
HOTSET_KERNEL __launch_bounds__(kAttendThreads, 2) attend_block_kernel(CardAttendArgs a) {
  HOTSET_DYNAMIC_SHARED(float, shared);
  HOTSET_SHARED(BlockSum, sums, kBundle);
  const int64_t row = blockIdx.x, block = blockIdx.z;
  const CardRun& run = run_of(a.step, row);
  const int64_t left = run.position + (row - run.first_row) + 1 - block * kKvBlockPositions;
  if (left <= 0) return;  // the same for all threads
  const int64_t positions = left < kKvBlockPositions ? left : kKvBlockPositions;
  const Bundle bundle = bundle_of(a, blockIdx.y);
  const AttendShared s = load_queries(a, shared, sums, row, bundle);
  block_scores<Elements>(s, bundle.heads, kv_plane<Elements>(a, run, block, bundle.kv_head, 0),
                         a.dim, positions);
  const typename Elements::Type* values = kv_plane<Elements>(a, run, block, bundle.kv_head, 1);
  const int64_t eights = a.dim / 8;
  for (int64_t t = threadIdx.x; t < bundle.heads * eights; t += blockDim.x) {
    const int64_t h = t / eights, d = t % eights * 8;
    float out[8];
    weighted_values<Elements>(s.scores + h * kKvBlockPositions, values + d, a.dim, positions, out);
    float* to =
        a.scratch + ((row * a.heads + bundle.first + h) * a.context_blocks + block) * (a.dim + 2);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[d + i] = out[i];
    if (d == 0) to[a.dim] = s.sums[h].largest, to[a.dim + 1] = s.sums[h].sum;
  }
}

// Merges what attend_block_kernel left: row blockIdx.x, head blockIdx.y, a thread a dimension.
HOTSET_KERNEL merge_kernel(CardAttendArgs a) {
  const int64_t row = blockIdx.x, head = blockIdx.y;
  const CardRun& run = run_of(a.step, row);
  const int64_t last = (run.position + (row - run.first_row)) / kKvBlockPositions;
  const float* from = a.scratch + (row * a.heads + head) * a.context_blocks * (a.dim + 2);
  for (int64_t d = threadIdx.x; d < a.dim; d += blockDim.x) {
    BlockSum state = {from[a.dim], from[a.dim + 1]};
    float out = from[d];
    for (int64_t block = 1; block <= last; ++block) {
      const float* next = from + block * (a.dim + 2);
      const Merge m = merge(state, {next[a.dim], next[a.dim + 1]});
      out = fma(next[d], m.fresh, mul(out, m.kept));
      state = m.merged;
    }
    a.out[(row * a.heads + head) * a.dim + d] = gate(a, row, head, d, div(out, state.sum));
  }
}

// Prompts: row blockIdx.x, bundle blockIdx.y, all KV blocks in order. A thread always has the same
// dimensions, so `out` holds what is merged so far. Dynamic shared: kBundle * (dim + 256) floats.
template <class Elements>
HOTSET_KERNEL __launch_bounds__(kAttendThreads, 1) attend_row_kernel(CardAttendArgs a) {
  HOTSET_DYNAMIC_SHARED(float, shared);
  HOTSET_SHARED(BlockSum, sums, kBundle);
  HOTSET_SHARED(BlockSum, merged, 2 * kBundle);  // before and after a block
  const int64_t row = blockIdx.x;
  const CardRun& run = run_of(a.step, row);
  const int64_t end = run.position + (row - run.first_row) + 1;
  const Bundle bundle = bundle_of(a, blockIdx.y);
  const AttendShared s = load_queries(a, shared, sums, row, bundle);
  const int64_t eights = a.dim / 8;
  for (int64_t block = 0; block * kKvBlockPositions < end; ++block) {
    const int64_t left = end - block * kKvBlockPositions;
    const int64_t positions = left < kKvBlockPositions ? left : kKvBlockPositions;
    block_scores<Elements>(s, bundle.heads, kv_plane<Elements>(a, run, block, bundle.kv_head, 0),
                           a.dim, positions);
    const typename Elements::Type* values = kv_plane<Elements>(a, run, block, bundle.kv_head, 1);
    for (int64_t t = threadIdx.x; t < bundle.heads * eights; t += blockDim.x) {
      const int64_t h = t / eights, d = t % eights * 8, head = bundle.first + h;
      float fresh[8];
      weighted_values<Elements>(s.scores + h * kKvBlockPositions, values + d, a.dim, positions,
                                fresh);
      float* out = a.out + (row * a.heads + head) * a.dim + d;
      Merge m = {s.sums[h], 0.0f, 1.0f};
      if (block > 0) m = merge(merged[block % 2 * kBundle + h], s.sums[h]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float all = block > 0 ? fma(fresh[i], m.fresh, mul(out[i], m.kept)) : fresh[i];
        out[i] = left > kKvBlockPositions ? all : gate(a, row, head, d + i, div(all, m.merged.sum));
      }
      if (d == 0) merged[(block + 1) % 2 * kBundle + h] = m.merged;
    }
    __syncthreads();  // the next block's scores overwrite these
  }
}

}  // namespace hotset::HOTSET_ISA
