// The full matrix: every table and format, row counts that end inside a group, 1 to 40 tokens, cut
// among 1 to 4 threads in every way that gives a task up to five row groups.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/thread_pool.h"
#include "tests/kernels/row_dot_reference.h"
#include "tests/support/on_demand.h"

namespace hotset {
namespace {

constexpr int64_t kMaxTokens = 40;

class RowDotLongTest : public RowDotTest {
 protected:
  void SetUp() override {
    HOTSET_ON_DEMAND("HOTSET_LONG");
    RowDotTest::SetUp();
  }

  void expect_cut(ThreadPool& pool, int64_t groups_each, const RowDotArgs& whole,
                  const std::vector<float>& expected) {
    const int64_t n = whole.matrix.shape.n, groups = whole.matrix.shape.groups();
    std::vector<float> out(static_cast<size_t>(whole.tokens * n));
    pool.run((groups + groups_each - 1) / groups_each, [&](int64_t task, int) {
      RowDotArgs args = whole;
      args.group_begin = task * groups_each;
      args.group_end = std::min(args.group_begin + groups_each, groups);
      args.out = out.data();
      args.out_stride = n;
      table_->row_dot(args);
    });
    ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0)
        << n << " rows, k " << whole.matrix.shape.k << ", " << whole.tokens << " tokens, "
        << pool.size() << " threads, " << groups_each << " groups a task";
  }

  void expect_all_cuts(const PackedFormat& format, int64_t n, int64_t k) {
    const RandomMatrix matrix(format, n, k, static_cast<uint32_t>(n * k));
    Activations a(kMaxTokens, k, static_cast<uint32_t>(n + k));
    const std::vector<float> expected = reference(matrix, a, kMaxTokens);
    for (int64_t tokens = 1; tokens <= kMaxTokens; ++tokens) {
      const RowDotArgs args = arguments(matrix, a, tokens);
      for (ThreadPool* pool : {&one_, &two_, &three_, &four_}) {
        expect_cut(*pool, 1 + (tokens + pool->size()) % 5, args, expected);
        if (HasFatalFailure()) return;
      }
    }
  }

  ThreadPool one_{1}, two_{2}, three_{3}, four_{4};
};

TEST_P(RowDotLongTest, EveryFormatShapeTokenCountAndCutEqualsTheReference) {
  for (const NamedFormat& f : all_formats()) {
    SCOPED_TRACE(f.name);
    for (const int64_t n : {1, 3, 7, 9, 15, 23, 41, 77, 129}) {
      for (const int64_t k : {32, 96, 512}) {
        expect_all_cuts(f.format, n, k);
        if (HasFatalFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTables, RowDotLongTest, testing::ValuesIn(kKernelTableNames),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hotset
