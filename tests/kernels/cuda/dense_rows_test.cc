// The card's kernels over rows, its router and its argmax against the CPU's code: every bit. On the
// emulated card in three thread orders, which proves the kernels' logic and nothing of nvcc's code;
// on a real one where there is one.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/cpu/kernel_table.h"
#include "tests/kernels/cuda/dense_cases.h"
#include "tests/kernels/cuda/test_card.h"

namespace hotset::test {
namespace {

class DenseRowsTest : public CardTest {};
class RouterKernelTest : public CardTest {};
class ArgmaxKernelTest : public CardTest {};
INSTANTIATE_TEST_SUITE_P(Card, DenseRowsTest, kCards, card_name);
INSTANTIATE_TEST_SUITE_P(Card, RouterKernelTest, kCards, card_name);
INSTANTIATE_TEST_SUITE_P(Card, ArgmaxKernelTest, kCards, card_name);

TEST_P(DenseRowsTest, NormHasTheCpusBitsAtEveryWidth) {
  for (const int64_t width : {1, 3, 15, 16, 17, 33, 100, 300, 2048}) {
    for (const int64_t rows : {1, 3}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << width);
      const std::vector<float> x = random_floats(rows * width, 1, 2.0f);
      const std::vector<float> w = random_floats(width, 2);
      std::vector<float> expected(x.size());
      for (int64_t r = 0; r < rows; ++r) {
        best_kernel_table().rms_norm(expected.data() + r * width, x.data() + r * width, w.data(),
                                     width, 1e-6f);
      }
      on_card([&](OnCard& card) {
        std::vector<float> y = unwritten(rows * width), in_place = x;
        const float* weight = card.put(w);
        float* both = card.put(in_place);
        card.kernels().norm(card.stream(), card.put(y), card.put(x), weight, rows, width, 1e-6f);
        card.kernels().norm(card.stream(), both, both, weight, rows, width, 1e-6f);
        card.finish();
        EXPECT_EQ(difference(y, expected), "");
        EXPECT_EQ(difference(in_place, expected), "");
      });
    }
  }
}

TEST_P(DenseRowsTest, ElementwiseKernelsHaveTheCpusBits) {
  for (const int64_t n : {1, 16, 37, 257, 270000}) {  // the last: several a thread
    SCOPED_TRACE(n);
    const std::vector<float> a = random_floats(n, 3, 5.0f), b = random_floats(n, 4);
    std::vector<float> sum = a, product(a.size());
    best_kernel_table().add(sum.data(), b.data(), n);
    best_kernel_table().silu_mul(product.data(), a.data(), b.data(), n);
    on_card([&](OnCard& card) {
      std::vector<float> x = a, y = a, copied = unwritten(n);
      const float* other = card.put(b);
      float *summed = card.put(x), *gated = card.put(y);
      card.kernels().copy(card.stream(), card.put(copied), summed, n);
      card.kernels().add(card.stream(), summed, other, n);
      card.kernels().swiglu(card.stream(), gated, gated, other, n);
      card.finish();
      EXPECT_EQ(difference(x, sum), "");
      EXPECT_EQ(difference(y, product), "");
      EXPECT_EQ(difference(copied, a), "");
    });
  }
}

struct Picks {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

// By sorting; ties to the lower index.
Picks picks_of(const std::vector<float>& logits, int64_t width, int64_t k, bool normalise) {
  Picks out;
  std::vector<float> p(static_cast<size_t>(width));
  for (size_t at = 0; at < logits.size(); at += static_cast<size_t>(width)) {
    const float* row = logits.data() + at;
    std::vector<int32_t> order(static_cast<size_t>(width));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    best_kernel_table().softmax(p.data(), row, width);
    float sum = 0.0f;
    for (int64_t i = 0; i < k; ++i) sum += p[order[i]];
    for (int64_t i = 0; i < k; ++i) {
      out.experts.push_back(order[i]);
      out.weights.push_back(normalise ? p[order[i]] / sum : p[order[i]]);
    }
  }
  return out;
}

TEST_P(RouterKernelTest, PicksAndWeightsAreTheCpus) {
  struct Case {
    int64_t width, k;
  };
  constexpr int64_t kRows = 3;
  for (const Case c : {Case{1, 1}, {3, 3}, {8, 1}, {37, 10}, {128, 8}, {300, 300}, {512, 10}}) {
    const int64_t width = c.width, k = c.k;
    for (const bool has_ties : {false, true}) {
      for (const bool normalise : {false, true}) {
        SCOPED_TRACE(testing::Message() << k << " of " << width << (has_ties ? ", ties" : ""));
        std::vector<float> logits = random_floats(kRows * width, 5, 2.0f);
        if (has_ties) {
          for (float& x : logits) x = std::round(x) * 0.5f;  // and both zeros
        }
        const Picks expected = picks_of(logits, width, k, normalise);
        on_card([&](OnCard& card) {
          std::vector<int32_t> experts = unwritten<int32_t>(kRows * k);
          std::vector<float> weights = unwritten(kRows * k);
          card.kernels().route(card.stream(), card.put(experts), card.put(weights),
                               card.put(std::as_const(logits)), kRows, width, k, normalise);
          card.finish();
          EXPECT_EQ(experts, expected.experts);
          EXPECT_EQ(difference(weights, expected.weights), "");
        });
      }
    }
  }
}

TEST_P(RouterKernelTest, LogitsThatAreNotNumbersStillGivePicksThatExist) {
  std::vector<float> logits(20, NAN);
  logits[7] = 1.0f, logits[12] = INFINITY;
  on_card([&](OnCard& card) {
    std::vector<int32_t> experts = unwritten<int32_t>(8);
    std::vector<float> weights = unwritten(8);
    card.kernels().route(card.stream(), card.put(experts), card.put(weights), card.put(logits), 1,
                         20, 8, true);
    card.finish();
    EXPECT_EQ(experts, (std::vector<int32_t>{12, 7, 0, 1, 2, 3, 4, 5}));
  });
}

TEST_P(RouterKernelTest, WeightsOfGivenPicksAreTheSoftmaxOfTheirLogits) {
  constexpr int64_t kRows = 2, kWidth = 40;
  const std::vector<float> logits = random_floats(kRows * kWidth, 6, 3.0f);
  for (const int64_t k : {1, 2, 10, 17, 40}) {
    SCOPED_TRACE(k);
    std::vector<int32_t> experts;
    std::vector<float> expected(static_cast<size_t>(kRows * k));
    for (int64_t r = 0; r < kRows; ++r) {
      std::vector<float> picked;
      for (int64_t i = 0; i < k; ++i) {
        experts.push_back(static_cast<int32_t>((i * 7 + r) % kWidth));
        picked.push_back(logits[r * kWidth + experts.back()]);
      }
      best_kernel_table().softmax(expected.data() + r * k, picked.data(), k);
    }
    on_card([&](OnCard& card) {
      std::vector<float> weights = unwritten(kRows * k);
      card.kernels().weigh(card.stream(), card.put(weights), card.put(std::as_const(experts)),
                           card.put(logits), kRows, kWidth, k);
      card.finish();
      EXPECT_EQ(difference(weights, expected), "");
    });
  }
}

TEST_P(ArgmaxKernelTest, TheLargestAllowedLogitWinsAndTheLowestOfEqualOnes) {
  constexpr int64_t kRows = 2;
  for (const int64_t width : {1, 5, 255, 2049, 5000, 140000}) {
    for (const bool has_mask : {false, true}) {
      SCOPED_TRACE(testing::Message() << width << (has_mask ? ", masked" : ""));
      std::vector<float> logits = random_floats(kRows * width, 7, 1.0f);
      for (float& x : logits) x = std::round(x * 4) / 4;  // many are equal
      std::vector<uint8_t> allowed(static_cast<size_t>(width), 1);
      for (int64_t i = 0; has_mask && i < width - 1; i += 3) allowed[i] = 0;
      std::vector<int32_t> expected;
      for (int64_t r = 0; r < kRows; ++r) {
        int32_t best = -1;
        for (int32_t i = 0; i < width; ++i) {
          const float* row = logits.data() + r * width;
          if ((!has_mask || allowed[i]) && (best < 0 || row[i] > row[best])) best = i;
        }
        expected.push_back(best);
      }
      on_card([&](OnCard& card) {
        std::vector<int32_t> ids = unwritten<int32_t>(kRows);
        std::vector<uint64_t> scratch = unwritten<uint64_t>(kRows * kCardArgmaxParts);
        card.kernels().argmax(card.stream(), card.put(ids), card.put(std::as_const(logits)),
                              has_mask ? card.put(std::as_const(allowed)) : nullptr, kRows, width,
                              card.put(scratch));
        card.finish();
        EXPECT_EQ(ids, expected);
      });
    }
  }
}

}  // namespace
}  // namespace hotset::test
