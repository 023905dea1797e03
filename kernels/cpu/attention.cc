// Attention of the query heads that share one KV head over blocks of 256 positions. Each block is
// computed on its own (scores, its maximum, its sum, its weighted values) and merged into the
// running result in block order, so the bits do not depend on how many rows are in the step or how
// the context grew. Reads keys and values once for all heads of the group.
#include "kernels/cpu/functions.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

namespace {

constexpr int64_t kHeads = 8;  // heads computed together: eight accumulators fit the registers

struct HalfElements {
  using Type = uint16_t;
  static F load16(const uint16_t* p) { return load_half(p); }
};
struct FloatElements {
  using Type = float;
  static F load16(const float* p) { return load(p); }
};

// scores[h][j] = q_h . k_j in 16 lanes, for up to kHeads heads.
template <class Elements, int kCount>
void block_scores(const AttentionArgs& a, const float* q, const typename Elements::Type* k,
                  int64_t positions, float* scores) {
  for (int64_t j = 0; j < positions; ++j) {
    F acc[kCount];
    for (int h = 0; h < kCount; ++h) acc[h] = zero();
    for (int64_t d = 0; d < a.dim; d += 16) {
      const F key = Elements::load16(k + j * a.dim + d);
      for (int h = 0; h < kCount; ++h) acc[h] = fma(load(q + h * a.dim + d), key, acc[h]);
    }
    for (int h = 0; h < kCount; ++h) scores[h * kKvBlockPositions + j] = fold(acc[h]);
  }
}

// values[h][d] = sum_j p[h][j] * v[j][d], j rising.
template <class Elements, int kCount>
void block_values(const AttentionArgs& a, const float* p, const typename Elements::Type* v,
                  int64_t positions, float* values) {
  for (int64_t d = 0; d < a.dim; d += 16) {
    F acc[kCount];
    for (int h = 0; h < kCount; ++h) acc[h] = zero();
    for (int64_t j = 0; j < positions; ++j) {
      const F value = Elements::load16(v + j * a.dim + d);
      for (int h = 0; h < kCount; ++h)
        acc[h] = fma(set(p[h * kKvBlockPositions + j]), value, acc[h]);
    }
    for (int h = 0; h < kCount; ++h) store(values + h * a.dim + d, acc[h]);
  }
}

// p = exp(scores - max), in place; returns the sum and the maximum.
struct BlockSum {
  float largest, sum;
};
BlockSum block_softmax(float* scores, int64_t positions) {
  float largest = scores[0];
  for (int64_t j = 1; j < positions; ++j) largest = scores[j] > largest ? scores[j] : largest;
  F sum = zero();
  for_lanes(positions, [&](int64_t j, int64_t m) {
    store_some(scores + j, exp_lanes(sub(load_some(scores + j, m), set(largest))), m);
    sum = add(sum, load_some(scores + j, m));
  });
  return {largest, fold(sum)};
}

// Merges one block's (largest, sum, values) into the running (state[0], state[1], out).
void merge(float* state, float* out, BlockSum block, const float* values, int64_t dim, bool first) {
  if (first) {
    state[0] = block.largest;
    state[1] = block.sum;
    for (int64_t d = 0; d < dim; d += 16) store(out + d, load(values + d));
    return;
  }
  const float largest = block.largest > state[0] ? block.largest : state[0];
  const float old_scale = exp_one(state[0] - largest);
  const float new_scale = exp_one(block.largest - largest);
  state[0] = largest;
  state[1] = __builtin_fmaf(block.sum, new_scale, state[1] * old_scale);
  for (int64_t d = 0; d < dim; d += 16) {
    const F kept = mul(load(out + d), set(old_scale));
    store(out + d, fma(load(values + d), set(new_scale), kept));
  }
}

template <class Elements, int kCount>
void attend_heads(const AttentionArgs& a, int64_t head) {
  float* scores = a.scratch;                            // [kCount][kKvBlockPositions]
  float* values = scores + kHeads * kKvBlockPositions;  // [kCount][dim]
  float* state = values + kHeads * a.dim;               // [kCount][2]
  const float* q = a.q + head * a.dim;
  float* out = a.out + head * a.dim;
  for (int64_t start = 0; start < a.positions; start += kKvBlockPositions) {
    const int64_t positions =
        a.positions - start < kKvBlockPositions ? a.positions - start : kKvBlockPositions;
    const auto* k =
        static_cast<const typename Elements::Type*>(a.k_blocks[start / kKvBlockPositions]);
    const auto* v =
        static_cast<const typename Elements::Type*>(a.v_blocks[start / kKvBlockPositions]);
    block_scores<Elements, kCount>(a, q, k, positions, scores);
    BlockSum sums[kCount];
    for (int h = 0; h < kCount; ++h)
      sums[h] = block_softmax(scores + h * kKvBlockPositions, positions);
    block_values<Elements, kCount>(a, scores, v, positions, values);
    for (int h = 0; h < kCount; ++h) {
      merge(state + 2 * h, out + h * a.dim, sums[h], values + h * a.dim, a.dim, start == 0);
    }
  }
  for (int h = 0; h < kCount; ++h) {
    const F total = set(state[2 * h + 1]);
    for (int64_t d = 0; d < a.dim; d += 16) {
      store(out + h * a.dim + d, div(load(out + h * a.dim + d), total));
    }
  }
}

template <class Elements>
void attend(const AttentionArgs& a) {
  int64_t head = 0;
  for (; head + 8 <= a.heads; head += 8) attend_heads<Elements, 8>(a, head);
  for (; head + 4 <= a.heads; head += 4) attend_heads<Elements, 4>(a, head);
  for (; head + 2 <= a.heads; head += 2) attend_heads<Elements, 2>(a, head);
  for (; head < a.heads; ++head) attend_heads<Elements, 1>(a, head);
}

}  // namespace

void attention(const AttentionArgs& args) {
  if (args.is_f16) {
    attend<HalfElements>(args);
  } else {
    attend<FloatElements>(args);
  }
}

}  // namespace hotset::HOTSET_ISA
