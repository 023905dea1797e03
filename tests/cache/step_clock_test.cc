#include "cache/step_clock.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace hotset::test {
namespace {

// Whatever it counts in, it says what the clock says, and never goes back. Where the thread is
// interrupted between two looks, the time that it lost lies between them for both.
TEST(StepClockTest, ItAgreesWithTheClockAndNeverGoesBack) {
  constexpr uint64_t kStepNs = 300000, kToleranceNs = 3000;
  StepClock clock;
  const uint64_t end = monotonic_ns() + 150000000;
  uint64_t last = 0;
  while (last < end) {
    const uint64_t begin = clock.look();
    ASSERT_GE(begin, last);
    last = begin;
    while (last - begin < kStepNs) {
      const uint64_t before = monotonic_ns();
      const uint64_t now = clock.now();
      const uint64_t after = monotonic_ns();
      ASSERT_GE(now, last);
      ASSERT_GE(now + kToleranceNs, before);
      ASSERT_LE(now, after + kToleranceNs);
      last = now;
    }
  }
}

// As in a prompt's step: the clock is looked at again by itself.
TEST(StepClockTest, ALongStepDoesNotLeadItAstray) {
  StepClock clock;
  const uint64_t begin = clock.look();
  uint64_t worst_ns = 0;
  for (uint64_t now = begin; now - begin < 200000000;) {
    const uint64_t before = monotonic_ns();
    now = clock.now();
    const uint64_t after = monotonic_ns();
    if (now < before) worst_ns = std::max(worst_ns, before - now);
    if (now > after) worst_ns = std::max(worst_ns, now - after);
  }
  EXPECT_LT(worst_ns, 3000U);
}

}  // namespace
}  // namespace hotset::test
