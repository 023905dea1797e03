// Keys and values take a card's memory from the slots as sessions grow, and give it back when these
// end or are shortened; no bit of an answer depends on it.
#include <gtest/gtest.h>

#include "kernels/cuda/fake_runtime.h"
#include "tests/support/engine.h"
#include "tests/support/on_demand.h"

namespace hotset::test {
namespace {

class CardMemoryTest : public testing::TestWithParam<FakeOrder> {
 protected:
  static std::string path() { return small_model(); }
  static EngineOptions options() { return small_options(2); }
  void SetUp() override {
    const MemoryPlan plan = Engine::plan(open_model(path()), options());
    kv_block_ = plan.kv / 4;
    half_ = plan.experts.expert_bytes_total / 2;
    EngineOptions o = options();
    card_ = make_fake_runtime({.order = GetParam()});
    o.card = card_;
    o.card_tier.lambda = 0;
    o.card_room = {INT64_MAX, half_ + 2 * kv_block_};
    engine_ = open_engine(path(), o);
    slots_ = slot_bytes();
    ASSERT_GT(slots_, half_ - kv_block_);
  }
  int64_t slot_bytes() const { return engine_->card_tier()->plan().slot_bytes_total; }
  int64_t free_bytes() const { return card_->memory_info().free_bytes; }

  // As if so many positions had been fed, which were all alike.
  void fill(Session& session, int64_t positions, int64_t blocks) const {
    Snapshot snapshot = session.snapshot();
    snapshot.tokens.resize(static_cast<size_t>(positions));
    snapshot.kv.assign(static_cast<size_t>(blocks * kv_block_), std::byte{});
    session.restore(snapshot);
  }

  int64_t kv_block_ = 0, half_ = 0, slots_ = 0;  // bytes; half of all experts, and their slots
  std::shared_ptr<CardRuntime> card_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(CardMemoryTest, WhatAnEndedSessionHadIsTheSlotsAgain) {
  HOTSET_NOT_UNDER_TSAN();
  const auto on_cpu = open_engine(path(), options());
  Session other = engine_->open_session(), reference = on_cpu->open_session();
  // Of the session that goes on, on the card and on the CPU.
  const auto expect_the_same_bits = [&](int32_t token) {
    const std::span<const float> seen = feed(*engine_, other, {{token}});
    const std::span<const float> expected = feed(*on_cpu, reference, {{token}});
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), expected.begin(), expected.end())) << token;
  };
  expect_the_same_bits(1);
  const int64_t free = free_bytes();
  for (int32_t round = 0; round < 3; ++round) {
    {
      Session session = engine_->open_session();
      fill(session, 255, 1);
      feed(*engine_, session, {{2, 3, 4}});  // into a second block
      EXPECT_LE(slot_bytes(), half_ - kv_block_);
      EXPECT_EQ(engine_->card_shared_bytes(), slot_bytes() + 3 * kv_block_);
      expect_the_same_bits(10 + round);
    }
    EXPECT_LE(slot_bytes(), half_ - kv_block_);
    feed(*engine_, other, {{5, 6}});  // a prompt would take it again
    feed(*on_cpu, reference, {{5, 6}});
    EXPECT_LE(slot_bytes(), half_ - kv_block_);
    expect_the_same_bits(20 + round);
    EXPECT_EQ(slot_bytes(), slots_);
    EXPECT_EQ(engine_->card_shared_bytes(), slots_ + kv_block_);
    EXPECT_EQ(free_bytes(), free);
    engine_->card_tier()->verify();
  }
}

TEST_P(CardMemoryTest, ASessionThatIsEmptiedKeepsNoMemory) {
  HOTSET_NOT_UNDER_TSAN();
  Session other = engine_->open_session(), session = engine_->open_session();
  feed(*engine_, other, {{1}});
  fill(session, 300, 2);  // written late, where streams are lazy
  session.truncate(0);
  feed(*engine_, other, {{2}});
  EXPECT_EQ(engine_->card_shared_bytes(), slot_bytes() + kv_block_);
  EXPECT_EQ(slot_bytes(), slots_);
}

// What a session has behind one that ended is not moved.
TEST_P(CardMemoryTest, ASessionBehindOneThatEndedKeepsItsPlace) {
  HOTSET_NOT_UNDER_TSAN();
  Session behind = engine_->open_session();
  {
    Session first = engine_->open_session();
    fill(first, 300, 2);
    feed(*engine_, behind, {{1}});
  }
  feed(*engine_, behind, {{2}});
  EXPECT_EQ(engine_->card_shared_bytes(), slot_bytes() + 3 * kv_block_);
  EXPECT_LE(slot_bytes(), half_ - kv_block_);
  behind.truncate(0);
  feed(*engine_, behind, {{3}});  // at the first place that is free
  EXPECT_EQ(engine_->card_shared_bytes(), slot_bytes() + kv_block_);
  EXPECT_EQ(slot_bytes(), slots_);
}

INSTANTIATE_TEST_SUITE_P(Orders, CardMemoryTest,
                         testing::Values(FakeOrder::kInOrder, FakeOrder::kLazy),
                         [](const auto& info) {
                           return info.param == FakeOrder::kLazy ? "lazy" : "in_order";
                         });

}  // namespace
}  // namespace hotset::test
