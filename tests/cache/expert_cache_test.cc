// What an event may rely on: all its experts, each once, with their own bytes; nobody it needs is
// given up; an Error ends it and nothing else.
#include "cache/expert_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/cache/fake_source.h"

namespace hotset::test {
namespace {

using testing::HasSubstr;

class ExpertCacheTest : public testing::Test {
 protected:
  // One size class over 8 experts of one layer: slots for `residents`, and one to pass through.
  std::unique_ptr<ExpertCache> one_layer(int32_t residents, PolicyKind kind = PolicyKind::kLru) {
    source = std::make_unique<FakeSource>(1, 8);
    const int32_t slots = residents == 8 ? 8 : residents + 1;
    return std::make_unique<ExpertCache>(*source, plan_slots(*source, slots * 256, 1), pool,
                                         policy_of(kind), CacheOptions{.reads = 16});
  }

  // The whole event; returns the experts in the order they were leased.
  std::vector<int32_t> run_event(ExpertCache& cache, const std::vector<Pick>& p, int32_t layer = 0,
                                 EventKind kind = EventKind::kDecode,
                                 std::span<const int32_t> keep = {}) {
    std::vector<int32_t> order;
    cache.begin(layer, p, ++now, kind, keep);
    while (true) {
      const auto wave = cache.next_wave(100);
      if (wave.empty()) break;
      for (const Lease& lease : wave) {
        expect_bytes(layer, lease, source->expert_bytes(layer));
        order.push_back(lease.expert);
      }
      cache.verify();
    }
    cache.end();
    cache.verify();
    return order;
  }

