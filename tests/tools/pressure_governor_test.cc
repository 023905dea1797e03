#include "tools/pressure_governor.h"

#include <gtest/gtest.h>

namespace hotset {
namespace {

constexpr MemoryPressure kHard = {30, 10}, kCalm = {0, 0}, kFading = {0, 5};

TEST(PressureGovernorTest, PressureTakesAnEighthAStepDownToTheLeast) {
  PressureGovernor governor;
  int64_t bytes = 800;
  double now = 100;
  for (const int64_t expected : {700, 600, 500, 450, 450}) {
    bytes = governor.next(kHard, now, bytes, 800, 450);
    EXPECT_EQ(bytes, expected);
    EXPECT_EQ(governor.next(kHard, now + 5, bytes, 800, 450), bytes) << "too soon to tell";
    now += 10;
  }
}

TEST(PressureGovernorTest, ItIsTakenBackWhenAMinuteWasCalmAndNotBefore) {
  PressureGovernor governor;
  int64_t bytes = governor.next(kHard, 0, 800, 800, 0);
  ASSERT_EQ(bytes, 700);
  EXPECT_EQ(governor.next(kCalm, 30, bytes, 800, 0), 700);
  EXPECT_EQ(governor.next(kFading, 70, bytes, 800, 0), 700) << "the last minute was not calm";
  EXPECT_EQ(governor.next(kCalm, 70, bytes, 750, 0), 750) << "never above the budget";
  bytes = governor.next(kCalm, 131, 600, 800, 0);
  EXPECT_EQ(bytes, 700);
  EXPECT_EQ(governor.next(kCalm, 140, bytes, 800, 0), 700) << "one step a minute";
  EXPECT_EQ(governor.next(kCalm, 500, 800, 800, 0), 800);
}

TEST(PressureGovernorTest, ALittlePressureChangesNothing) {
  PressureGovernor governor;
  EXPECT_EQ(governor.next({9.9, 9.9}, 0, 800, 800, 0), 800);
  EXPECT_EQ(governor.next({1, 1}, 1000, 700, 800, 0), 700);
}

}  // namespace
}  // namespace hotset
