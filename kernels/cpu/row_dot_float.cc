// Row dots of float matrices (PF: bf16, f16 or f32 elements; F8: e4m3 elements with scales) with
// float32 activations: the float lanes of docs/numerics.md, lane[k % 8] in rising k.
#include "kernels/cpu/row_dot.h"

namespace hotset::HOTSET_ISA {
namespace {

using rows::Floats;
using rows::kRows;
using rows::kSets;

constexpr int kTile = 8;         // tokens, one register sum each
constexpr int64_t kBlock = 128;  // inputs whose decoded weights, 8 KB at 16 rows, stay in the L1

struct F32 {
  static constexpr int kBytes = 32;  // of 8 rows
  static constexpr bool kHasScales = false;
  static Floats load(const std::byte* at, int64_t next) { return rows::load_f32(at, next); }
};
struct F16 {
  static constexpr int kBytes = 16;
  static constexpr bool kHasScales = false;
  static Floats load(const std::byte* at, int64_t next) { return rows::load_f16(at, next); }
};
struct BF16 {
  static constexpr int kBytes = 16;
  static constexpr bool kHasScales = false;
  static Floats load(const std::byte* at, int64_t next) { return rows::load_bf16(at, next); }
};
struct E4M3 {
  static constexpr int kBytes = 8;
  static constexpr bool kHasScales = true;
  static Floats load(const std::byte* at, int64_t next) { return rows::load_e4m3(at, next); }
};

// A set's elements, and the scales of F8's blocks. A weight is the rounded product of its element
// and its scale, as the format defines it, so the lanes are those of any float matrix.
struct Elements {
  Plane codes, scales;
  int64_t block = 0;  // inputs; 0: no scales