  int64_t now = 0;
  ThreadPool pool{2};
  std::unique_ptr<FakeSource> source;
};

TEST_F(ExpertCacheTest, SecondUseIsAHitAndReadsNothing) {
  const auto cache = one_layer(4);
  run_event(*cache, picks({1, 2}));
  run_event(*cache, picks({2, 1}));
  EXPECT_EQ(source->reads_in_all(), 2);
  EXPECT_EQ(cache->stats().hits, 2);
  EXPECT_EQ(cache->stats().misses, 2);
  EXPECT_EQ(cache->stats().bytes_read, 40);  // two experts in two parts
}

TEST_F(ExpertCacheTest, TheLeastRecentlyUsedExpertIsTheVictim) {
  const auto cache = one_layer(2);
  run_event(*cache, picks({0}));
  run_event(*cache, picks({1}));
  run_event(*cache, picks({0}));
  run_event(*cache, picks({2}));
  EXPECT_TRUE(cache->is_resident({0, 0}));
  EXPECT_FALSE(cache->is_resident({0, 1}));
  EXPECT_EQ(cache->stats().evictions, 1);
}

TEST_F(ExpertCacheTest, ResidentsAreLeasedWhileTheOthersAreRead) {
  const auto cache = one_layer(4);
  run_event(*cache, picks({1, 2}));
  source->hold({0, 5});
  const std::vector<Pick> p = picks({5, 2});
  cache->begin(0, p, ++now);
  source->wait_until_held();
  const auto wave = cache->next_wave(100);
  ASSERT_EQ(wave.size(), 1u);
  EXPECT_EQ(wave[0].expert, 2);
  EXPECT_EQ(cache->residency({0, 5}), Residency::kLoading);
  source->let_go();
  ASSERT_EQ(cache->next_wave(100).size(), 1u);
  EXPECT_TRUE(cache->next_wave(100).empty());
  cache->end();
}

TEST_F(ExpertCacheTest, AllThatAnEventMissesIsReadAtOnce) {
  const auto cache = one_layer(4);
  source->hold({0, 1});
  const std::vector<Pick> p = picks({1, 2, 3});
  cache->begin(0, p, ++now);
  source->wait_until_held();
  // The others do not wait for the one that is slow; they may come in one wave or in two.
  for (size_t leased = 0; leased < 2;) leased += cache->next_wave(100).size();
  source->let_go();
  EXPECT_EQ(cache->next_wave(100).size(), 1u);
  EXPECT_TRUE(cache->next_wave(100).empty());
  cache->end();
}

TEST_F(ExpertCacheTest, AnEventLargerThanTheSlotsRunsInWavesAndSeesEveryPickOnce) {
  const auto cache = one_layer(2);
  for (int round = 0; round < 3; ++round) {
    const std::vector<int32_t> order = run_event(*cache, picks({0, 1, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(std::set<int32_t>(order.begin(), order.end()).size(), 8u);
    EXPECT_EQ(order.size(), 8u);
  }
}

TEST_F(ExpertCacheTest, AnEventsPicksAreNeverEachOthersVictims) {
  const auto cache = one_layer(3);
  run_event(*cache, picks({5, 6, 7}));
  run_event(*cache, picks({0, 1, 2, 5, 6, 7}));
  EXPECT_EQ(cache->stats().hits, 3);
  EXPECT_EQ(cache->stats().evictions, 0)
      << "there is nobody to give up: the newcomers pass through";
  run_event(*cache, picks({0, 7}));
  EXPECT_TRUE(cache->is_resident({0, 7}));
  EXPECT_FALSE(cache->is_resident({0, 6})) << "the lightest of the last event but for 7";
}

TEST_F(ExpertCacheTest, LeasedSlotIsNeverTheVictim) {
  const auto cache = one_layer(1);
  const std::vector<Pick> p = picks({0, 1, 2});
  cache->begin(0, p, ++now);
  std::set<const std::byte*> slots;
  size_t leased = 0;
  while (leased < 2) {  // one resident, one passing through; the third waits for a slot
    const auto wave = cache->next_wave(1);
    ASSERT_EQ(wave.size(), 1u);
    expect_bytes(0, wave[0], 256);
    slots.insert(wave[0].blob);
    leased += wave.size();
  }
  EXPECT_EQ(slots.size(), 2u);
  cache->cancel();
  cache->verify();
}

TEST_F(ExpertCacheTest, AWaveIsNotLongerThanItsLimit) {
  const auto cache = one_layer(8);
  const std::vector<Pick> p = picks({0, 1, 2, 3, 4});
  run_event(*cache, p);
  cache->begin(0, p, ++now);
  EXPECT_EQ(cache->next_wave(2).size(), 2u);
  EXPECT_EQ(cache->next_wave(2).size(), 2u);
  EXPECT_EQ(cache->next_wave(2).size(), 1u);
  EXPECT_TRUE(cache->next_wave(2).empty());
  cache->end();
}

TEST_F(ExpertCacheTest, APromptEvictsNothingButForWhatIsKept) {
  const auto cache = one_layer(3);
  run_event(*cache, picks({5, 6, 7}));
  EXPECT_EQ(run_event(*cache, picks({0, 1, 2, 3, 4, 5}), 0, EventKind::kPrompt).size(), 6u);
  EXPECT_EQ(cache->stats().evictions, 0);
  for (const int32_t e : {5, 6, 7}) EXPECT_TRUE(cache->is_resident({0, e}));

  const int32_t keep[] = {3};
  const std::vector<Pick> last_row = picks({3});
  cache->note_use(0, last_row, now);
  run_event(*cache, picks({0, 1, 2, 3, 4}), 0, EventKind::kPrompt, keep);
  EXPECT_EQ(cache->stats().evictions, 1);
  EXPECT_TRUE(cache->is_resident({0, 3}));
}

TEST_F(ExpertCacheTest, APromptFillsWhatIsFree) {
  const auto cache = one_layer(3);
  run_event(*cache, picks({0, 1, 2, 3, 4}), 0, EventKind::kPrompt);
  EXPECT_EQ(cache->resident_bytes(), 3 * 256);
}

// Layers 0 and 2 share a class of six slots; layer 0 keeps its floor however busy layer 2 is.
TEST_F(ExpertCacheTest, ALayerKeepsItsFloor) {
  for (const PolicyKind kind : {PolicyKind::kLru, PolicyKind::kScore, PolicyKind::kLfu}) {
    source = std::make_unique<FakeSource>(3, 16);
    const SlotPlan plan = plan_slots(*source, 3800, 1);
    ASSERT_EQ(plan.classes[0].residents_max(), 6);
    ExpertCache cache(*source, plan, pool, policy_of(kind), {.floor = 2, .reads = 16});
    for (int32_t e = 0; e < 6; ++e) run_event(cache, {{e, 0}}, 0);
    for (int round = 0; round < 200; ++round) run_event(cache, {{round % 16, 0}}, 2);
    int32_t residents = 0;
    for (int32_t e = 0; e < 16; ++e) residents += cache.is_resident({0, e});
    EXPECT_GE(residents, 2);
  }
}

TEST_F(ExpertCacheTest, AFailedReadEndsTheEventNamesItsCauseAndLeavesTheCacheUsable) {
  const auto cache = one_layer(3);
  run_event(*cache, picks({6}));
  source->fail({0, 4});
  const std::vector<Pick> p = picks({6, 3, 4});
  const auto run = [&] {
    cache->begin(0, p, ++now);
    while (!cache->next_wave(100).empty()) {
    }
  };
  try {
    run();
    FAIL() << "the read did not fail";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("model.bin: reading at offset 4096"));
    EXPECT_THAT(error.what(), HasSubstr("expert 4 of layer 0"));
  }
  cache->verify();
  EXPECT_FALSE(cache->is_resident({0, 4}));
  EXPECT_TRUE(cache->is_resident({0, 6}));
  source->fail({-1, -1});
  EXPECT_EQ(run_event(*cache, p).size(), 3u);
}

TEST_F(ExpertCacheTest, BytesThatAreBadEndTheEventToo) {
  const auto cache = one_layer(3);
  source->bad_bytes = {0, 4};
  const std::vector<Pick> p = picks({3, 4});
  cache->begin(0, p, ++now);
  EXPECT_THROW(while (!cache->next_wave(100).empty()){}, Error);
  cache->verify();
  source->bad_bytes = {-1, -1};
  EXPECT_EQ(run_event(*cache, p).size(), 2u);
}

TEST_F(ExpertCacheTest, ASlowReadIsWaitedFor) {
  const auto cache = one_layer(3);
  source->read_us = 100'000;
  EXPECT_EQ(run_event(*cache, picks({3, 4})).size(), 2u);
  EXPECT_GT(cache->prefetch_stats().reads.waited_ns, 50'000'000);
}

// Where experts land in their slots, cancelling waits for what is being written there.
TEST_F(ExpertCacheTest, AnEventCancelledWhileItsReadsAreUnderWayLeavesNothingBehind) {
  for (const bool lands_packed : {false, true}) {
    FakeSource slow(1, 8, lands_packed ? 1 : 2, lands_packed);
    ExpertCache cache(slow, plan_slots(slow, 4 * 256, 1), pool, policy_of(PolicyKind::kLru),
                      {.reads = 16});
    slow.hold({0, 3});
    const std::vector<Pick> p = picks({3, 4, 5});
    cache.begin(0, p, ++now);
    slow.wait_until_held();
    std::jthread releases([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      slow.let_go();
    });
    cache.cancel();
    cache.verify();
    EXPECT_EQ(cache.residency({0, 3}), Residency::kAbsent);
    cache.begin(0, p, ++now);  // the same expert again, perhaps while the old read still lands
    size_t seen = 0;
    while (true) {
      const auto wave = cache.next_wave(100);
      if (wave.empty()) break;
      for (const Lease& lease : wave) expect_bytes(0, lease, 256);
      seen += wave.size();
    }
    cache.end();
    EXPECT_EQ(seen, 3u);
    cache.verify();
  }
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
  EXPECT_EQ(cache->stats().bytes_read, 20 + 70);
  run_event(*cache, picks({0, 3, 7}));
  EXPECT_EQ(cache->stats().hits, 3);
  EXPECT_EQ(source->reads_in_all(), 1);
}

TEST_F(ExpertCacheTest, AFillThatFailsLeavesTheExpertAbsentAndIsTriedAgain) {
  const auto cache = one_layer(8);
  source->fail({0, 1});
  EXPECT_TRUE(cache->fill_one());
  EXPECT_THROW(cache->fill_one(), Error);
  cache->verify();
  EXPECT_FALSE(cache->is_resident({0, 1}));
  source->fail({-1, -1});
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
    for (const SlotPlan::Class& c : plan.classes) {
      EXPECT_EQ(c.passing > 0, budget < all);
      EXPECT_GT(c.residents_max(), 0);
    }
  }
  EXPECT_TRUE(plan_slots(source, all, 8).all_resident());
  const SlotPlan least = plan_slots(source, 0, 8);
  EXPECT_EQ(least.slot_bytes_total, 8 * (256 + 512));
  EXPECT_EQ(least.slot_bytes_total, least.least_bytes);
}

}  // namespace
}  // namespace hotset::test
