// The card's row dots and quantisation against the CPU's: bit for bit, for every format; emulated
// in three thread orders, and on a card where there is one.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/kernels/cuda/test_card.h"
#include "tests/kernels/row_dot_reference.h"

namespace hotset {
namespace {

constexpr int64_t kMaxTokens = 9;
const KernelTable& cpu = *find_kernel_table("portable");

class CardRowDotTest : public CardTest {
 protected:
  void expect_cpus_bits(RowDotArgs args, const Activations& a);
};

// Both into outputs of their own, with a gap after each row that nobody may write.
void CardRowDotTest::expect_cpus_bits(RowDotArgs args, const Activations& a) {
  const int64_t stride = args.matrix.shape.n + 5;
  std::vector<float> expected(static_cast<size_t>(args.tokens * stride), -77.0f);
  args.out_stride = stride;
  args.out = expected.data();
  cpu.row_dot(args);
  on_card([&](OnCard& card) {
    std::vector<float> out(expected.size(), -77.0f);
    RowDotArgs there = args;
    const auto rows = static_cast<int64_t>(a.x.size()) / a.x_stride;
    there.matrix.data = card.put(args.matrix.data, args.matrix.shape.bytes);
    there.quantised = card.put(args.quantised, rows);
    there.x = card.put(a.x);
    there.row_ids = card.put(args.row_ids, args.tokens);
    there.out = card.put(out);
    card.kernels().row_dot(card.stream(), there);
    card.finish();
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(__builtin_bit_cast(uint32_t, out[i]), __builtin_bit_cast(uint32_t, expected[i]))
          << "row " << i % stride << " of " << args.matrix.shape.n << ", k " << args.matrix.shape.k
          << ", token " << i / stride << " of " << args.tokens << ": " << out[i] << " for "
          << expected[i];
    }
  });
}

TEST_P(CardRowDotTest, EveryFormatAndShapeHasTheCpusBits) {
  const std::pair<int64_t, int64_t> shapes[] = {{1, 32},   {8, 32},   {5, 64},
                                                {77, 256}, {13, 512}, {3, 2048}};
  for (const NamedFormat& f : all_formats()) {
    SCOPED_TRACE(f.name);
    for (const auto& [n, k] : shapes) {
      const RandomMatrix matrix(f.format, n, k, 3);
      Activations a(kMaxTokens, k, 4);
      for (const int64_t tokens : {1, 2, 4, 9}) {
        expect_cpus_bits(arguments(matrix, a, tokens), a);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CardRowDotTest, FloatRowsMayEndInsideAUnitAndAreNotReadPastTheirEnd) {
  for (const NamedFormat& f : all_formats()) {
    if (!f.format.is_float()) continue;
    SCOPED_TRACE(f.name);
    for (const int64_t k : {1, 7, 37, 270}) {
      const RandomMatrix matrix(f.format, 11, k, 5);
      Activations a(5, k, 6);
      for (const int64_t tokens : {1, 5}) {
        expect_cpus_bits(arguments(matrix, a, tokens), a);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CardRowDotTest, RowIdsGatherActivationsAndARangeOfGroupsComputesThoseRowsOnly) {
  const int32_t ids[] = {6, 0, 6, 3, 5};
  for (const NamedFormat& f : all_formats()) {
    SCOPED_TRACE(f.name);
    const RandomMatrix matrix(f.format, 61, 256, 7);
    Activations a(7, 256, 8);
    for (const int64_t tokens : {1, 5}) {
      RowDotArgs args = arguments(matrix, a, tokens);
      args.row_ids = ids;
      args.group_begin = 1;
      args.group_end = tokens == 1 ? 1 : 7;
      expect_cpus_bits(args, a);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CardRowDotTest, ExtremeCodesTimesExtremeActivationsHaveTheCpusBits) {
  for (const NamedFormat& f : all_formats()) {
    if (f.format.is_float()) continue;
    for (const int code : {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0}) {
      SCOPED_TRACE(std::string(f.name) + " codes " + std::to_string(code));
      RandomMatrix matrix(f.format, 9, 64, 13);
      Activations a(3, 64, 14);
      make_extreme(matrix, code, a);
      expect_cpus_bits(arguments(matrix, a, 3), a);
      if (HasFatalFailure()) return;
    }
  }
}

using CardQuantiseTest = CardTest;

// Quantised rows with a value after each plane that nobody may write.
struct Quantised {
  int64_t rows, units;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int16_t> half_sum;

  Quantised(int64_t rows_, int64_t k)
      : rows(rows_),
        units((k + 31) / 32),
        q(rows * units * 32 + 32, int8_t{55}),
        scale(rows * units + 1, 55.0f),
        half_sum(rows * units * 2 + 2, int16_t{55}) {}
  QuantisedRows view() { return {q.data(), scale.data(), half_sum.data(), units}; }
  QuantisedRows on(OnCard& card) {
    return {card.put(q), card.put(scale), card.put(half_sum), units};
  }
  bool operator==(const Quantised&) const = default;
};

std::vector<float> inputs(int64_t rows, int64_t stride) {
  std::mt19937 random(21);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows * stride));
  for (size_t i = 0; i < x.size(); ++i) {
    const float scales[] = {1.0f, 1e-3f, 1e30f, 0x1p-101f, 0x1p-99f, 0x1p-140f, 0.0f, -1.0f};
    x[i] = normal(random) * scales[i / 32 % 8];
    if (random() % 50 == 0) x[i] = random() % 2 ? 0.0f : -0.0f;
    if (i % 64 < 2) x[i] = i % 2 ? 127.0f : 0.5f * static_cast<float>(i % 7);  // halves that tie
  }
  return x;
}

TEST_P(CardQuantiseTest, RowsOfAnyLengthHaveTheCpusBitsInAnyOrder) {
  for (const int64_t k : {1, 31, 32, 40, 256, 300, 2048}) {
    for (const bool has_order : {false, true}) {
      SCOPED_TRACE(std::to_string(k));
      const int64_t rows = 5, stride = k + 3;
      const std::vector<float> x = inputs(rows, stride);
      std::vector<uint32_t> order(static_cast<size_t>(k));
      for (int64_t j = 0; j < k; ++j) order[j] = static_cast<uint32_t>((j * 7 + 3) % k);
      std::vector<float> ordered(static_cast<size_t>(rows * k));
      Quantised expected(rows, k);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < k; ++j) {
          ordered[r * k + j] = x[r * stride + (has_order ? order[j] : j)];
        }
        ASSERT_TRUE(cpu.quantise_activations(&ordered[r * k], k, expected.view(), r));
      }
      on_card([&](OnCard& card) {
        Quantised out(rows, k);
        std::vector<float> out_x(ordered.size());
        uint32_t not_finite = 0;
        card.kernels().quantise(card.stream(),
                                {.x = card.put(x),
                                 .x_stride = stride,
                                 .rows = rows,
                                 .k = k,
                                 .order = has_order ? card.put(std::as_const(order)) : nullptr,
                                 .out = out.on(card),
                                 .out_x = card.put(out_x),
                                 .not_finite = card.put(&not_finite, 1)});
        card.finish();
        EXPECT_EQ(out, expected);
        EXPECT_EQ(std::memcmp(out_x.data(), ordered.data(), ordered.size() * 4), 0);
        EXPECT_EQ(not_finite, 0u);
      });
    }
  }
}

TEST_P(CardQuantiseTest, AnInputThatIsNotFiniteIsTold) {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    std::vector<float> x(3 * 70, 1.0f);
    x[70 + 66] = bad;
    on_card([&](OnCard& card) {
      Quantised out(3, 70);
      uint32_t not_finite = 0;
      card.kernels().quantise(card.stream(), {.x = card.put(std::as_const(x)),
                                              .x_stride = 70,
                                              .rows = 3,
                                              .k = 70,
                                              .out = out.on(card),
                                              .not_finite = card.put(&not_finite, 1)});
      card.finish();
      EXPECT_EQ(not_finite, 1u);
    });
  }
}

#ifdef HOTSET_SANITIZES_thread
// Which a report of TSan's would end.
TEST(CardBlocksTest, BlocksRaceForNothingThoughTheyAreUnordered) {
  const emulated::ExecutorScope scope({.are_blocks_unordered = true});
  std::vector<float> x(9 * 64, NAN);
  Quantised quantised(9, 64);
  uint32_t not_finite = 0;
  emulated_kernels().quantise({}, {.x = x.data(),
                                   .x_stride = 64,
                                   .rows = 9,
                                   .k = 64,
                                   .out = quantised.view(),
                                   .not_finite = &not_finite});
  EXPECT_EQ(not_finite, 1u);
  for (const NamedFormat& f : {all_formats().front(), all_formats().back()}) {
    const RandomMatrix matrix(f.format, 40, 64, 3);
    Activations a(2, 64, 4);
    RowDotArgs args = arguments(matrix, a, 2);
    std::vector<float> out(2 * 40);
    args.out = out.data();
    args.out_stride = 40;
    emulated_kernels().row_dot({}, args);
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(Cards, CardRowDotTest, kCards, card_name);
INSTANTIATE_TEST_SUITE_P(Cards, CardQuantiseTest, kCards, card_name);

}  // namespace
}  // namespace hotset
