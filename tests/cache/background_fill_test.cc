// Filling behind the steps: every expert comes, once; a step that needs one does not wait for its
// turn; a failed load is heard of where it matters; stopping takes one load.
#include "cache/background_fill.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/cache/fake_source.h"

namespace hotset::test {
namespace {

constexpr int32_t kExperts = 64;

class BackgroundFillTest : public testing::Test {
 protected:
  void run_event(int32_t layer, const std::vector<Pick>& picks, int32_t limit = 100) {
    size_t seen = 0;
    cache.begin(layer, picks, 0);
    while (true) {
      const auto wave = cache.next_wave(limit);
      if (wave.empty()) break;
      for (const Lease& lease : wave) expect_bytes(layer, lease, source.expert_bytes(layer));
      seen += wave.size();
    }
    cache.end();
    EXPECT_EQ(seen, picks.size());
  }

  int times_loaded(size_t i) const { return source.loads[i] + source.reads[i]; }

  FakeSource source{6, kExperts};
  ThreadPool pool{2};
  ExpertCache cache{
      source, plan_slots(source, INT64_MAX, 4), pool, policy_of(PolicyKind::kLru), {.reads = 16}};
};

constexpr auto kSilent = [](int64_t, int64_t) {};

TEST_F(BackgroundFillTest, EveryExpertIsLoadedOnce) {
  BackgroundFill fill(cache, 3);
  fill.wait(kSilent);
  EXPECT_EQ(cache.resident_bytes(), cache.plan().slot_bytes_total);
  for (size_t i = 0; i < source.loads.size(); ++i) EXPECT_EQ(times_loaded(i), 1);
  cache.verify();
}

TEST_F(BackgroundFillTest, EventsBesideItSeeTheirExpertsAndNothingIsLoadedTwice) {
  constexpr unsigned kSeed = 20261124;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  BackgroundFill fill(cache, 2);
  for (int step = 0; step < 200; ++step) {
    std::vector<Pick> picks;
    for (int32_t e = 0; e < kExperts; ++e) {
      if (random() % 6 == 0) picks.push_back({e, static_cast<int32_t>(random() % 4)});
    }
    run_event(static_cast<int32_t>(random() % 6), picks, 1 + static_cast<int32_t>(random() % 20));
    cache.verify();
  }
  fill.wait(kSilent);
  for (size_t i = 0; i < source.loads.size(); ++i) EXPECT_EQ(times_loaded(i), 1);
  cache.verify();
}

TEST_F(BackgroundFillTest, AMissJumpsTheQueue) {
  source.hold({0, 0});  // the only filler is stuck with the first expert
  BackgroundFill fill(cache, 1);
  source.wait_until_held();
  run_event(5, {{60, 0}, {61, 1}});
  EXPECT_TRUE(cache.is_resident({5, 61}));
  EXPECT_EQ(cache.stats().misses, 2);
  source.let_go();
  fill.wait(kSilent);
}

TEST_F(BackgroundFillTest, AnExpertThatIsBeingLoadedIsWaitedForAndCountsAsAMiss) {
  source.hold({0, 0});
  BackgroundFill fill(cache, 1);
  source.wait_until_held();
  std::atomic<bool> has_run = false;
  std::jthread step([&] {
    run_event(0, {{0, 0}});
    has_run = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(has_run);
  source.let_go();
  step.join();
  EXPECT_EQ(times_loaded(0), 1);
  EXPECT_EQ(cache.stats().misses, 1);
  EXPECT_EQ(cache.stats().hits, 0);
  fill.wait(kSilent);
}

TEST_F(BackgroundFillTest, AFailedLoadEndsTheFillingAndReachesOnlyTheStepThatNeedsIt) {
  source.fail({0, 5});
  BackgroundFill fill(cache, 2);
  EXPECT_THROW(fill.wait(kSilent), Error);
  cache.verify();
  EXPECT_FALSE(cache.is_resident({0, 5}));
  EXPECT_LT(cache.resident_bytes(), cache.plan().slot_bytes_total);
  run_event(0, {{4, 0}, {6, 0}});
  cache.begin(0, std::vector<Pick>{{5, 0}}, 0);
  EXPECT_THROW(cache.next_wave(1), Error);
  cache.verify();
  source.fail({-1, -1});
  run_event(0, {{5, 0}});
}

TEST_F(BackgroundFillTest, AFailureBehindTheOthersIsTriedAgain) {
  source.hold({0, 0});
  source.fail({0, 0});
  std::jthread filler([&] { EXPECT_THROW(cache.fill_one(), Error); });
  source.wait_until_held();
  EXPECT_TRUE(cache.fill_one());  // the next one
  EXPECT_TRUE(cache.fill_one());
  source.let_go();
  filler.join();
  cache.verify();
  source.fail({-1, -1});
  EXPECT_TRUE(cache.fill_one());
  EXPECT_TRUE(cache.is_resident({0, 0}));
}

TEST_F(BackgroundFillTest, AStepThatWaitsForALoadThatFailsLoadsTheExpertItself) {
  source.hold({0, 0});
  source.fail({0, 0});
  BackgroundFill fill(cache, 1);
  source.wait_until_held();
  std::jthread step([&] {
    cache.begin(0, std::vector<Pick>{{0, 0}}, 0);
    EXPECT_THROW(cache.next_wave(1), Error);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  source.let_go();
  step.join();
  EXPECT_EQ(times_loaded(0), 2);
  EXPECT_THROW(fill.wait(kSilent), Error);
  cache.verify();
}

// All of the loads would take two threads a second.
TEST_F(BackgroundFillTest, DestructionStopsAfterTheLoadsUnderWay) {
  source.read_us = 5000;
  { BackgroundFill fill(cache, 2); }
  EXPECT_LT(cache.resident_bytes(), cache.plan().slot_bytes_total / 2);
  cache.verify();
}

TEST_F(BackgroundFillTest, WaitingCanBeGivenUpWhileTheFillingGoesOn) {
  source.hold({3, 0});
  BackgroundFill fill(cache, 2);
  struct Stop {};
  EXPECT_THROW(fill.wait([](int64_t, int64_t) { throw Stop{}; }), Stop);
  source.let_go();
  int64_t last = 0;
  fill.wait([&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    EXPECT_EQ(all, cache.plan().slot_bytes_total);
    last = done;
  });
  EXPECT_EQ(cache.resident_bytes(), cache.plan().slot_bytes_total);
}

}  // namespace
}  // namespace hotset::test
