// The card's tier: a slot is never written while a kernel of a running step may read it, and the
// table names an expert only when its bytes are there. Random steps are played against a model of
// what a card would see: a table that only deltas change, and slots with the bytes of copies.
#include "cache/card_tier.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/cache/fake_source.h"

namespace hotset::test {
namespace {

constexpr int32_t kLayers = 4, kExperts = 16;

SlotPlan slots_of(int64_t slots, std::vector<int64_t> bytes = {100, 100, 200, 200}) {
  SlotPlan plan = plan_slots(bytes, kExperts, 0, 0);
  for (SlotPlan::Class& c : plan.classes) {
    c.slots = static_cast<int32_t>(std::min<int64_t>(slots, c.experts));
    plan.slot_bytes_total += c.slots * c.slot_bytes;
  }
  return plan;
}

class CardTierTest : public testing::Test {
 protected:
  void use(int64_t slots, PolicyKind kind, int32_t copies_max, std::optional<double> lambda) {
    tier_ = std::make_unique<CardTier>(slots_of(slots), kLayers, kExperts, policy_of(kind),
                                       CardTierOptions{copies_max, lambda});
    table_.clear();
    content_.clear();
    under_way_.clear();
  }
  ExpertId* content(int32_t size_class, SlotId slot) { return &content_[{size_class, slot}]; }

  // As the kernel at a step's head does it.
  void begin_step() {
    for (const CardResidencyDelta& delta : tier_->begin_step()) {
      const auto key = std::pair(delta.layer, delta.expert);
      if (delta.slot == kCardAbsent) {
        ASSERT_EQ(table_.erase(key), 1U) << "taken out who was not there";
      } else {
        ASSERT_TRUE(table_.emplace(key, delta.slot).second) << "named twice";
      }
    }
    ++steps_;
  }
  // What every kernel of the step may do: read the slots that the table names.
  void read_all() {
    for (const auto& [key, slot] : table_) {
      const ExpertId id{key.first, key.second};
      ASSERT_EQ(*content(tier_->class_of(id.layer), static_cast<SlotId>(slot)), id)
          << "a step read a slot that was not its expert's";
    }
  }
  void take_copy() {
    if (const auto copy = tier_->take_copy()) {
      *content(tier_->class_of(copy->id.layer), copy->slot) = {-1, -1};  // is being written
      under_way_.push_back(*copy);
    }
  }
  void end_copy(size_t i, bool well) {
    const CardCopy copy = under_way_[i];
    under_way_.erase(under_way_.begin() + static_cast<ptrdiff_t>(i));
    if (!well) return tier_->abandoned(copy);
    *content(tier_->class_of(copy.id.layer), copy.slot) = copy.id;
    tier_->copied(copy);
  }
  // Nothing may be under way.
  void resize(int64_t slots) {
    for (const CardMove& move : tier_->resize(slots_of(slots))) {
      *content(move.size_class, move.to) = *content(move.size_class, move.from);
      *content(move.size_class, move.from) = {-1, -1};
    }
    table_.clear();
    const std::span<const SlotId> table = tier_->table();
    for (int32_t i = 0; i < kLayers * kExperts; ++i) {
      if (table[i] >= 0) table_[{i / kExperts, i % kExperts}] = static_cast<uint32_t>(table[i]);
    }
  }
  void use_picks(int32_t layer, std::vector<int32_t> experts) {
    std::vector<Pick> picks;
    for (const int32_t e : experts) picks.push_back({e, static_cast<int32_t>(picks.size())});
    tier_->use(layer, picks, steps_);
  }

