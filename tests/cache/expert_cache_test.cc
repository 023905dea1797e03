#include "cache/expert_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

#include "kernels/check.h"

namespace hotset {
namespace {

// Experts whose bytes say who they are; loads can be made to fail.
class FakeSource : public ExpertSource {
 public:
  FakeSource(int32_t layers, int32_t experts) : layers_(layers), experts_(experts) {}
  int32_t layer_count() const override { return layers_; }
  int32_t experts_per_layer() const override { return experts_; }
  int64_t expert_bytes(int32_t layer) const override { return layer % 2 == 0 ? 256 : 512; }
  int64_t load(ExpertId id, std::span<std::byte> slot) override {
    if (id == failing) throw Error("a read failed");
    ++loads;
    const int32_t name = id.layer * 1000 + id.expert;
    for (size_t at = 0; at < slot.size(); at += 4) std::memcpy(slot.data() + at, &name, 4);
    return 10;
  }

  ExpertId failing{-1, -1};
  std::atomic<int> loads = 0;

 private:
  int32_t layers_, experts_;
};

int32_t name_of(const Lease& lease) {
  int32_t name;
  std::memcpy(&name, lease.blob, 4);
  return name;
}

std::vector<Pick> picks(std::initializer_list<int32_t> experts) {
  std::vector<Pick> p;
  for (const int32_t e : experts) p.push_back({e, static_cast<int32_t>(p.size())});
  return p;
}

class ExpertCacheTest : public testing::Test {
 protected:
  // One size class of `slots` slots over 8 experts of one layer.
  std::unique_ptr<ExpertCache> one_layer(int32_t slots) {
    source = std::make_unique<FakeSource>(1, 8);
    return std::make_unique<ExpertCache>(*source, plan_slots(*source, slots * 256, 1), pool, lru);
  }
  static std::unique_ptr<Policy> lru(PolicyShape shape) {
    return make_policy({PolicyKind::kLru}, std::move(shape));
  }

  // The whole event; returns the experts in the order they were leased.
  std::vector<int32_t> run_event(ExpertCache& cache, const std::vector<Pick>& p,
                                 int32_t layer = 0) {
    std::vector<int32_t> order;
    cache.begin(layer, p, 0);
    while (true) {
      const auto wave = cache.next_wave(100);
      if (wave.empty()) break;
      for (const Lease& lease : wave) {
        EXPECT_EQ(name_of(lease), layer * 1000 + lease.expert);
        order.push_back(lease.expert);
      }
      cache.verify();
    }
    cache.end();
    cache.verify();
    return order;
  }

