#include "profiler/simulator.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <map>
#include <set>

#include "cache/score_policy.h"
#include "tests/profiler/routing.h"
#include "tests/support/on_demand.h"

namespace hotset {
namespace {

using test::random_trace;
using test::stored_routing;
using test::trace_of;

MakePolicy of(PolicyOptions options) {
  return [options](PolicyShape shape) { return make_policy(options, std::move(shape)); };
}

MakePolicy own_profile(const RoutingTrace& trace) {
  return [uses = count_uses(trace)](PolicyShape shape) {
    auto policy = make_policy({PolicyKind::kStatic}, std::move(shape));
    policy->restore(uses);
    return policy;
  };
}

std::vector<ReplayPool> equal(const RoutingTrace& trace, int32_t slots) {
  return slot_pools(trace.header, slots, SlotSplit::kEqual);
}

// The most hits by trying everything: after each event any set of what was resident and what it
// picked may stay.
class Exhaustive {
 public:
  Exhaustive(const RoutingTrace& trace, int32_t slots) : trace_(trace), slots_(slots) {}
  int most_hits(size_t event = 0, uint32_t resident = 0) {
    if (event == trace_.events.size()) return 0;
    const auto [known, is_new] = known_.try_emplace({event, resident}, 0);
    if (!is_new) return known->second;
    uint32_t picked = 0;
    for (const uint16_t id : trace_.row(trace_.events[event], 0)) picked |= 1u << id;
    const uint32_t all = resident | picked;
    int best = 0;
    // Every subset of `all`.
    for (uint32_t stays = all;; stays = (stays - 1) & all) {
      if (__builtin_popcount(stays) <= slots_) {
        best = std::max(best, most_hits(event + 1, stays));
      }
      if (stays == 0) break;
    }
    best += __builtin_popcount(resident & picked);
    known_[{event, resident}] = best;
    return best;
  }

 private:
  const RoutingTrace& trace_;
  const int32_t slots_;
  std::map<std::pair<size_t, uint32_t>, int> known_;
};

TEST(BeladyTest, NoChoiceHitsMoreOnSmallCases) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    const int experts = 4 + static_cast<int>(seed % 3), top_k = 1 + static_cast<int>(seed % 2);
    const RoutingTrace trace = random_trace(seed, 14, 1, experts, top_k);
    for (int32_t slots = 1; slots < experts; ++slots) {
      const Replay belady = replay_belady(trace, equal(trace, slots));
      EXPECT_EQ(belady.hits, Exhaustive(trace, slots).most_hits())
          << "seed " << seed << ", " << slots << " slots";
    }
  }
}

TEST(BeladyTest, NoPolicyHitsMore) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const RoutingTrace trace = random_trace(seed, 300, 3, 24, 3);
    for (const SlotSplit split : {SlotSplit::kEqual, SlotSplit::kShared}) {
      const std::vector<ReplayPool> pools = slot_pools(trace.header, 6, split);
      const int64_t most = replay_belady(trace, pools).hits;
      for (const PolicyKind kind : {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu}) {
        EXPECT_LE(replay(trace, pools, of({kind}), 0).hits, most);
      }
      EXPECT_LE(replay(trace, pools, own_profile(trace), 0).hits, most);
    }
  }
}

TEST(SimulatorTest, WithASlotForEveryExpertOnlyFirstUsesMiss) {
  const RoutingTrace trace = random_trace(3, 200, 2, 16, 2);
  for (const PolicyKind kind : {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu}) {
    const Replay r = replay(trace, equal(trace, 16), of({kind}), 0);
    EXPECT_EQ(r.accesses - r.hits, compulsory_misses(trace));
    EXPECT_EQ(r.insertions, compulsory_misses(trace));
  }
  EXPECT_EQ(replay_belady(trace, equal(trace, 16)).hits,
            std::ssize(trace.ids) - compulsory_misses(trace));
}

