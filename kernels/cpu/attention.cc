// Attention of the query heads that share one KV head over blocks of 256 positions. Each block is
// computed on its own (scores, its maximum, its sum, its weighted values) and merged into the
// running result in block order, so the bits do not depend on how many rows are in the step or how
// the context grew. Reads keys and values once for all heads of the group.
#include "kernels/cpu/functions.h"
#include "kernels/simd/float_math.h"

namespace hotset::HOTSET_ISA {

namespace {

constexpr int64_t kBundle = 8;  // heads that go through a block before the next one is read
// What is computed together, so that sums stay in registers: heads, positions of the scores,
// vectors of the values.
constexpr int kHeads = kRegisters >= 32 ? 8 : 4;
constexpr int kPositions = kRegisters >= 32 ? 2 : 1;
constexpr int kVectors = kRegisters >= 32 ? 2 : 1;
constexpr int64_t kLine = 64;

struct HalfElements {
  using Type = uint16_t;
  static F load16(const uint16_t* p) { return load_half(p); }
};
struct FloatElements {
  using Type = float;
  static F load16(const float* p) { return load(p); }
};

inline void prefetch_bytes(const void* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) prefetch(static_cast<const char*>(at) + i);
}

// scores[h][p] = q_h . k_p in 16 lanes.
template <class Elements, int kCount, int kPlaces>
inline void score(const float* q, const typename Elements::Type* k, int64_t dim, float* scores) {
  F acc[kPlaces][kCount];
  for (auto& row : acc) {
    for (F& sum : row) sum = zero();
  }
  for (int64_t d = 0; d < dim; d += 16) {
    F key[kPlaces];
    for (int p = 0; p < kPlaces; ++p) key[p] = Elements::load16(k + p * dim + d);
    for (int h = 0; h < kCount; ++h) {
      const F query = keep(load(q + h * dim + d));
      for (int p = 0; p < kPlaces; ++p) acc[p][h] = fma(query, key[p], acc[p][h]);
    }
  }
  for (int p = 0; p < kPlaces; ++p) {
    float sums[kCount];
    fold_all<kCount>(acc[p], sums);
    for (int h = 0; h < kCount; ++h) scores[h * kKvBlockPositions + p] = sums[h];
  }
}

// The scores of a block's positions. The block's values, wanted next, come from memory meanwhile.
template <class Elements, int kCount>
void block_scores(const float* q, const typename Elements::Type* k,
                  const typename Elements::Type* v, int64_t dim, int64_t positions, float* scores) {
  const int64_t row_bytes = dim * static_cast<int64_t>(sizeof(*k));
  int64_t j = 0;
  for (; j + kPositions <= positions; j += kPositions) {
    prefetch_bytes(v + j * dim, kPositions * row_bytes);
    score<Elements, kCount, kPositions>(q, k + j * dim, dim, scores + j);
  }
  for (; j < positions; ++j) score<Elements, kCount, 1>(q, k + j * dim, dim, scores + j);
}

// values[h][d] = sum_j p[h][j] * v[j][d], j rising, for kWide vectors of d from there on. The keys
// of the next block come from memory meanwhile.
template <class Elements, int kCount, int kWide>
inline void weigh(const float* p, const typename Elements::Type* v,
                  const typename Elements::Type* next_k, int64_t dim, int64_t positions,
                  float* values) {
  F acc[kWide][kCount];
  for (auto& row : acc) {
    for (F& sum : row) sum = zero();
  }
  for (int64_t j = 0; j < positions; ++j) {
    prefetch_bytes(next_k + j * dim, kWide * 16 * static_cast<int64_t>(sizeof(*v)));
    F value[kWide];
    for (int w = 0; w < kWide; ++w) value[w] = Elements::load16(v + j * dim + 16 * w);
    for (int h = 0; h < kCount; ++h) {
      const F weight = keep(set(p[h * kKvBlockPositions + j]));
      for (int w = 0; w < kWide; ++w) acc[w][h] = fma(weight, value[w], acc[w][h]);
    }
  }
  for (int h = 0; h < kCount; ++h) {
    for (int w = 0; w < kWide; ++w) store(values + h * dim + 16 * w, acc[w][h]);
  }
}

template <class Elements, int kCount>
void block_values(const float* p, const typename Elements::Type* v,
                  const typename Elements::Type* next_k, int64_t dim, int64_t positions,
                  float* values) {
  int64_t d = 0;
  for (; d + 16 * kVectors <= dim; d += 16 * kVectors) {
    weigh<Elements, kCount, kVectors>(p, v + d, next_k + d, dim, positions, values + d);
  }
  for (; d < dim; d += 16) {
    weigh<Elements, kCount, 1>(p, v + d, next_k + d, dim, positions, values + d);
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

// kCount heads from `head` on, of the bundle that begins at `first`, through one block.
template <class Elements, int kCount>
void attend_block(const AttentionArgs& a, int64_t first, int64_t head, int64_t block) {
  float* scores = a.scratch;                             // [kCount][kKvBlockPositions]
  float* values = scores + kBundle * kKvBlockPositions;  // [kCount][dim]
  float* state = values + kBundle * a.dim + 2 * (head - first);
  const int64_t start = block * kKvBlockPositions;
  const int64_t left = a.positions - start;
  const int64_t positions = left < kKvBlockPositions ? left : kKvBlockPositions;
  using Type = typename Elements::Type;
  const auto* k = static_cast<const Type*>(a.k_blocks[block]);
  const auto* v = static_cast<const Type*>(a.v_blocks[block]);
  const bool is_last = left <= kKvBlockPositions;
  const auto* next_k = is_last ? k : static_cast<const Type*>(a.k_blocks[block + 1]);
  block_scores<Elements, kCount>(a.q + head * a.dim, k, v, a.dim, positions, scores);
  BlockSum sums[kCount];
  for (int h = 0; h < kCount; ++h) {
    sums[h] = block_softmax(scores + h * kKvBlockPositions, positions);
  }
  block_values<Elements, kCount>(scores, v, next_k, a.dim, positions, values);
  for (int h = 0; h < kCount; ++h) {
    merge(state + 2 * h, a.out + (head + h) * a.dim, sums[h], values + h * a.dim, a.dim,
          start == 0);
  }
}

// Heads [first, end), at most kBundle: a block's keys and values are read once for all of them.
template <class Elements>
void attend_bundle(const AttentionArgs& a, int64_t first, int64_t end) {
  for (int64_t block = 0; block * kKvBlockPositions < a.positions; ++block) {
    int64_t head = first;
    for (; head + kHeads <= end; head += kHeads) {
      attend_block<Elements, kHeads>(a, first, head, block);
    }
    for (; head + 2 <= end; head += 2) attend_block<Elements, 2>(a, first, head, block);
    for (; head < end; ++head) attend_block<Elements, 1>(a, first, head, block);
  }
  const float* state = a.scratch + kBundle * (kKvBlockPositions + a.dim);
  for (int64_t head = first; head < end; ++head) {
    const F total = set(state[2 * (head - first) + 1]);
    float* out = a.out + head * a.dim;
    for (int64_t d = 0; d < a.dim; d += 16) store(out + d, div(load(out + d), total));
  }
}

template <class Elements>
void attend(const AttentionArgs& a) {
  for (int64_t head = 0; head < a.heads; head += kBundle) {
    attend_bundle<Elements>(a, head, head + kBundle < a.heads ? head + kBundle : a.heads);
  }
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
