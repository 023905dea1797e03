#include "profiler/tune.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/profiler/routing.h"

namespace hotset {
namespace {

using test::random_trace;
using test::stored_routing;
using test::trace_of;

TEST(IntervalTest, QuantilesAreThoseOfTheTables) {
  EXPECT_NEAR(student_quantile(0.975, 8), 2.306, 1e-3);
  EXPECT_NEAR(student_quantile(0.975, 31), 2.0395, 1e-3);
  EXPECT_NEAR(student_quantile(0.995, 15), 2.9467, 1e-3);
  EXPECT_NEAR(student_quantile(0.9995, 31), 3.633, 5e-3);
  EXPECT_NEAR(student_quantile(0.975, 100000), 1.96, 1e-3);
}

TEST(IntervalTest, OfHandfulOfSamplesItIsWhatOneComputesByHand) {
  // Alternating: neighbours are not alike, so nothing is widened. s = sqrt(8 / 7), n = 8.
  const std::vector<double> samples = {1, 3, 1, 3, 1, 3, 1, 3};
  const Interval interval = mean_interval(samples, 0.95);
  EXPECT_DOUBLE_EQ(interval.mean, 2);
  EXPECT_NEAR(interval.half_width, 2.3646 * std::sqrt(8.0 / 7 / 8), 2e-3);
  EXPECT_EQ(mean_interval(std::vector<double>(5, 4.0), 0.95).half_width, 0);
}

// How often of 4000 the interval of 32 samples has the true mean, 0: each is `alike` times the one
// before it and something new.
double coverage(double alike) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  int covered = 0;
  for (int round = 0; round < 4000; ++round) {
    std::vector<double> samples;
    double x = normal(random) / std::sqrt(1 - alike * alike);
    for (int i = 0; i < kTuneBlocks; ++i) {
      samples.push_back(x);
      x = alike * x + normal(random);
    }
    const Interval interval = mean_interval(samples, 0.95);
    covered += interval.low() <= 0 && 0 <= interval.high();
  }
  return covered / 4000.0;
}

TEST(IntervalTest, ItHasTheMeanAsOftenAsItSays) {
  EXPECT_GT(coverage(0), 0.94);
  EXPECT_LT(coverage(0), 0.985);
  EXPECT_GT(coverage(0.4), 0.91);
  EXPECT_LT(coverage(0.4), 0.985);
}

TuneSetting setting(const RoutingTrace& trace, PolicyOptions policy, int32_t slots) {
  return {policy, slots * 100, slot_pools(trace.header, slots, SlotSplit::kEqual)};
}
std::vector<TuneRow> tune_all(const RoutingTrace& trace, const std::vector<TuneSetting>& settings) {
  return tune(trace, settings, {2.0, 10.0}, [](size_t) {});
}

TEST(TuneTest, MissesAreCountedAfterTheWarmUpAndPriced) {
  // Four experts in turn, two a token; 3 slots: LRU keeps one of each pair.
  std::vector<std::vector<std::vector<uint16_t>>> picks;
  for (int t = 0; t < 400; ++t) {
    picks.push_back({t % 2 == 0 ? std::vector<uint16_t>{0, 1} : std::vector<uint16_t>{2, 3}});
  }
  const RoutingTrace trace = trace_of(picks, 4);
  const auto rows = tune_all(
      trace, {setting(trace, {PolicyKind::kLru}, 3), setting(trace, {PolicyKind::kLru}, 4)});
  EXPECT_DOUBLE_EQ(rows[0].misses_per_token, 1);
  EXPECT_DOUBLE_EQ(rows[0].hit_rate, 0.5);
  EXPECT_DOUBLE_EQ(rows[0].ms_per_token, 12);
  EXPECT_DOUBLE_EQ(rows[1].misses_per_token, 0) << "the compulsory ones are in the warm-up";
  EXPECT_DOUBLE_EQ(rows[1].gain_ms.mean, 2);
  EXPECT_EQ(best_row(rows), 1u);
}

TEST(TuneTest, MoreSlotsOnAStoredRoutingGainWhatTheReplaysSay) {
  const RoutingTrace trace = last_steps(stored_routing("hard"), 1024);
  EXPECT_EQ(decode_steps(trace), 1024);
  const auto rows = tune_all(
      trace, {setting(trace, {PolicyKind::kScore}, 51), setting(trace, {PolicyKind::kScore}, 102),
              setting(trace, {PolicyKind::kScore, 64}, 51)});
  EXPECT_NEAR(rows[1].gain_ms.mean, rows[0].ms_per_token - rows[1].ms_per_token, 1e-9);
  EXPECT_GT(rows[1].gain_ms.low(), 0);
  EXPECT_LT(rows[2].gain_ms.high(), 0) << "64 tokens are too long a memory here";
  EXPECT_EQ(best_row(rows), 1u);
}

// Student's t for 31 degrees of freedom at 95 % of one, and of three together.
TEST(TuneTest, TheMoreAreComparedTheWiderIsEachInterval) {
  const RoutingTrace trace = random_trace(3, 512, 2, 20, 4);
  const std::vector<TuneSetting> four = {
      setting(trace, {PolicyKind::kLru}, 6), setting(trace, {PolicyKind::kLfu}, 6),
      setting(trace, {PolicyKind::kScore, 4}, 6), setting(trace, {PolicyKind::kScore, 64}, 6)};
  const Interval alone = tune_all(trace, {four[0], four[1]})[1].gain_ms;
  const Interval among = tune_all(trace, four)[1].gain_ms;
  EXPECT_EQ(alone.mean, among.mean);
  EXPECT_NEAR(among.half_width / alone.half_width, 2.531 / 2.0395, 2e-3);
}

TEST(TuneTest, WithoutAnythingToLearnThePresentStays) {
  // Uniform picks: no policy is better than another. 60 comparisons of 4 settings each, none
  // of which may find a best more often than an interval of 95 % for all of them allows.
  int found = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::vector<std::vector<uint16_t>>> picks;
    for (int t = 0; t < 384; ++t) {
      const auto a = static_cast<uint16_t>(random() % 16);
      picks.push_back({{a, static_cast<uint16_t>((a + 1 + random() % 15) % 16)}});
    }
    const RoutingTrace trace = trace_of(picks, 16);
    found += best_row(tune_all(trace, {setting(trace, {PolicyKind::kLru}, 6),
                                       setting(trace, {PolicyKind::kLfu}, 6),
                                       setting(trace, {PolicyKind::kScore, 4}, 6),
                                       setting(trace, {PolicyKind::kScore, 64}, 6)})) != 0;
  }
  EXPECT_LE(found, 5);
}

