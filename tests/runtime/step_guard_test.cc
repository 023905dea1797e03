// A helper that loses is turned off, said once, and tried again; noise and a warming cache decide
// nothing.
#include "runtime/step_guard.h"

#include <gtest/gtest.h>

#include <random>

namespace hotset::test {
namespace {

constexpr int kMeasured = 2 * StepGuard::kPairs * StepGuard::kSteps;

// Makes `steps` steps that take `on` or `off` seconds; returns how often the guard spoke.
template <class Noise>
int run(StepGuard& guard, int steps, double on, double off, const Noise& noise) {
  int spoken = 0;
  for (int i = 0; i < steps; ++i) spoken += guard.add((guard.is_on() ? on : off) * noise(i));
  return spoken;
}
double no_noise(int) {
  return 1;
}

TEST(StepGuardTest, WhatLosesIsTurnedOffAndSaidOnce) {
  StepGuard guard;
  EXPECT_EQ(run(guard, kMeasured, 1.2, 1.0, no_noise), 1);
  EXPECT_FALSE(guard.is_on());
  EXPECT_NEAR(guard.seconds_on(), 1.2, 1e-9);
  EXPECT_NEAR(guard.seconds_off(), 1.0, 1e-9);
  EXPECT_EQ(run(guard, 5 * (StepGuard::kHold + kMeasured), 1.2, 1.0, no_noise), 0);
  EXPECT_FALSE(guard.is_on());
}

TEST(StepGuardTest, WhatWinsStaysOnAndNothingIsSaid) {
  StepGuard guard;
  EXPECT_EQ(run(guard, 3 * (StepGuard::kHold + kMeasured), 0.9, 1.0, no_noise), 0);
  EXPECT_TRUE(guard.is_on());
}

TEST(StepGuardTest, WhatBeginsToPayIsTurnedOnAgain) {
  StepGuard guard;
  run(guard, kMeasured, 1.2, 1.0, no_noise);
  EXPECT_FALSE(guard.is_on());
  EXPECT_EQ(run(guard, StepGuard::kHold + kMeasured, 0.8, 1.0, no_noise), 1);
  EXPECT_TRUE(guard.is_on());
}

TEST(StepGuardTest, WhatHardlyMattersIsNotSaidAgainAndAgain) {
  StepGuard guard;
  int spoken = run(guard, kMeasured, 1.015, 1.0, no_noise);
  for (const double on : {1.0, 1.015, 0.995, 1.015, 1.0}) {
    spoken += run(guard, StepGuard::kHold + kMeasured, on, 1.0, no_noise);
  }
  EXPECT_EQ(spoken, 1);
}

TEST(StepGuardTest, AWarmingCacheFavoursNeither) {
  StepGuard guard;
  const auto warming = [](int i) { return 3.0 - 0.03 * i; };
  EXPECT_EQ(run(guard, kMeasured, 0.97, 1.0, warming), 0);
  StepGuard other;
  EXPECT_EQ(run(other, kMeasured, 1.05, 1.0, warming), 1);
}

TEST(StepGuardTest, OneBadPairDecidesNothing) {
  StepGuard guard;
  const auto neighbour = [](int i) { return i < StepGuard::kSteps ? 10.0 : 1.0; };
  EXPECT_EQ(run(guard, kMeasured, 0.9, 1.0, neighbour), 0);
  EXPECT_TRUE(guard.is_on());
}

}  // namespace
}  // namespace hotset::test
