// Filling behind the steps: every expert comes, once; a step that needs one does not wait for its
// turn; a failed load is heard of where it matters; stopping takes one load.
#include "cache/background_fill.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <random>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr int32_t kExperts = 64;

// Experts whose bytes say who they are. One of them can be made to take until it is let go, and one
// to fail.
class SlowSource : public ExpertSource {
 public:
  explicit SlowSource(int32_t layers) : layers_(layers), loads(layers * kExperts) {}
  int32_t layer_count() const override { return layers_; }
  int32_t experts_per_layer() const override { return kExperts; }
  int64_t expert_bytes(int32_t layer) const override { return layer % 2 == 0 ? 256 : 512; }
  int64_t load(ExpertId id, std::span<std::byte> slot) override {
    ++loads[id.layer * kExperts + id.expert];
    std::this_thread::sleep_for(std::chrono::milliseconds(load_ms));
    {
      std::unique_lock lock(mutex_);
      if (id == held_) {
        is_held_ = true;
        changed_.notify_all();
        changed_.wait(lock, [&] { return held_ != id; });
      }
      if (id == failing_) throw Error("a read failed");
    }
    const int32_t name = id.layer * 1000 + id.expert;
    for (size_t at = 0; at < slot.size(); at += 4) std::memcpy(slot.data() + at, &name, 4);
    return 10;
  }

  void hold(ExpertId id) {
    const std::lock_guard lock(mutex_);
    held_ = id;
  }
  void fail(ExpertId id) {
    const std::lock_guard lock(mutex_);
    failing_ = id;
  }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_held_; });
  }
  void let_go() {
    hold({-1, -1});
    changed_.notify_all();
  }

 private:
  const int32_t layers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  ExpertId held_{-1, -1}, failing_{-1, -1};
  bool is_held_ = false;

 public:
  std::vector<std::atomic<int>> loads;  // of each expert
  std::atomic<int> load_ms = 0;
};

void expect_bytes(int32_t layer, const Lease& lease, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 4) {
    int32_t name;
    std::memcpy(&name, lease.blob + at, 4);
    ASSERT_EQ(name, layer * 1000 + lease.expert);
  }
}

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

  SlowSource source{6};
  ThreadPool pool{2};
  ExpertCache cache{source, plan_slots(source, INT64_MAX, 4), pool,
                    [](PolicyShape shape) { return make_policy({}, std::move(shape)); }};
};

constexpr auto kSilent = [](int64_t, int64_t) {};

TEST_F(BackgroundFillTest, EveryExpertIsLoadedOnce) {
  BackgroundFill fill(cache, 3);
  fill.wait(kSilent);
  EXPECT_EQ(cache.resident_bytes(), cache.plan().slot_bytes_total);
  for (const auto& loads : source.loads) EXPECT_EQ(loads, 1);
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
  for (const auto& loads : source.loads) EXPECT_EQ(loads, 1);
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
  EXPECT_EQ(source.loads[0], 1);
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
  cache.begin(0, {{{5, 0}}}, 0);
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
    cache.begin(0, {{{0, 0}}}, 0);
    EXPECT_THROW(cache.next_wave(1), Error);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  source.let_go();
  step.join();
  EXPECT_EQ(source.loads[0], 2);
  EXPECT_THROW(fill.wait(kSilent), Error);
  cache.verify();
}

// All of the loads would take two threads a second.
TEST_F(BackgroundFillTest, DestructionStopsAfterTheLoadsUnderWay) {
  source.load_ms = 5;
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
}  // namespace hotset
