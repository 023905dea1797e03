// Activation quantisation of every kernel table against the rule of docs/numerics.md, written with
// std::rint.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/kernel_table.h"

namespace hotset {
namespace {

struct Rows {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int16_t> half_sum;
  QuantisedRows view;

  Rows(int64_t rows, int64_t k) {
    const int64_t units = (k + 31) / 32;
    q.assign(static_cast<size_t>(rows * units * 32), 99);
    scale.assign(static_cast<size_t>(rows * units), 99.0f);
    half_sum.assign(static_cast<size_t>(rows * units * 2), 99);
    view = {q.data(), scale.data(), half_sum.data(), units};
  }
  bool operator==(const Rows& other) const {
    return q == other.q && scale == other.scale && half_sum == other.half_sum;
  }
};

void quantise_reference(const std::vector<float>& x, Rows& out, int64_t row) {
  const int64_t k = static_cast<int64_t>(x.size());
  for (int64_t u = 0; u < out.view.units; ++u) {
    const int64_t at = row * out.view.units + u;
    float amax = 0;
    for (int64_t i = u * 32; i < std::min(k, u * 32 + 32); ++i)
      amax = std::max(amax, std::abs(x[i]));
    const bool is_zero = amax < 0x1p-100f;
    out.scale[at] = is_zero ? 0.0f : amax / 127.0f;
    out.half_sum[2 * at] = out.half_sum[2 * at + 1] = 0;
    for (int64_t i = 0; i < 32; ++i) {
      const float value = u * 32 + i < k ? x[u * 32 + i] : 0.0f;
      const float q =
          is_zero ? 0.0f : std::clamp(std::rint(value * (127.0f / amax)), -127.0f, 127.0f);
      out.q[at * 32 + i] = static_cast<int8_t>(q);
      out.half_sum[2 * at + i / 16] =
          static_cast<int16_t>(out.half_sum[2 * at + i / 16] + static_cast<int>(q));
    }
  }
}

class QuantiseActivationsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    table_ = find_kernel_table(GetParam());
    if (table_ == nullptr) GTEST_SKIP() << "this machine has no " << GetParam();
  }
  void expect_reference(const std::vector<float>& x) {
    const int64_t k = static_cast<int64_t>(x.size());
    Rows expected(3, k), found(3, k);
    quantise_reference(x, expected, 1);
    EXPECT_TRUE(table_->quantise_activations(x.data(), k, found.view, 1));
    EXPECT_TRUE(found == expected);  // rows 0 and 2 untouched included
  }
  const KernelTable* table_ = nullptr;
};

TEST_P(QuantiseActivationsTest, RandomRowsOfAnyMagnitudeEqualTheRule) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int exponent = -149; exponent < 126; exponent += 5) {
    for (const size_t k : {32u, 40u, 256u, 2048u}) {
      std::vector<float> x(k);
      for (float& v : x) v = std::ldexp(normal(random), exponent);
      if (exponent > 120)
        for (float& v : x) v = std::clamp(v, -3e38f, 3e38f);
      expect_reference(x);
    }
  }
}

TEST_P(QuantiseActivationsTest, TiesRoundToEven) {
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(i) - 15.5f;
  x[0] = 127.0f;
  expect_reference(x);
}

TEST_P(QuantiseActivationsTest, UnitsBelowTheBoundAreZeroAndTheBoundItselfIsNot) {
  for (const float amax : {0.0f, -0.0f, 0x1p-149f, 0x1.fffffep-101f, 0x1p-100f, -0x1p-100f,
                           std::numeric_limits<float>::max()}) {
    std::vector<float> x(64, 0.0f);
    x[5] = amax;
    x[40] = 1.0f;
    expect_reference(x);
  }
}

TEST_P(QuantiseActivationsTest, NoCodeLeavesPlusMinus127) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(1.0f, 2.0f);
  for (int i = 0; i < 20000; ++i) {  // amax * (127 / amax) is 127 or a neighbour
    const float amax = uniform(random);
    std::vector<float> x(32, i % 2 == 0 ? amax : -amax);
    Rows out(1, 32);
    ASSERT_TRUE(table_->quantise_activations(x.data(), 32, out.view, 0));
    ASSERT_EQ(out.q[7], i % 2 == 0 ? 127 : -127);
    ASSERT_EQ(out.half_sum[1], i % 2 == 0 ? 16 * 127 : -16 * 127);
  }
}

TEST_P(QuantiseActivationsTest, NonFiniteInputIsReportedWhereverItStands) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t place : {0u, 17u, 31u, 32u, 69u}) {
      std::vector<float> x(70, 1.0f);
      x[place] = bad;
      Rows out(1, 70);
      EXPECT_FALSE(table_->quantise_activations(x.data(), 70, out.view, 0)) << place;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTables, QuantiseActivationsTest, testing::ValuesIn(kKernelTableNames),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hotset