TEST(SimulatorTest, CountsAreThoseOfAReplayByHand) {
  // One layer, 2 slots. LRU: {0,1} miss, {1,2}: 1 hits, 2 takes 0's place, {0,1}: 1 hits, 0 takes
  // 2's place, {1,0}: both hit.
  const RoutingTrace trace = trace_of({{{0, 1}}, {{1, 2}}, {{0, 1}}, {{1, 0}}}, 3);
  const Replay r = replay(trace, equal(trace, 2), of({PolicyKind::kLru}), 0);
  EXPECT_EQ(r.events, 4);
  EXPECT_EQ(r.tokens, 4);
  EXPECT_EQ(r.accesses, 8);
  EXPECT_EQ(r.hits, 4);
  EXPECT_EQ(r.insertions, 4);
  EXPECT_EQ(r.miss_bytes, 400);
  EXPECT_DOUBLE_EQ(r.gain(0.5), 0.5);
  // Belady passes by 2 and keeps 0: 5 hits.
  EXPECT_EQ(replay_belady(trace, equal(trace, 2)).hits, 5);
}

TEST(SimulatorTest, AnEventsOwnPicksAreNeverItsVictims) {
  // 2 slots, events of 3: after the first two picks nobody is left to give up.
  const RoutingTrace trace = trace_of({{{0, 1, 2}}, {{0, 1, 2}}, {{2, 1, 0}}}, 4);
  const Replay r = replay(trace, equal(trace, 2), of({PolicyKind::kLru}), 0);
  EXPECT_EQ(r.insertions, 2);
  EXPECT_EQ(r.hits, 4);
}

TEST(SimulatorTest, LayersThatShareSlotsKeepTopKEach) {
  // Layer 0 uses new experts all the time; layer 1 the same two.
  std::vector<std::vector<std::vector<uint16_t>>> picks;
  for (uint16_t t = 0; t < 100; ++t) {
    const auto a = static_cast<uint16_t>(2 * t % 40);
    picks.push_back({{a, static_cast<uint16_t>(a + 1)}, {0, 1}});
  }
  const RoutingTrace trace = trace_of(picks, 40);
  const auto pools = slot_pools(trace.header, 2, SlotSplit::kShared);
  ASSERT_EQ(pools.size(), 1u);
  EXPECT_EQ(pools[0].slots, 4);
  EXPECT_EQ(replay(trace, pools, of({PolicyKind::kLru}), 0).hits, 198);
}

