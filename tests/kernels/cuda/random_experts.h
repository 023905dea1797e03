// Experts of random weights in slots, and what the CPU makes of them: for tests of the card's
// kernels for experts.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/kernels/row_dot_reference.h"

namespace hotset {

inline const KernelTable& portable() {
  return *find_kernel_table("portable");
}

inline PackedFormat format_named(const std::string& name, bool has_order = false) {
  for (NamedFormat f : all_formats()) {
    if (f.name != name) continue;
    f.format.has_order = has_order;
    return f.format;
  }
  ADD_FAILURE() << "no format " << name;
  return {};
}

inline std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = normal(random);
  return x;
}

// Rows quantised, in memory of their own.
struct Quantised {
  int64_t units;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int16_t> half_sum;

  Quantised(int64_t rows, int64_t k)
      : units((k + 31) / 32),
        q(rows * units * 32),
        scale(rows * units),
        half_sum(rows * units * 2) {}
  QuantisedRows view() { return {q.data(), scale.data(), half_sum.data(), units}; }
};

// Experts of random weights, each in a slot; slots 256 bytes apart beyond their size.
class RandomExperts {
 public:
  RandomExperts(PackedFormat gate, PackedFormat up, PackedFormat down, int64_t hidden,
                int64_t inner, int count)
      : hidden(hidden),
        inner(inner),
        shape(expert_shape(packed_shape(gate, inner, hidden), packed_shape(up, inner, hidden),
                           packed_shape(down, hidden, inner))),
        slot_bytes(shape.bytes + 256),
        memory_(static_cast<size_t>(slot_bytes * count + 64)) {
    for (int i = 0; i < count; ++i) {
      fill(gate, shape.gate, i, shape.gate_at, static_cast<uint32_t>(3 * i + 1));
      fill(up, shape.up, i, shape.up_at, static_cast<uint32_t>(3 * i + 2));
      fill(down, shape.down, i, shape.down_at, static_cast<uint32_t>(3 * i + 3));
    }
  }
  std::byte* slots() {
    const auto at = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (64 - at % 64) % 64;
  }

  int64_t bytes() const { return static_cast<int64_t>(memory_.size()) - 64; }

  // What the CPU makes of input row x with the expert in a slot.
  std::vector<float> output(int32_t slot, const float* x) {
    const ExpertView view = expert_view(shape, slots() + slot * slot_bytes);
    std::vector<float> gate = product(view.gate, x), up = product(view.up, x);
    portable().silu_mul(gate.data(), gate.data(), up.data(), inner);
    return product(view.down, gate.data());
  }

  const int64_t hidden, inner;
  const ExpertShape shape;
  const int64_t slot_bytes;

 private:
  void fill(const PackedFormat& format, const PackedShape& s, int slot, int64_t at, uint32_t seed) {
    PackedFormat plain = format;
    plain.has_order = false;
    const RandomMatrix matrix(plain, s.n, s.k, seed);
    std::byte* const to = slots() + slot * slot_bytes + at;
    std::memcpy(to, matrix.view().data, static_cast<size_t>(matrix.shape().bytes));
    if (!format.has_order) return;
    for (int64_t j = 0; j < s.k; ++j) {
      const auto from = static_cast<uint32_t>((j * 5 + seed) % s.k);
      std::memcpy(to + s.order + j * 4, &from, 4);
    }
  }
  std::vector<float> product(const PackedMatrix& m, const float* x) {
    std::vector<float> ordered(x, x + m.shape.k);
    if (m.order() != nullptr) {
      for (int64_t j = 0; j < m.shape.k; ++j) ordered[j] = x[m.order()[j]];
    }
    Quantised q(1, m.shape.k);
    EXPECT_TRUE(portable().quantise_activations(ordered.data(), m.shape.k, q.view(), 0));
    std::vector<float> out(static_cast<size_t>(m.shape.n));
    RowDotArgs args;
    args.matrix = m;
    args.group_end = m.shape.groups();
    args.quantised = q.view();
    args.x = ordered.data();
    args.x_stride = m.shape.k;
    args.tokens = 1;
    args.out = out.data();
    args.out_stride = m.shape.n;
    portable().row_dot(args);
    return out;
  }
  std::vector<std::byte> memory_;
};

inline void expect_same_bits(const float* found, const float* expected, int64_t count,
                             const char* what) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(__builtin_bit_cast(uint32_t, found[i]), __builtin_bit_cast(uint32_t, expected[i]))
        << what << " " << i << ": " << found[i] << " for " << expected[i];
  }
}

}  // namespace hotset