  ThreadPool pool{2};
  std::unique_ptr<FakeSource> source;
};

TEST_F(ExpertCacheTest, SecondUseIsAHitAndReadsNothing) {
  const auto cache = one_layer(4);
  run_event(*cache, picks({1, 2}));
  run_event(*cache, picks({2, 1}));
  EXPECT_EQ(source->loads, 2);
  EXPECT_EQ(cache->stats().hits, 2);
  EXPECT_EQ(cache->stats().misses, 2);
  EXPECT_EQ(cache->stats().bytes_read, 20);
}

TEST_F(ExpertCacheTest, TheLeastRecentlyUsedExpertIsTheVictim) {
  const auto cache = one_layer(2);
  run_event(*cache, picks({0}));
  run_event(*cache, picks({1}));
  run_event(*cache, picks({0}));
  run_event(*cache, picks({2}));
  EXPECT_TRUE(cache->is_resident({0, 0}));
  EXPECT_FALSE(cache->is_resident({0, 1}));
}

TEST_F(ExpertCacheTest, AnEventLargerThanTheSlotsRunsInWavesAndSeesEveryPickOnce) {
  const auto cache = one_layer(3);
  const std::vector<int32_t> order = run_event(*cache, picks({0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(std::set<int32_t>(order.begin(), order.end()).size(), 8u);
  EXPECT_EQ(order.size(), 8u);
}

TEST_F(ExpertCacheTest, ResidentPicksAreUsedBeforeTheyCanBeVictims) {
  const auto cache = one_layer(3);
  run_event(*cache, picks({5, 6, 7}));
  run_event(*cache, picks({0, 1, 2, 5, 6, 7}));
  EXPECT_EQ(cache->stats().hits, 3) << "a pick of the event was evicted by another one";
}

TEST_F(ExpertCacheTest, LeasedSlotIsNeverTheVictim) {
  const auto cache = one_layer(2);
  const std::vector<Pick> p = picks({0, 1, 2});
  cache->begin(0, p, 0);
  const auto wave = cache->next_wave(100);
  ASSERT_EQ(wave.size(), 2u);  // not three: both slots are held
  EXPECT_EQ(name_of(wave[0]), 0);
  EXPECT_EQ(name_of(wave[1]), 1);
  cache->end();
}

TEST_F(ExpertCacheTest, AWaveIsNotLongerThanItsLimit) {
  const auto cache = one_layer(8);
  const std::vector<Pick> p = picks({0, 1, 2, 3, 4});
  cache->begin(0, p, 0);
  EXPECT_EQ(cache->next_wave(2).size(), 2u);
  EXPECT_EQ(cache->next_wave(2).size(), 2u);
  EXPECT_EQ(cache->next_wave(2).size(), 1u);
  EXPECT_TRUE(cache->next_wave(2).empty());
  cache->end();
}

TEST_F(ExpertCacheTest, AFailedReadEndsTheEventAndLeavesTheCacheUsable) {
  const auto cache = one_layer(3);
  run_event(*cache, picks({6}));
  source->failing = {0, 4};
  const std::vector<Pick> p = picks({6, 3, 4});
  cache->begin(0, p, 0);
  EXPECT_THROW(cache->next_wave(100), Error);
  cache->verify();
  EXPECT_FALSE(cache->is_resident({0, 4}));
  EXPECT_TRUE(cache->is_resident({0, 6}));
  source->failing = {-1, -1};
  EXPECT_EQ(run_event(*cache, picks({6, 3, 4})).size(), 3u);
}

TEST_F(ExpertCacheTest, FilledCacheHoldsEverythingAndCountsNoUse) {
  const auto cache = one_layer(8);
  run_event(*cache, picks({3}));
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(cache->resident_bytes(), (i + 1) * 256);
    EXPECT_TRUE(cache->fill_one());
    cache->verify();
  }
  EXPECT_FALSE(cache->fill_one());
  EXPECT_EQ(cache->stats().misses, 1);
  EXPECT_EQ(cache->stats().bytes_read, 80);
  run_event(*cache, picks({0, 3, 7}));
  EXPECT_EQ(cache->stats().hits, 3);
  EXPECT_EQ(source->loads, 8);
}

TEST_F(ExpertCacheTest, AFillThatFailsLeavesTheExpertAbsentAndIsTriedAgain) {
  const auto cache = one_layer(8);
  source->failing = {0, 1};
  EXPECT_TRUE(cache->fill_one());
  EXPECT_THROW(cache->fill_one(), Error);
  cache->verify();
  EXPECT_FALSE(cache->is_resident({0, 1}));
  source->failing = {-1, -1};
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(cache->fill_one());
  EXPECT_FALSE(cache->fill_one());
  EXPECT_TRUE(cache->is_resident({0, 1}));
}

TEST(SlotPlanTest, TheBudgetIsKeptAndSharedByBytes) {
  FakeSource source(4, 100);  // two classes: 200 experts of 256 bytes, 200 of 512
  const int64_t all = 200 * 256 + 200 * 512;
  for (const int64_t budget : {all, all / 2, all / 10, int64_t{20000}}) {
    const SlotPlan plan = plan_slots(source, budget, 8);
    EXPECT_LE(plan.slot_bytes_total, budget);
    EXPECT_GT(plan.slot_bytes_total, budget - 1024);
    EXPECT_EQ(plan.expert_bytes_total, all);
  }
  EXPECT_TRUE(plan_slots(source, all, 8).all_resident());
  const SlotPlan least = plan_slots(source, 0, 8);
  EXPECT_EQ(least.slot_bytes_total, 8 * (256 + 512));
  EXPECT_EQ(least.slot_bytes_total, least.least_bytes);
}

// Random events over two size classes against a model that only knows what must hold.
TEST_F(ExpertCacheTest, RandomEventsKeepEveryTotal) {
  constexpr unsigned kSeed = 20261123;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  FakeSource two(6, 32);
  ExpertCache cache(two, plan_slots(two, 20000, 4), pool, lru);
  int64_t wanted = 0;
  for (int step = 0; step < 20000; ++step) {
    const auto layer = static_cast<int32_t>(random() % 6);
    std::vector<Pick> p;
    for (int32_t e = 0; e < 32; ++e) {
      if (random() % 5 == 0) p.push_back({e, static_cast<int32_t>(random() % 4)});
    }
    wanted += std::ssize(p);
    if (random() % 50 == 0) two.failing = {layer, static_cast<int32_t>(random() % 32)};
    try {
      cache.begin(layer, p, step);
      while (true) {
        const auto wave = cache.next_wave(1 + static_cast<int32_t>(random() % 12));
        if (wave.empty()) break;
        for (const Lease& lease : wave) ASSERT_EQ(name_of(lease), layer * 1000 + lease.expert);
      }
      cache.end();
    } catch (const Error&) {
      two.failing = {-1, -1};
    }
    cache.verify();
  }
  EXPECT_LE(cache.stats().hits + cache.stats().misses, wanted);
  EXPECT_GT(cache.stats().hits, 0);
}

}  // namespace
}  // namespace hotset
