#include "cache/admission_price.h"

#include <gtest/gtest.h>

#include <limits>

namespace hotset::test {
namespace {

constexpr double kUs = 1e-6;

TEST(AdmissionPriceTest, IsWhatACopyTakesInMisses) {
  AdmissionPrice price;
  price.add_copies(20, 20 * 120 * kUs);
  price.add_misses(100, 100 * 40 * kUs);
  EXPECT_DOUBLE_EQ(price.lambda(), 3.0);
  price = {};
  price.add_copies(20, 20 * 20 * kUs);
  price.add_misses(100, 100 * 40 * kUs);
  EXPECT_DOUBLE_EQ(price.lambda(), 0.5);
}

TEST(AdmissionPriceTest, IsNotBelievedBeforeBothWereSeenAFewTimes) {
  AdmissionPrice price;
  price.add_copies(1000, 1);
  EXPECT_EQ(price.lambda(), AdmissionPrice::kUnmeasured);
  price.add_misses(AdmissionPrice::kFirst - 1, 1e-3);
  EXPECT_EQ(price.lambda(), AdmissionPrice::kUnmeasured);
  price.add_misses(1, 1e-3);
  EXPECT_NE(price.lambda(), AdmissionPrice::kUnmeasured);
}

TEST(AdmissionPriceTest, ForgetsWhatWasLongAgo) {
  AdmissionPrice price;
  for (int i = 0; i < 1000; ++i) price.add_misses(10, 10 * 40 * kUs);
  for (int i = 0; i < 1000; ++i) price.add_copies(8, 8 * 400 * kUs);
  EXPECT_NEAR(price.lambda(), 10, 0.01);
  for (int i = 0; i < 2000; ++i) price.add_copies(8, 8 * 80 * kUs);  // another link was idle again
  EXPECT_NEAR(price.lambda(), 2, 0.01);
}

TEST(AdmissionPriceTest, ABadClockChangesNothingAndABadMeasurementLittle) {
  AdmissionPrice price;
  price.add_copies(100, 100 * 120 * kUs);
  price.add_misses(100, 100 * 40 * kUs);
  const double before = price.lambda();
  price.add_copies(0, 1);
  price.add_copies(-5, 1);
  price.add_copies(5, 0);
  price.add_copies(5, -1);
  price.add_misses(5, std::numeric_limits<double>::quiet_NaN());
  price.add_misses(5, std::numeric_limits<double>::infinity());
  EXPECT_EQ(price.lambda(), before);
  price.add_copies(1, 3600);
  EXPECT_EQ(price.lambda(), AdmissionPrice::kMost);
  price.add_misses(1, 7200);
  price.add_misses(1, 1e9);
  EXPECT_EQ(price.lambda(), AdmissionPrice::kLeast);
}

}  // namespace
}  // namespace hotset::test
