// Row dots of float matrices (PF: bf16, f16 or f32 elements) with float32 activations: the float
// lanes of docs/numerics.md, lane[k % 8] in rising k.
#include "kernels/cpu/row_dot.h"

namespace hotset::HOTSET_ISA {
namespace {

using rows::Floats;
using rows::kRows;

constexpr int kTile = 8;         // tokens, one register sum each
constexpr int64_t kBlock = 128;  // inputs whose decoded weights, 8 KB at 16 rows, stay in the L1

struct F32 {
  static constexpr int kBytes = 32;  // of 8 rows
  static Floats load(const std::byte* at, int64_t next) { return rows::load_f32(at, next); }
};
struct F16 {
  static constexpr int kBytes = 16;
  static Floats load(const std::byte* at, int64_t next) { return rows::load_f16(at, next); }
};
struct BF16 {
  static constexpr int kBytes = 16;
  static Floats load(const std::byte* at, int64_t next) { return rows::load_bf16(at, next); }
};

// lanes: [tokens][8][kRows], written.
using DotSet = void (*)(const Plane& w, int64_t k, const float* const* x, float* lanes);

// One token streams the weights in order, all lanes in registers.
template <class Element>
void dot_one(const Plane& w, int64_t k, const float* const* x, float* lanes) {
  const std::byte* at = w.at;
  const float* input = x[0];
  Floats lane[8];
  for (int i = 0; i < 8; ++i) lane[i] = rows::zero();
  for (int64_t j = 0; j + 8 <= k; j += 8) {
    for (int i = 0; i < 8; ++i) {
      const Floats weights = Element::load(at + i * Element::kBytes, w.next);
      lane[i] = rows::fma(weights, rows::broadcast(input[i]), lane[i]);
    }
    at += 8 * Element::kBytes;
    input += 8;
  }
  for (int i = 0; i < k % 8; ++i) {
    const Floats weights = Element::load(at + i * Element::kBytes, w.next);
    lane[i] = rows::fma(weights, rows::broadcast(input[i]), lane[i]);
  }
  for (int i = 0; i < 8; ++i) rows::store(lanes + i * kRows, lane[i]);
}

// Several tokens: a block of inputs is decoded once, in order (a strided walk of memory runs at a
// fifth of its speed), and then walked one lane at a time, so that a register a token suffices.
template <class Element, int kTokens>
void dot_some(const Plane& w, int64_t k, const float* const* x, float* lanes) {
  alignas(64) float weights[kBlock * kRows];
  const float* input[kTokens];
  for (int t = 0; t < kTokens; ++t) input[t] = x[t];
  std::memset(lanes, 0, sizeof(float) * 8 * kRows * kTokens);
  for (int64_t begin = 0; begin < k; begin += kBlock) {
    const int64_t count = k - begin < kBlock ? k - begin : kBlock;
    const std::byte* at = w.at + begin * Element::kBytes;
    for (int64_t j = 0; j < count; ++j) {
      rows::store(weights + j * kRows, Element::load(at + j * Element::kBytes, w.next));
    }
    for (int lane = 0; lane < 8; ++lane) {
      Floats sum[kTokens];
      float* const kept = lanes + lane * kRows;
      for (int t = 0; t < kTokens; ++t) sum[t] = rows::load(kept + t * 8 * kRows);
      for (int64_t j = lane; j < count; j += 8) {
        const Floats weight = rows::load(weights + j * kRows);
        for (int t = 0; t < kTokens; ++t) {
          sum[t] = rows::fma(weight, rows::broadcast(input[t][j]), sum[t]);
        }
      }
      for (int t = 0; t < kTokens; ++t) rows::store(kept + t * 8 * kRows, sum[t]);
    }
    for (int t = 0; t < kTokens; ++t) input[t] += count;
  }
}

template <class Element>
DotSet find_dot_set(int64_t tokens) {
  static constexpr DotSet kKernels[kTile] = {
      dot_one<Element>,     dot_some<Element, 2>, dot_some<Element, 3>, dot_some<Element, 4>,
      dot_some<Element, 5>, dot_some<Element, 6>, dot_some<Element, 7>, dot_some<Element, 8>};
  return kKernels[tokens - 1];
}

DotSet find_dot_set(TensorType element, int64_t tokens) {
  if (element == TensorType::kF32) return find_dot_set<F32>(tokens);
  if (element == TensorType::kF16) return find_dot_set<F16>(tokens);
  return find_dot_set<BF16>(tokens);
}

}  // namespace

void row_dot_float(const RowDotArgs& args) {
  const PackedShape& shape = args.matrix.shape;
  const int64_t element_bytes = shape.format.element == TensorType::kF32 ? 32 : 16;
  const int64_t stride = (shape.k + 7) / 8 * 8 * element_bytes;
  const int64_t tiles = (args.tokens + kTile - 1) / kTile;

  alignas(64) float lanes[kTile * 8 * kRows];
  const float* x[kTile];
  // The weights of a set stay in the cache while all tiles pass.
  for (int64_t group = args.group_begin; group < args.group_end; group += rows::kGroups) {
    const Plane w = plane_at(args, shape.codes, stride, group, 0);
    int64_t token = 0;
    for (int64_t i = 0; i < tiles; ++i) {  // tiles of nearly equal size
      const int64_t tokens = (args.tokens - token) / (tiles - i);
      for (int64_t t = 0; t < tokens; ++t) {
        x[t] = args.x + activation_row(args, token + t) * args.x_stride;
      }
      find_dot_set(shape.format.element, tokens)(w, shape.k, x, lanes);
      for (int64_t t = 0; t < tokens; ++t) {
        store_results(args, lanes + t * 8 * kRows, group, token + t);
      }
      token += tokens;
    }
  }
}

}  // namespace hotset::HOTSET_ISA