  std::unique_ptr<CardTier> tier_;
  std::map<std::pair<int32_t, int32_t>, uint32_t> table_;
  std::map<std::pair<int32_t, SlotId>, ExpertId> content_;
  std::vector<CardCopy> under_way_;
  int64_t steps_ = 0;
};

TEST_F(CardTierTest, ANewcomerIsNamedOneStepAfterItsCopyHasCompleted) {
  use(1, PolicyKind::kLru, 4, 0);
  begin_step();
  use_picks(0, {5});
  EXPECT_FALSE(tier_->take_copy()) << "chosen at the step's end only";
  tier_->end_step();
  take_copy();
  ASSERT_EQ(under_way_.size(), 1U);
  begin_step();
  EXPECT_TRUE(table_.empty()) << "its copy is still under way";
  tier_->end_step();
  end_copy(0, true);
  EXPECT_TRUE(table_.empty());
  begin_step();
  EXPECT_EQ(table_.size(), 1U);
  tier_->end_step();
  tier_->verify();
}

TEST_F(CardTierTest, AVictimsSlotIsNotWrittenBeforeTheTableHasLostIt) {
  use(1, PolicyKind::kLru, 4, 0);
  begin_step();
  use_picks(0, {5});
  tier_->end_step();
  take_copy();
  end_copy(0, true);
  begin_step();
  use_picks(0, {6});
  tier_->end_step();
  // Chosen over 5. The next step's deltas are not made yet: a step could still be launched that
  // reads 5.
  EXPECT_FALSE(tier_->take_copy());
  ASSERT_EQ(table_.size(), 1U);
  begin_step();
  EXPECT_TRUE(table_.empty());
  take_copy();
  ASSERT_EQ(under_way_.size(), 1U);
  EXPECT_EQ(under_way_[0].id, (ExpertId{0, 6}));
  tier_->end_step();
  tier_->verify();
}

TEST_F(CardTierTest, AStepsOwnPicksAreNotItsVictims) {
  use(2, PolicyKind::kLru, 8, 0);
  for (int step = 0; step < 4; ++step) {  // two slots of the class, three picked at once
    begin_step();
    use_picks(0, {1, 2, 3});
    tier_->end_step();
    while (take_copy(), !under_way_.empty()) end_copy(0, true);
  }
  EXPECT_EQ(tier_->stats().evictions, 0);
  EXPECT_EQ(tier_->stats().hits, 2 + 2 + 2);
  EXPECT_EQ(tier_->stats().misses, 12 - 6);
}

TEST_F(CardTierTest, ACopyCostsMoreThanASmallGain) {
  use(1, PolicyKind::kScore, 8, 1e6);
  for (int step = 0; step < 40; ++step) {
    begin_step();
    use_picks(0, {step % 2});
    tier_->end_step();
    while (take_copy(), !under_way_.empty()) end_copy(0, true);
  }
  EXPECT_LE(tier_->stats().evictions, 1);
}

TEST_F(CardTierTest, WhatACopyCostsIsMeasured) {
  for (const bool is_dear : {false, true}) {
    use(1, PolicyKind::kScore, 8, {});
    EXPECT_EQ(tier_->lambda(), AdmissionPrice::kUnmeasured);
    tier_->add_copies(100, is_dear ? 100 : 100e-6);
    tier_->add_misses(100, 100e-3);
    for (int step = 0; step < 40; ++step) {
      begin_step();
      use_picks(0, {step % 2});
      if (step % 2 == 1) use_picks(1, {1});
      tier_->end_step();
      while (take_copy(), !under_way_.empty()) end_copy(0, true);
    }
    if (is_dear) {
      EXPECT_LE(tier_->stats().evictions, 1);
    } else {
      EXPECT_GT(tier_->stats().evictions, 2);
    }
  }
}

TEST_F(CardTierTest, AShrunkTierKeepsTheBestAndAGrownOneTakesThemBack) {
  use(6, PolicyKind::kLfu, 8, 0);
  // Expert e is used e times, so that 5, 4, 3 are the best; loaded worst first, into the first
  // slots.
  for (int32_t step = 0; step < 6; ++step) {
    begin_step();
    std::vector<int32_t> picks;
    for (int32_t e = 5; e >= 0; --e) {
      if (e >= step) picks.push_back(e);
    }
    use_picks(2, picks);
    tier_->end_step();
    while (take_copy(), !under_way_.empty()) end_copy(0, true);
  }
  begin_step();
  tier_->end_step();
  ASSERT_EQ(table_.size(), 6U);
  resize(3);
  tier_->verify();
  EXPECT_EQ(table_.size(), 3U);
  for (const int32_t e : {3, 4, 5}) EXPECT_TRUE(table_.contains({2, e})) << e;
  read_all();

  resize(5);
  std::vector<ExpertId> filled;
  while (take_copy(), !under_way_.empty()) {
    EXPECT_TRUE(under_way_[0].is_fill);
    filled.push_back(under_way_[0].id);
    end_copy(0, true);
  }
  EXPECT_EQ(filled, (std::vector<ExpertId>{{2, 2}, {2, 1}})) << "the next best";
  begin_step();
  EXPECT_EQ(table_.size(), 5U);
  read_all();
  tier_->end_step();
  tier_->verify();
}

TEST_F(CardTierTest, WhatWasLearnedBeforeFillsTheSlotsBestFirst) {
  use(2, PolicyKind::kScore, 4, 0);
  std::vector<float> scores(kLayers * kExperts);
  scores[0 * kExperts + 3] = 1;
  scores[1 * kExperts + 7] = 3;
  scores[1 * kExperts + 8] = 2;
  tier_->restore_scores(scores);
  take_copy();
  ASSERT_EQ(under_way_.size(), 1U);
  EXPECT_EQ(under_way_[0].id, (ExpertId{1, 7}));
  end_copy(0, true);
  take_copy();
  EXPECT_EQ(under_way_[0].id, (ExpertId{1, 8}));
  end_copy(0, false);  // the host does not have it yet
  take_copy();
  ASSERT_EQ(under_way_.size(), 1U);
  EXPECT_EQ(under_way_[0].id, (ExpertId{0, 3}));
  end_copy(0, true);
  EXPECT_FALSE(tier_->take_copy()) << "nobody else has a score, and there is no free slot";
  begin_step();
  EXPECT_EQ(table_.size(), 2U);
  EXPECT_EQ(tier_->stats().admissions, 0) << "a fill is no admission";
  tier_->end_step();

  resize(3);  // a free slot of the class: the one that could not be had is tried again
  take_copy();
  ASSERT_EQ(under_way_.size(), 1U);
  EXPECT_EQ(under_way_[0].id, (ExpertId{1, 8}));
  end_copy(0, false);
  EXPECT_FALSE(tier_->take_copy());
  begin_step();
  take_copy();
  ASSERT_EQ(under_way_.size(), 1U) << "every step's head tries again";
  EXPECT_EQ(under_way_[0].id, (ExpertId{1, 8}));
  tier_->end_step();
  tier_->verify();
}

TEST_F(CardTierTest, WhoAFillBringsBeforeTheStepEndsIsNotGivenASecondSlot) {
  for (const int64_t slots : {4, 2}) {  // another one is free, or would be taken from somebody
    use(slots, PolicyKind::kLru, 4, 0);
    begin_step();
    use_picks(0, {9});
    tier_->end_step();
    take_copy();
    end_copy(0, true);
    begin_step();
    use_picks(0, {5});
    std::vector<float> scores(kLayers * kExperts);
    scores[5] = 1;
    tier_->restore_scores(scores);
    take_copy();  // the fill, beside the step that has missed it
    ASSERT_EQ(under_way_.size(), 1U);
    EXPECT_TRUE(under_way_[0].is_fill);
    tier_->end_step();
    tier_->verify();
    take_copy();
    EXPECT_EQ(under_way_.size(), 1U) << "the same expert for another slot";
    while (!under_way_.empty()) end_copy(0, true);
    begin_step();
    EXPECT_EQ(table_.size(), 2U);
    EXPECT_EQ(tier_->stats().evictions, 0);
    read_all();
    tier_->end_step();
    tier_->verify();
  }
}

TEST_F(CardTierTest, WhoWaitsForACopyLooksAgainForAFillThatCouldNotBeHad) {
  using namespace std::chrono_literals;
  use(1, PolicyKind::kScore, 4, 0);
  std::vector<float> scores(kLayers * kExperts);
  scores[5] = 1;
  tier_->restore_scores(scores);
  const std::stop_token never;
  for (int i = 0; i < 3; ++i) {
    const auto copy = tier_->next_copy(never, 1ms);
    ASSERT_TRUE(copy);
    EXPECT_EQ(copy->id, (ExpertId{0, 5}));
    tier_->abandoned(*copy);
    EXPECT_FALSE(tier_->next_copy(never, 1ms));
  }
}

TEST_F(CardTierTest, WithoutSlotsAllAreMisses) {
  use(0, PolicyKind::kScore, 8, 0);
  for (int step = 0; step < 3; ++step) {
    begin_step();
    EXPECT_TRUE(table_.empty());
    use_picks(1, {3, 4});
    tier_->end_step();
    EXPECT_FALSE(tier_->take_copy());
  }
  EXPECT_EQ(tier_->stats().misses, 6);
  tier_->verify();
}

TEST_F(CardTierTest, RandomStepsNeverReadASlotThatIsBeingWritten) {
  constexpr unsigned kSeed = 20261124;
  for (int kind = 0; kind < 4; ++kind) {
    for (const int64_t slots : {1, 3, 9}) {
      SCOPED_TRACE("policy " + std::string(policy_names()[kind]) + ", slots " +
                   std::to_string(slots));
      std::mt19937 random(kSeed + static_cast<unsigned>(kind));
      const auto below = [&](int n) {
        return static_cast<int>(random() % static_cast<unsigned>(n));
      };
      use(slots, static_cast<PolicyKind>(kind), 1 + below(6), 0);
      const auto copies = [&] {
        for (int i = below(4); i > 0; --i) {
          if (below(2) == 0) take_copy();
          if (!under_way_.empty() && below(2) == 0) {
            end_copy(static_cast<size_t>(below(static_cast<int>(under_way_.size()))),
                     below(20) != 0);
          }
        }
      };
      for (int step = 0; step < 2000; ++step) {
        begin_step();
        for (int32_t layer = 0; layer < kLayers; ++layer) {
          copies();
          read_all();
          if (HasFatalFailure()) return;
        }
        for (int32_t layer = 0; layer < kLayers; ++layer) {
          std::vector<int32_t> picks;
          for (int32_t e = 0; e < kExperts; ++e) {
            if (below(5) == 0) picks.push_back(e);
          }
          use_picks(layer, picks);
        }
        tier_->end_step();
        copies();
        tier_->verify();
        if (below(40) != 0) continue;
        while (!under_way_.empty()) end_copy(0, below(3) != 0);
        resize(below(2) == 0 ? slots : 1 + below(kExperts));
        read_all();
        tier_->verify();
      }
      EXPECT_GT(tier_->stats().hits, 0);
      EXPECT_GT(tier_->stats().misses, 0);
      if (kind != static_cast<int>(PolicyKind::kStatic)) {
        EXPECT_GT(tier_->stats().evictions, 0);
      }
    }
  }
}

}  // namespace
}  // namespace hotset::test
