// Memory that a card granted and does not have is found by its time. A card that sleeps over it
// stands in for one; what a card's own memory takes is not measured.
#include "runtime/card/spill_probe.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "tests/support/card_runtime.h"
#include "tests/support/engine.h"

namespace hotset::test {
namespace {

// Its memory for slots ends after `own` of it; the rest is behind a link.
class SpillingRuntime : public WatchedRuntime {
 public:
  explicit SpillingRuntime(double own) : own_(own) {}

  std::byte* reserve(int64_t bytes, const char* what) override {
    std::byte* const address = WatchedRuntime::reserve(bytes, what);
    if (what == std::string("expert slots")) slots_ = address;
    return address;
  }
  void commit(std::byte* reservation, int64_t bytes, const char* what) override {
    WatchedRuntime::commit(reservation, bytes, what);
    if (reservation == slots_) bytes_ = bytes;
  }
  void copy(CardStream stream, void* to, const void* from, int64_t bytes) override {
    const auto* const at = static_cast<const std::byte*>(from);
    if (slots_ != nullptr && at >= slots_ && at < slots_ + bytes_) {
      const auto own_bytes = static_cast<int64_t>(own_ * static_cast<double>(bytes_));
      const bool is_own = at + bytes - slots_ <= own_bytes;
      std::this_thread::sleep_for(std::chrono::milliseconds(is_own ? 5 : 60));
      ++looks;
    }
    WatchedRuntime::copy(stream, to, from, bytes);
  }
  int looks = 0;

 private:
  void before(const std::string&, CardStream) override {}
  const double own_;
  std::byte* slots_ = nullptr;
  int64_t bytes_ = 0;
};

int64_t slow_percent(double own) {
  SpillingRuntime card(own);
  const OwnStream stream(card);
  CardReservation slots(card, 200'000, "expert slots");
  slots.commit(100'000);
  const int64_t bytes = slow_bytes_of(card, stream.stream, slots);
  EXPECT_GT(card.looks, 40);
  return bytes / 1000;
}

TEST(SpillProbeTest, WhatIsBehindTheLinkIsSlow) {
  EXPECT_EQ(slow_percent(1.0), 0);
  EXPECT_NEAR(static_cast<double>(slow_percent(0.75)), 25, 6);
  EXPECT_GT(slow_percent(0.95), 0) << "the very end is looked at";
}

TEST(SpillProbeTest, MemoryThatIsTooSmallToBeTimedIsTakenForTheCards) {
  SpillingRuntime card(0.5);
  const OwnStream stream(card);
  CardReservation slots(card, 200'000, "expert slots");
  EXPECT_EQ(slow_bytes_of(card, stream.stream, slots), 0);
  slots.commit(512);
  EXPECT_EQ(slow_bytes_of(card, stream.stream, slots), 0);
  EXPECT_EQ(card.looks, 0);
}

TEST(SpillProbeTest, AnEnginesPlanSaysHowManyOfItsSlotsAreSlow) {
  EngineOptions options = small_options();
  options.card_room.expert_bytes = INT64_MAX;
  for (const double own : {1.0, 0.5}) {
    options.card = std::make_shared<SpillingRuntime>(own);
    const auto engine = open_engine(small_model(), options);
    const CardMemoryPlan card = *engine->memory_plan().card;
    EXPECT_NEAR(static_cast<double>(card.slow_bytes),
                (1 - own) * static_cast<double>(card.slot_bytes),
                0.07 * static_cast<double>(card.slot_bytes));
  }
}

}  // namespace
}  // namespace hotset::test