  // Of input j's block, times the 256 that load_e4m3 divides by.
  Floats scale(int64_t j) const {
    const Floats unit = rows::broadcast(256.0f);
    if (block == 0) return unit;
    return rows::mul(rows::load_f32(scales.at + j / block * 32, scales.next), unit);
  }
};

template <class Element>
Floats load_scaled(const Elements& w, int64_t j, Floats scale) {
  const Floats element = Element::load(w.codes.at + j * Element::kBytes, w.codes.next);
  if constexpr (Element::kHasScales) return rows::mul(element, scale);
  return element;
}

// The sets at w[0], w[1], ...; lanes: [tokens][sets][8][kRows], written.
using DotSets = void (*)(const Elements* w, int64_t k, const float* const* x, float* lanes);

// One token streams the weights in order, all lanes in registers.
template <class Element>
void dot_one(const Elements* w, int64_t k, const float* const* x, float* lanes) {
  const float* const input = x[0];
  Floats lane[8];
  for (int i = 0; i < 8; ++i) lane[i] = rows::zero();
  Floats scale = rows::zero();
  int64_t next_block = 0;
  for (int64_t j = 0; j < k; j += 8) {
    if constexpr (Element::kHasScales) {
      if (j == next_block) {
        scale = w->scale(j);
        next_block += w->block > 0 ? w->block : k;
      }
    }
    if (j + 8 <= k) {
      for (int i = 0; i < 8; ++i) {
        const Floats weights = load_scaled<Element>(*w, j + i, scale);
        lane[i] = rows::fma(weights, rows::broadcast(input[j + i]), lane[i]);
      }
    } else {
      for (int i = 0; i < k % 8; ++i) {
        const Floats weights = load_scaled<Element>(*w, j + i, scale);
        lane[i] = rows::fma(weights, rows::broadcast(input[j + i]), lane[i]);
      }
    }
  }
  for (int i = 0; i < 8; ++i) rows::store(lanes + i * kRows, lane[i]);
}

// Several tokens: a block of inputs is decoded once, in order (a strided walk of memory runs at a
// fifth of its speed), and then walked one lane at a time, so that a register a token and set
// suffices, and each input is loaded once for all sets.
template <class Element, int kTokens, int kCount>
void dot_some(const Elements* w, int64_t k, const float* const* x, float* lanes) {
  constexpr int64_t kInputs = kBlock / kCount;
  constexpr int64_t kTokenFloats = kCount * 8 * kRows;
  alignas(64) float weights[kInputs][kCount][kRows];
  std::memset(lanes, 0, sizeof(float) * kTokens * kTokenFloats);
  for (int64_t begin = 0; begin < k; begin += kInputs) {
    const int64_t count = k - begin < kInputs ? k - begin : kInputs;
    for (int s = 0; s < kCount; ++s) {
      Floats scale = rows::zero();
      for (int64_t j = 0; j < count; ++j) {
        if constexpr (Element::kHasScales) {
          if (j % 8 == 0) scale = w[s].scale(begin + j);
        }
        rows::store(weights[j][s], load_scaled<Element>(w[s], begin + j, scale));
      }
    }
    for (int lane = 0; lane < 8; ++lane) {
      Floats sum[kTokens][kCount];
      const auto kept = [&](int t, int s) {
        return lanes + t * kTokenFloats + (s * 8 + lane) * kRows;
      };
      for (int t = 0; t < kTokens; ++t) {
        for (int s = 0; s < kCount; ++s) sum[t][s] = rows::load(kept(t, s));
      }
      for (int64_t j = lane; j < count; j += 8) {
        Floats weight[kCount];
        for (int s = 0; s < kCount; ++s) weight[s] = rows::load(weights[j][s]);
        for (int t = 0; t < kTokens; ++t) {
          const Floats input = rows::keep(rows::broadcast(x[t][begin + j]));
          for (int s = 0; s < kCount; ++s) sum[t][s] = rows::fma(weight[s], input, sum[t][s]);
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        for (int s = 0; s < kCount; ++s) rows::store(kept(t, s), sum[t][s]);
      }
    }
  }
}

template <class Element, int kCount>
DotSets find_dot_sets(int64_t tokens) {
  static constexpr DotSets kKernels[kTile] = {dot_one<Element>,
                                              dot_some<Element, 2, kCount>,
                                              dot_some<Element, 3, kCount>,
                                              dot_some<Element, 4, kCount>,
                                              dot_some<Element, 5, kCount>,
                                              dot_some<Element, 6, kCount>,
                                              dot_some<Element, 7, kCount>,
                                              dot_some<Element, 8, kCount>};
  return kKernels[tokens - 1];
}

template <int kCount>
DotSets find_dot_sets(const PackedFormat& format, int64_t tokens) {
  if (format.layout == Layout::kF8) return find_dot_sets<E4M3, kCount>(tokens);
  if (format.element == TensorType::kF32) return find_dot_sets<F32, kCount>(tokens);
  if (format.element == TensorType::kF16) return find_dot_sets<F16, kCount>(tokens);
  return find_dot_sets<BF16, kCount>(tokens);
}

// All tokens times the `count` sets from `group` on, whose weights stay in the cache meanwhile.
void dot_group(const RowDotArgs& args, int64_t stride, int64_t group, int count) {
  alignas(64) float lanes[kTile * kSets * 8 * kRows];
  const float* x[kTile];
  const PackedShape& shape = args.matrix.shape;
  Elements w[kSets];
  for (int s = 0; s < count; ++s) {
    w[s].codes = plane_at(args, shape.codes, stride, group + s * rows::kGroups, 0);
    if (shape.format.scale != ScaleKind::kF32) continue;
    w[s].block = shape.format.block;
    const int64_t blocks = (shape.k + w[s].block - 1) / w[s].block;
    w[s].scales = plane_at(args, shape.scales, blocks * 32, group + s * rows::kGroups, 0);
  }
  const int64_t tiles = (args.tokens + kTile - 1) / kTile;
  int64_t token = 0;
  for (int64_t i = 0; i < tiles; ++i) {  // tiles of nearly equal size
    const int64_t tokens = (args.tokens - token) / (tiles - i);
    for (int64_t t = 0; t < tokens; ++t) {
      x[t] = args.x + activation_row(args, token + t) * args.x_stride;
    }
    const DotSets dot = count == 1 ? find_dot_sets<1>(shape.format, tokens)
                                   : find_dot_sets<kSets>(shape.format, tokens);
    dot(w, shape.k, x, lanes);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int s = 0; s < count; ++s) {
        store_results(args, lanes + (t * count + s) * 8 * kRows, group + s * rows::kGroups,
                      token + t);
      }
    }
    token += tokens;
  }
}

}  // namespace

void row_dot_float(const RowDotArgs& args) {
  const PackedShape& shape = args.matrix.shape;
  const int64_t element_bytes = shape.format.layout == Layout::kF8         ? 8
                                : shape.format.element == TensorType::kF32 ? 32
                                                                           : 16;
  const int64_t stride = shape.float_inputs() * element_bytes;
  for (int64_t group = args.group_begin; group < args.group_end;) {
    // Tiles are of nearly equal size, so one of a single token is the only one.
    const bool is_several = args.tokens > 1 && args.group_end - group > (kSets - 1) * rows::kGroups;
    const int count = is_several ? kSets : 1;
    dot_group(args, stride, group, count);
    group += count * rows::kGroups;
  }
}

}  // namespace hotset::HOTSET_ISA
