// Random steps over everything a cache can be asked, under every policy: events of decode and of
// prompts, guesses, failing reads, cancelled events, other sizes, another policy. What must hold is
// in verify(), and each lease has its own expert's bytes. Leases are held across the evictions that
// later waves of their event make.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/cache/fake_source.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

constexpr int32_t kLayers = 6, kExperts = 32;

class RandomSteps {
 public:
  RandomSteps(PolicyKind kind, bool lands_packed, unsigned seed)
      : source_(kLayers, kExperts, lands_packed ? 1 : 2, lands_packed),
        random_(seed),
        cache_(source_, plan_slots(source_, 20000, 4), pool_, policy_of(kind),
               {.floor = 4, .reading_threads = 2, .reads = 12}) {}

  void run(int steps) {
    for (int step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
      now_ = step;
      change_something();
      event();
      cache_.verify();
    }
    source_.fail({-1, -1});
    cache_.verify();
    const CacheStats stats = cache_.stats();
    EXPECT_GT(stats.hits, 0);
    EXPECT_GT(stats.evictions, 0);
    EXPECT_LE(stats.hits + stats.misses, wanted_);
    EXPECT_GT(failures_, 0);
  }

 private:
  int32_t below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<unsigned>(n)); }

  void change_something() {
    switch (below(200)) {
      case 0:
        return cache_.resize(plan_slots(source_, 4000 + below(60000), 4));
      case 1:
        return cache_.replace_policy(policy_of(static_cast<PolicyKind>(below(4))));
      case 2:
        try {
          cache_.fill_one();
        } catch (const Error&) {
          ++failures_;
        }
        return;
      case 3:
        return source_.fail({below(kLayers), below(kExperts)});
      case 4:
        return source_.fail({-1, -1});
      default:
        if (below(2) == 0) {
          const int32_t guess[] = {below(kExperts), below(kExperts), below(kExperts)};
          cache_.expect(below(kLayers), guess);
        }
    }
  }

  void event() {
    const int32_t layer = below(kLayers);
    std::vector<Pick> p;
    for (int32_t e = 0; e < kExperts; ++e) {
      if (below(6) == 0) p.push_back({e, below(4)});
    }
    std::vector<int32_t> keep;
    for (const Pick& pick : p) {
      if (below(3) == 0) keep.push_back(pick.expert);
    }
    wanted_ += std::ssize(p);
    try {
      cache_.begin(layer, p, now_, below(5) == 0 ? EventKind::kPrompt : EventKind::kDecode, keep);
      if (below(100) == 0) return cache_.cancel();
      size_t seen = 0;
      while (true) {
        const auto wave = cache_.next_wave(1 + below(12));
        if (wave.empty()) break;
        for (const Lease& lease : wave) expect_bytes(layer, lease, source_.expert_bytes(layer));
        seen += wave.size();
        if (below(200) == 0) return cache_.cancel();
      }
      ASSERT_EQ(seen, p.size());
      cache_.end();
    } catch (const Error&) {
      ++failures_;
      if (below(2) == 0) source_.fail({-1, -1});
    }
  }

  FakeSource source_;
  std::mt19937 random_;
  ThreadPool pool_{2};
  ExpertCache cache_;
  int64_t now_ = 0, wanted_ = 0;
  int failures_ = 0;
};

void run_all_policies(int steps) {
  constexpr unsigned kSeed = 20261123;
  for (int kind = 0; kind < 4; ++kind) {
    for (const bool lands_packed : {false, true}) {
      SCOPED_TRACE("policy " + std::string(policy_names()[kind]) + ", seed " +
                   std::to_string(kSeed + kind));
      RandomSteps(static_cast<PolicyKind>(kind), lands_packed, kSeed + kind).run(steps);
    }
  }
}

TEST(RandomCacheTest, EveryTotalHoldsAfterEveryStep) {
  run_all_policies(5000);
}

