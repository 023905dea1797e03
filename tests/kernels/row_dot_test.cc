// The row dots of every kernel table against the reference: bit for bit, for every format, shape
// and number of tokens.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kernels/row_dot_reference.h"

namespace hotset {
namespace {

constexpr int64_t kMaxTokens = 33;

TEST_P(RowDotTest, EveryFormatAndShapeEqualsTheReferenceWhateverTheNumberOfTokens) {
  const std::pair<int64_t, int64_t> shapes[] = {{8, 32},   {5, 64},   {16, 256}, {24, 96},
                                                {77, 256}, {13, 512}, {19, 2048}};
  for (const NamedFormat& f : all_formats()) {
    for (const auto& [n, k] : shapes) {
      SCOPED_TRACE(f.name);
      const RandomMatrix matrix(f.format, n, k, 3);
      Activations a(kMaxTokens, k, 4);
      const std::vector<float> expected = reference(matrix, a, kMaxTokens);
      for (int64_t tokens = 1; tokens <= kMaxTokens; tokens += tokens < 20 ? 1 : 13) {
        expect_rows(arguments(matrix, a, tokens), expected, [](int64_t t) { return t; });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(RowDotTest, FloatRowsMayEndInsideAUnitAndAreNotReadPastTheirEnd) {
  for (const NamedFormat& f : all_formats()) {
    if (!f.format.is_float()) continue;  // quantised rows are whole units
    for (const int64_t k : {1, 7, 37, 270}) {
      SCOPED_TRACE(f.name);
      const RandomMatrix matrix(f.format, 11, k, 5);
      Activations a(5, k, 6);
      const std::vector<float> expected = reference(matrix, a, 5);
      for (const int64_t tokens : {1, 2, 5}) {
        expect_rows(arguments(matrix, a, tokens), expected, [](int64_t t) { return t; });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(RowDotTest, RowIdsGatherActivationsAndNotResults) {
  const int32_t ids[] = {6, 0, 6, 3, 5};
  for (const NamedFormat& f : all_formats()) {
    SCOPED_TRACE(f.name);
    const RandomMatrix matrix(f.format, 21, 256, 7);
    Activations a(7, 256, 8);
    const std::vector<float> expected = reference(matrix, a, 7);
    for (const int64_t tokens : {1, 5}) {
      RowDotArgs args = arguments(matrix, a, tokens);
      args.row_ids = ids;
      expect_rows(args, expected, [&](int64_t t) { return ids[t]; });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(RowDotTest, ARangeOfGroupsComputesThoseRowsOnly) {
  for (const NamedFormat& f : all_formats()) {
    SCOPED_TRACE(f.name);
    const RandomMatrix matrix(f.format, 61, 256, 9);  // 8 groups
    Activations a(5, 256, 10);
    const std::vector<float> expected = reference(matrix, a, 5);
    const std::pair<int64_t, int64_t> ranges[] = {{0, 0}, {0, 1}, {1, 2}, {1, 4}, {5, 8}, {7, 8}};
    for (const auto& [begin, end] : ranges) {
      RowDotArgs args = arguments(matrix, a, 5);
      args.group_begin = begin;
      args.group_end = end;
      expect_rows(args, expected, [](int64_t t) { return t; });
      if (HasFatalFailure()) return;
    }
  }
}

// More row groups than one cache block holds, so that tiles of tokens alternate with blocks.
TEST_P(RowDotTest, ManyRowsAndTokensEqualTheReference) {
  const RandomMatrix matrix(all_formats()[0].format, 1001, 512, 11);
  Activations a(kMaxTokens, 512, 12);
  const std::vector<float> expected = reference(matrix, a, kMaxTokens);
  expect_rows(arguments(matrix, a, kMaxTokens), expected, [](int64_t t) { return t; });
}

// What is made of rows' inputs once for all sets, is made in pieces where there are too many, and
// by vectors where even a matrix unit's 16 rows would be.
TEST_P(RowDotTest, LongRowsEqualTheReference) {
  constexpr int64_t kTokens = 21;
  constexpr std::pair<int64_t, int64_t> kShapes[] = {
      {21, 4096}, {21, 4416}, {3, 16384}, {3, 16416}};
  for (const NamedFormat& f : all_formats()) {
    if (f.format.is_float()) continue;
    for (const auto& [n, k] : kShapes) {
      SCOPED_TRACE(f.name);
      const RandomMatrix matrix(f.format, n, k, 15);
      Activations a(kTokens, k, 16);
      const std::vector<float> expected = reference(matrix, a, kTokens);
      for (const int64_t tokens : {int64_t{1}, int64_t{2}, kTokens}) {
        expect_rows(arguments(matrix, a, tokens), expected, [](int64_t t) { return t; });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(RowDotTest, ExtremeCodesTimesExtremeActivationsDoNotSaturate) {
  for (const NamedFormat& f : all_formats()) {
    if (f.format.is_float()) continue;
    for (const int code : {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0, 0x11}) {
      SCOPED_TRACE(std::string(f.name) + " codes " + std::to_string(code));
      RandomMatrix matrix(f.format, 9, 64, 13);
      Activations a(5, 64, 14);
      make_extreme(matrix, code, a);
      expect_rows(arguments(matrix, a, 5), reference(matrix, a, 5), [](int64_t t) { return t; });
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTables, RowDotTest, testing::ValuesIn(kKernelTableNames),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hotset