TEST(SimulatorTest, SizesThatDifferDoNotShareSlots) {
  TraceHeader h{0, 4, 8, 2, false, {100, 200, 100, 200}, ""};
  const auto pools = slot_pools(h, 3, SlotSplit::kShared);
  ASSERT_EQ(pools.size(), 2u);
  EXPECT_EQ(pools[0].layers, (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(pools[1].slots, 6);
  EXPECT_EQ(slot_pools(h, 3, SlotSplit::kEqual).size(), 4u);
}

TEST(SimulatorTest, APromptIsLearntFromButNotCounted) {
  RoutingTrace trace = trace_of({{{5, 6}}, {{5, 6}}, {{0, 1}}, {{0, 1}}}, 8);
  trace.events[0].phase = trace.events[1].phase = TracePhase::kPrompt;
  const Replay r = replay(trace, equal(trace, 2), of({PolicyKind::kLru}), 0);
  EXPECT_EQ(r.accesses, 4);
  EXPECT_EQ(r.hits, 2);
  EXPECT_EQ(replay_belady(trace, equal(trace, 2)).hits, 2);
}

// Decayed use with a threshold that does not follow the price: what the adaptive one is held
// against.
class FixedThreshold : public ScorePolicy {
 public:
  FixedThreshold(PolicyShape shape, double half_life, double threshold)
      : ScorePolicy(std::move(shape), half_life), threshold_(threshold) {}
  bool admits(ExpertId newcomer, ExpertId victim, double) override {
    return score(newcomer) - score(victim) > threshold_;
  }

 private:
  const double threshold_;
};

double best_fixed_gain(const RoutingTrace& trace, std::span<const ReplayPool> pools, double lambda,
                       std::span<const double> thresholds) {
  double best = -1e9;
  for (const double half_life : {8.0, 16.0, 32.0}) {
    for (const double threshold : thresholds) {
      const MakePolicy make = [&](PolicyShape shape) {
        return std::make_unique<FixedThreshold>(std::move(shape), half_life, threshold);
      };
      best = std::max(best, replay(trace, pools, make, lambda).gain(lambda));
    }
  }
  return best;
}

struct Expected {
  const char* profile;
  int32_t slots;
  double lru, belady;  // of an independent simulator, on 48 layers of other seeds
};
constexpr Expected kExpected[] = {{"easy", 51, .741, .837},
                                  {"easy", 102, .806, .898},
                                  {"hard", 51, .626, .786},
                                  {"hard", 102, .752, .875}};

void check_hit_rates(const RoutingTrace& trace, const Expected& expected, double tolerance) {
  SCOPED_TRACE(std::string(expected.profile) + ", " + std::to_string(expected.slots) + " slots");
  const std::vector<ReplayPool> pools = equal(trace, expected.slots);
  EXPECT_NEAR(replay(trace, pools, of({PolicyKind::kLru}), 0).hit_rate(), expected.lru, tolerance);
  EXPECT_NEAR(replay_belady(trace, pools).hit_rate(), expected.belady, tolerance);
}

void check_score(const RoutingTrace& trace, int32_t slots, std::span<const double> thresholds) {
  const std::vector<ReplayPool> pools = equal(trace, slots);
  for (const double lambda : {0.0, 0.5, 1.0}) {
    const double gain = replay(trace, pools, of({PolicyKind::kScore}), lambda).gain(lambda);
    EXPECT_GT(gain, best_fixed_gain(trace, pools, lambda, thresholds) - 0.3)
        << "lambda " << lambda << ", " << slots << " slots";
  }
}

TEST(SimulatorTest, HitRatesAreThoseOfAnIndependentSimulator) {
  // Four layers only: a layer is not like the mean of 48.
  for (const Expected& expected : kExpected) {
    check_hit_rates(stored_routing(expected.profile), expected, 0.03);
  }
}

TEST(SimulatorTest, AdaptiveScoreIsAsGoodAsTheBestFixedSetting) {
  const std::vector<double> thresholds = {0.0, 1.0, 2.0};
  for (const char* profile : {"easy", "hard"}) {
    SCOPED_TRACE(profile);
    check_score(stored_routing(profile), 51, thresholds);
  }
}

TEST(SimulatorTest, APriceMeansFewerInsertions) {
  const RoutingTrace trace = stored_routing("hard");
  const auto pools = equal(trace, 51);
  const auto insertions = [&](double lambda) {
    return replay(trace, pools, of({PolicyKind::kScore}), lambda).insertions;
  };
  const int64_t free = insertions(0), dear = insertions(1);
  EXPECT_LT(dear * 10, free * 9);
  EXPECT_GT(dear, 0);
}

// The whole size, written by gen_routing.py. Skipped where there is no Python with numpy.
class SimulatorLongTest : public testing::Test {
 protected:
  static RoutingTrace generated(const std::string& profile) {
    const std::string path = testing::TempDir() + "/" + profile + "_48.i16";
    for (const char* python : {"python3", "/usr/bin/python3"}) {
      const std::string command =
          std::string(python) + " " HOTSET_SOURCE_DIR "/tools/bench/gen_routing.py --profile " +
          profile + " --tokens 4096 --layers 48 --seed 7 " + path + " > /dev/null 2>&1";
      if (std::system(command.c_str()) == 0) return load_int16_routing(path, 48, 512, 10);
    }
    return {};
  }
};

TEST_F(SimulatorLongTest, TheWholeSizeHasTheHitRatesAndIsReplayedFastEnough) {
  HOTSET_ON_DEMAND("HOTSET_LONG");
  std::map<std::string, RoutingTrace> traces;
  for (const Expected& expected : kExpected) {
    RoutingTrace& trace = traces[expected.profile];
    if (trace.events.empty()) trace = generated(expected.profile);
    if (trace.events.empty()) GTEST_SKIP() << "needs python3 with numpy";
    check_hit_rates(trace, expected, 0.005);
    check_score(trace, expected.slots, std::vector<double>{0.0, 0.5, 1.0, 1.5, 2.0, 3.0});
    const auto pools = equal(trace, expected.slots);
    // Of this thread: others may be at work beside it.
    const auto now = [] {
      timespec t{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
      return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    };
    const auto seconds = [&](const auto& work) {
      const double start = now();
      work();
      return now() - start;
    };
    for (const PolicyKind kind : {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu}) {
      const double s = seconds([&] { replay(trace, pools, of({kind}), 0); });
      // 5 million and more where the caches are ours alone (docs/performance.md); neighbours take
      // up to half of that.
      EXPECT_GT(static_cast<double>(trace.ids.size()) / s, 2.5e6) << s << " s";
    }
    EXPECT_LT(seconds([&] { replay_belady(trace, pools); }), 5.0);
  }
}

}  // namespace
}  // namespace hotset