TEST(RandomCacheLongTest, EveryTotalHoldsOverMillionsOfSteps) {
  HOTSET_ON_DEMAND("HOTSET_LONG");
#ifdef HOTSET_SANITIZES_address
  run_all_policies(65'000);  // half a million in all, a minute and more
#else
  run_all_policies(260'000);  // two million in all
#endif
}

// Two sessions' steps take turns in one cache while another thread changes its size.
TEST(RandomCacheTest, SessionsShareACacheWhileItsSizeChanges) {
  FakeSource source(kLayers, kExperts);
  ThreadPool pool(2);
  ExpertCache cache(source, plan_slots(source, 20000, 4), pool, policy_of(PolicyKind::kScore),
                    {.floor = 4, .reading_threads = 2, .reads = 12});
  std::jthread control([&](const std::stop_token& stop) {
    for (int i = 0; !stop.stop_requested(); ++i) {
      cache.resize(plan_slots(source, 5000 + i % 7 * 9000, 4));
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      if (i % 5 == 0) cache.replace_policy(policy_of(static_cast<PolicyKind>(i / 5 % 4)));
    }
  });
  std::mt19937 random(5);
  for (int step = 0; step < 3000; ++step) {
    const auto layer = static_cast<int32_t>(random() % kLayers);
    const int32_t first = step % 2 == 0 ? 0 : 11;  // each session has its own text
    std::vector<Pick> p;
    for (int32_t i = 0; i < 4; ++i) p.push_back({first + 3 * i, i});
    cache.begin(layer, p, step);
    size_t seen = 0;
    while (true) {
      const auto wave = cache.next_wave(4);
      if (wave.empty()) break;
      for (const Lease& lease : wave) expect_bytes(layer, lease, source.expert_bytes(layer));
      seen += wave.size();
    }
    cache.end();
    ASSERT_EQ(seen, p.size());
  }
  control.request_stop();
  control.join();
  cache.verify();
  EXPECT_GT(cache.stats().hits, 0);
}

// However tightly somebody resizes, an event waits for one of them at most. (Counted are those that
// end while it begins, which a thread that is not run just then makes more.)
TEST(RandomCacheTest, ResizingInATightLoopHoldsUpNoEventForLong) {
  FakeSource source(kLayers, kExperts);
  ThreadPool pool(2);
  ExpertCache cache(source, plan_slots(source, 20000, 4), pool, policy_of(PolicyKind::kScore),
                    {.floor = 4, .reading_threads = 1, .reads = 12});
  std::atomic<int64_t> resized = 0;
  std::vector<std::jthread> controls;
  for (int t = 0; t < 2; ++t) {
    controls.emplace_back([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        cache.resize(plan_slots(source, 5000 + resized % 7 * 9000, 4));
        ++resized;
      }
    });
  }
  while (resized < 2) std::this_thread::yield();
  const std::vector<Pick> p = {{3, 0}, {7, 1}};
  int held_up = 0, step = 0;
  for (; step < 300 || (resized <= 100 && step < 1000000); ++step) {
    const int64_t before = resized;
    cache.begin(step % kLayers, p, step);
    held_up += resized - before > 4;
    while (!cache.next_wave(4).empty()) {
    }
    cache.end();
  }
  EXPECT_LE(held_up, step / 5);
  EXPECT_GT(resized, 100);  // nor do events hold up resizing
}

// The best stay: what the last events used is there after the tier has become half as large.
TEST(RandomCacheTest, AShrinkingTierKeepsTheBestAndAGrowingOneAll) {
  for (const PolicyKind kind : {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu}) {
    FakeSource source(1, kExperts);
    ThreadPool pool(2);
    ExpertCache cache(source, plan_slots(source, 17 * 256, 1), pool, policy_of(kind, 1),
                      {.reads = 12});
    const auto use = [&](int32_t expert, int64_t now) {
      const std::vector<Pick> p = {{expert, 0}};
      cache.begin(0, p, now);
      while (!cache.next_wave(1).empty()) {
      }
      cache.end();
    };
    int64_t now = 0;
    for (int round = 0; round < 3; ++round) {
      for (int32_t e = 0; e < 15; ++e) use(e, ++now);
    }
    for (int round = 0; round < 5; ++round) {
      for (int32_t e = 0; e < 7; ++e) use(e, ++now);
    }
    cache.resize(plan_slots(source, 8 * 256, 1));
    cache.verify();
    EXPECT_EQ(cache.resident_bytes(), 7 * 256);
    for (int32_t e = 0; e < 7; ++e) EXPECT_TRUE(cache.is_resident({0, e})) << e;
    cache.resize(plan_slots(source, INT64_MAX, 1));
    cache.verify();
    const int64_t misses = cache.stats().misses;
    for (int32_t e = 0; e < 7; ++e) use(e, ++now);
    EXPECT_EQ(cache.stats().misses, misses);
    while (cache.fill_one()) {
    }
    EXPECT_EQ(cache.resident_bytes(), kExperts * 256);
    cache.verify();
  }
}

}  // namespace
}  // namespace hotset::test
