// exp of every table and of the card: the same bits for every float there is, below 2 ulp off the
// true value where the argument is not clamped (docs/numerics.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/thread_pool.h"
#include "tests/kernels/cuda/card_exp.h"
#include "tests/support/on_demand.h"

namespace hotset {
namespace {

constexpr float kLeast = -87.0f, kMost = 88.0f;  // where exp clamps
constexpr int64_t kPatterns = int64_t{1} << 32;
constexpr int64_t kBlock = 4096;
using Block = std::array<float, kBlock>;

// A clamped argument: NaN counts as the least.
float clamped(float x) {
  return x > kLeast ? std::min(x, kMost) : kLeast;
}

// |y - e^x| in units of a float's last place there. e^x is a normal float for every clamped x.
double error_in_ulp(float y, float x) {
  const double exact = std::exp(static_cast<double>(x));
  const uint64_t power = std::bit_cast<uint64_t>(exact) & 0x7ff0000000000000u;
  const auto ulp = std::bit_cast<double>(power - (uint64_t{23} << 52));
  return std::fabs(y - exact) / ulp;
}

struct Worst {
  double ulp = 0;
  float at = 0;
  bool operator<(const Worst& other) const { return ulp < other.ulp; }
};

// Bit patterns first, first + stride, ... up to 2^32.
struct Patterns {
  int64_t first = 0, stride = 1;
  int64_t count() const { return (kPatterns - first + stride - 1) / stride; }
  float at(int64_t i) const {
    return std::bit_cast<float>(static_cast<uint32_t>(first + i * stride));
  }
};

struct ExpCode {
  const char* name;
  void (*exp)(float* y, const float* x, int64_t n);
};

// Every instruction set's that this machine has, and the card's as C++.
std::vector<ExpCode> codes() {
  std::vector<ExpCode> found;
  for (const char* name : kKernelTableNames) {
    if (const KernelTable* table = find_kernel_table(name)) found.push_back({name, table->exp});
  }
  found.push_back({"card", card_exp});
  return found;
}

// Patterns [begin, begin + n) of the list: the first table against the truth, the others against
// the first.
Worst check_block(const std::vector<ExpCode>& codes, const Patterns& patterns, int64_t begin,
                  int64_t n) {
  Block x{}, y{}, other{};
  for (int64_t i = 0; i < n; ++i) x[i] = patterns.at(begin + i);
  codes[0].exp(y.data(), x.data(), n);
  for (const ExpCode& code : codes) {
    code.exp(other.data(), x.data(), n);
    if (std::memcmp(y.data(), other.data(), static_cast<size_t>(n) * 4) == 0) continue;
    ADD_FAILURE() << code.name << " and " << codes[0].name << " differ between " << x[0] << " and "
                  << x[n - 1];
  }
  Worst worst;
  for (int64_t i = 0; i < n; ++i) {
    const float argument = clamped(x[i]);
    worst = std::max(worst, {error_in_ulp(y[i], argument), argument});
  }
  return worst;
}

void expect_exact_enough(const Patterns& patterns) {
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  std::vector<Worst> worst(static_cast<size_t>(pool.size()));
  const std::vector<ExpCode> all = codes();
  const int64_t count = patterns.count();
  pool.run((count + kBlock - 1) / kBlock, [&](int64_t block, int thread) {
    const int64_t begin = block * kBlock;
    const Worst found = check_block(all, patterns, begin, std::min(kBlock, count - begin));
    worst[thread] = std::max(worst[thread], found);
  });
  const Worst most = *std::max_element(worst.begin(), worst.end());
  std::printf("%lld floats, %zu codes: at most %.4g ulp, at %.9g\n", static_cast<long long>(count),
              all.size(), most.ulp, most.at);
  EXPECT_LT(most.ulp, 2.0) << "exp(" << most.at << ")";
}

TEST(ExpTest, IsWithinTwoUlpAndTheSameEverywhere) {
  expect_exact_enough({.first = 0, .stride = 4099});
}

TEST(ExpTest, ClampsItsArgumentAndTakesNanForTheLeast) {
  const float x[] = {kLeast, -1e30f, -INFINITY, NAN, -NAN, kMost, 1e30f, INFINITY, 0.0f, -0.0f};
  for (const ExpCode& code : codes()) {
    float y[std::size(x)];
    code.exp(y, x, std::size(x));
    for (int i = 1; i < 5; ++i) EXPECT_EQ(y[i], y[0]) << code.name << " " << x[i];
    for (int i = 6; i < 8; ++i) EXPECT_EQ(y[i], y[5]) << code.name << " " << x[i];
    EXPECT_EQ(y[8], 1.0f);
    EXPECT_EQ(y[9], 1.0f);
  }
}

// All floats in four pieces, so that each can be run alone.
class ExpExhaustiveTest : public testing::TestWithParam<int> {};

TEST_P(ExpExhaustiveTest, IsWithinTwoUlpAndTheSameEverywhere) {
  HOTSET_ON_DEMAND("HOTSET_EXHAUSTIVE");
  expect_exact_enough({.first = GetParam(), .stride = 4});
}

INSTANTIATE_TEST_SUITE_P(Quarters, ExpExhaustiveTest, testing::Range(0, 4));

}  // namespace
}  // namespace hotset
