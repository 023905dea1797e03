// Residents that are held beside the steps (ExpertCache::hold_resident): all of the bytes are the
// expert's, whatever is evicted and however the slots move meanwhile.
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <thread>

#include "tests/cache/fake_source.h"

namespace hotset::test {
namespace {

constexpr int32_t kLayers = 4, kExperts = 24;

// Whether it is resident; then all of its bytes are its own while it is held.
bool copy_resident(ExpertCache& cache, ExpertId id, std::span<std::byte> to, int64_t bytes) {
  const std::byte* const resident = cache.hold_resident(id);
  if (resident == nullptr) return false;
  std::memcpy(to.data(), resident, static_cast<size_t>(bytes));
  cache.release_resident(id);
  return true;
}

TEST(HoldResidentTest, WhatIsAbsentIsNotHeld) {
  FakeSource source(kLayers, kExperts);
  ThreadPool pool(1);
  ExpertCache cache(source, plan_slots(source, 1 << 20, 4), pool, policy_of(PolicyKind::kLru),
                    {.floor = 4, .reading_threads = 1, .reads = 8});
  std::array<std::byte, 512> copy;
  EXPECT_FALSE(copy_resident(cache, {0, 3}, copy, 256));
  cache.begin(0, picks({3}), 1);
  while (!cache.next_wave(4).empty()) {
  }
  cache.end();
  ASSERT_TRUE(copy_resident(cache, {0, 3}, copy, 256));
  expect_bytes(0, {3, copy.data()}, 256);
  cache.verify();
}

TEST(HoldResidentTest, CopiesAreWholeWhileStepsEvictAndSlotsMove) {
  FakeSource source(kLayers, kExperts);
  ThreadPool pool(2);
  ExpertCache cache(source, plan_slots(source, 12000, 4), pool, policy_of(PolicyKind::kLru),
                    {.floor = 4, .reading_threads = 2, .reads = 12});
  std::atomic<int> copies = 0;
  std::jthread copier([&](const std::stop_token& stop) {
    std::minstd_rand random(11);
    std::array<std::byte, 512> copy;
    while (!stop.stop_requested()) {
      const ExpertId id{static_cast<int32_t>(random() % kLayers),
                        static_cast<int32_t>(random() % kExperts)};
      const int64_t bytes = source.expert_bytes(id.layer);
      if (!copy_resident(cache, id, copy, bytes)) continue;
      ++copies;
      expect_bytes(id.layer, {id.expert, copy.data()}, bytes);
    }
  });
  std::minstd_rand random(5);
  for (int step = 0; step < 3000 || copies < 1000; ++step) {
    if (step % 100 == 0) cache.resize(plan_slots(source, 6000 + random() % 20000, 4));
    const auto layer = static_cast<int32_t>(random() % kLayers);
    std::vector<Pick> wanted;
    for (int32_t e = 0; e < kExperts; ++e) {
      if (random() % 5 == 0) wanted.push_back({e, 0});
    }
    cache.begin(layer, wanted, step);
    while (!cache.next_wave(8).empty()) {
    }
    cache.end();
  }
  copier = {};
  cache.verify();
}

}  // namespace
}  // namespace hotset::test