TEST(TuneTest, OfBudgetsThatGainAlikeTheSmallestIsBest) {
  const auto row = [](int64_t budget, double mean, double half_width) {
    TuneRow r;
    r.setting.budget_bytes = budget;
    r.gain_ms = {mean, half_width};
    return r;
  };
  EXPECT_EQ(best_row(std::vector<TuneRow>{row(1, 0, 0), row(4, 5, 1), row(2, 4.5, 1)}), 2u);
  EXPECT_EQ(best_row(std::vector<TuneRow>{row(1, 0, 0), row(4, 5, 1), row(2, 3.5, 1)}), 1u);
  EXPECT_EQ(best_row(std::vector<TuneRow>{row(1, 0, 0), row(4, 5, 6), row(2, 3, 3.5)}), 0u);
  EXPECT_EQ(best_row(std::vector<TuneRow>{row(9, 0, 0), row(4, 5, 1)}), 1u);
}

TEST(TuneTest, TheLastStepsAreTheEndOfTheTrace) {
  const RoutingTrace trace = random_trace(3, 50, 3, 20, 4);
  const RoutingTrace end = last_steps(trace, 7);
  ASSERT_EQ(end.events.size(), 21u);
  EXPECT_EQ(end.events[0].step, 43u);
  for (size_t i = 0; i < end.events.size(); ++i) {
    const auto a = end.row(end.events[i], 0);
    const auto b = trace.row(trace.events[trace.events.size() - 21 + i], 0);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
  }
  EXPECT_EQ(last_steps(trace, 5000).events.size(), trace.events.size());
}

}  // namespace
}  // namespace hotset
