// Where a prompt has its picks computed: what has a slot on the card there, and of the rest as many
// copied as let the slower of the two lanes end first. The list and the table say the same of every
// pair.
#include "cache/prompt_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace hotset {
namespace {

class PromptPlanTest : public testing::Test {
 protected:
  static constexpr int32_t kExperts = 12;

  void make(const std::vector<int32_t>& picks, double break_even, int32_t ring = 64) {
    plan_.make(picks, slots_, break_even, ring, [this](int32_t e) {
      held_.push_back(e);
      return !cannot_be_held_.contains(e);
    });
  }
  // Expert e is picked by rows[e] rows.
  static std::vector<int32_t> picks(const std::vector<int32_t>& rows) {
    std::vector<int32_t> picks;
    for (size_t e = 0; e < rows.size(); ++e) picks.insert(picks.end(), rows[e], int32_t(e));
    std::shuffle(picks.begin(), picks.end(), std::minstd_rand(7));
    return picks;
  }
  std::vector<int32_t> copied() const {
    std::vector<int32_t> experts;
    for (const PromptPlan::Copied& c : plan_.copied()) experts.push_back(c.expert);
    return experts;
  }

  std::vector<CardListedPair> list_ =
      std::vector<CardListedPair>(PromptPlan::list_max(500, kExperts));
  std::vector<uint32_t> table_ = std::vector<uint32_t>(kExperts);
  std::vector<SlotId> slots_ = std::vector<SlotId>(kExperts, -1);
  std::set<int32_t> cannot_be_held_;
  std::vector<int32_t> held_;
  PromptPlan plan_{list_, table_};
};

TEST_F(PromptPlanTest, ThoseWithTheMostRowsAreCopiedUntilTheTwoLanesEndTogether) {
  // Rows beside copies of 10: 60 | 0, 40 | 10, 25 | 20, and 13 | 30 would end later.
  make(picks({3, 20, 2, 15, 12, 8}), 10);
  EXPECT_EQ(copied(), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(plan_.computed(), 4);
  EXPECT_EQ(held_, copied()) << "who is not copied is not held";
}

TEST_F(PromptPlanTest, TheLowerNumberOfEquallyManyRowsComesFirst) {
  make(picks({5, 5, 5, 5}), 5);
  EXPECT_EQ(copied(), (std::vector<int32_t>{0, 1}));
}

TEST_F(PromptPlanTest, FewerMissingRowsThanTheBreakEvenAreComputed) {
  make(picks({2, 3, 4}), 9);
  EXPECT_TRUE(plan_.copied().empty());
  EXPECT_EQ(plan_.computed(), 3);
  EXPECT_TRUE(plan_.list().empty());
  make(picks({2, 3, 4}), 8.9);
  EXPECT_EQ(copied(), (std::vector<int32_t>{2}));
}

TEST_F(PromptPlanTest, WithoutARingNothingIsCopied) {
  make(picks({30, 30}), 0.01, 0);
  EXPECT_TRUE(plan_.copied().empty());
  EXPECT_TRUE(held_.empty());
  EXPECT_EQ(plan_.computed(), 2);
}

TEST_F(PromptPlanTest, WhoCannotBeHeldIsComputedAndTheNextOneIsCopied) {
  cannot_be_held_ = {1};
  make(picks({3, 20, 2, 15, 12, 8}), 10);
  EXPECT_EQ(copied(), (std::vector<int32_t>{3, 4, 5}));  // 20 rows stay in any case
  EXPECT_EQ(table_[1], kCardAbsent);
}

TEST_F(PromptPlanTest, ResidentsAreUsedWhereTheyLieAndNeverCopied) {
  slots_[1] = 7;
  slots_[4] = 0;
  make(picks({3, 20, 2, 15, 12, 8}), 0.01);
  EXPECT_EQ(copied(), (std::vector<int32_t>{3, 5, 0, 2}));
  EXPECT_EQ(table_[1], 7U);
  EXPECT_EQ(table_[4], 0U);
  EXPECT_EQ(plan_.hits_end(), 20 + 12);
}

TEST_F(PromptPlanTest, PlacesOfTheRingComeRoundInTheOrderOfTheCopies) {
  make(picks({9, 8, 7, 6, 5, 4, 3}), 0.01, 3);
  for (int32_t e = 0; e < 7; ++e) EXPECT_EQ(table_[e], static_cast<uint32_t>(e % 3));
}

// Of random layers: every pair that the table has a place for is listed once, with that place, in
// tiles of one expert; the others are not.
TEST_F(PromptPlanTest, TheListHoldsEveryPairOfTheCardsOnceInTilesOfOneExpert) {
  std::minstd_rand random(5);
  for (int round = 0; round < 300; ++round) {
    for (SlotId& slot : slots_) slot = random() % 3 == 0 ? static_cast<SlotId>(random() % 50) : -1;
    std::vector<int32_t> all(1 + random() % 200);
    for (int32_t& pick : all) pick = static_cast<int32_t>(random() % kExperts);
    make(all, 0.5 + static_cast<double>(random() % 30), 1 + static_cast<int32_t>(random() % 5));
    const std::span<const CardListedPair> list = plan_.list();
    ASSERT_EQ(std::ssize(list) % kCardTile, 0);
    std::set<int32_t> seen;
    for (size_t i = 0; i < list.size(); ++i) {
      const CardListedPair& first = list[i / kCardTile * kCardTile];
      ASSERT_GE(first.pair, 0) << "a tile of nobody";
      if (list[i].pair < 0) continue;
      EXPECT_EQ(all[list[i].pair], all[first.pair]);
      EXPECT_EQ(static_cast<uint32_t>(list[i].place), table_[all[list[i].pair]]);
      EXPECT_TRUE(seen.insert(list[i].pair).second);
      EXPECT_EQ(static_cast<int64_t>(i) < plan_.hits_end(), slots_[all[list[i].pair]] >= 0);
    }
    for (int32_t p = 0; p < std::ssize(all); ++p) {
      EXPECT_EQ(seen.contains(p), table_[all[p]] != kCardAbsent);
    }
    for (const PromptPlan::Copied& c : plan_.copied()) {
      for (int64_t i = c.begin; i < c.end; ++i) {
        const int32_t pair = list[i].pair;
        EXPECT_TRUE(pair < 0 || all[pair] == c.expert);
      }
    }
  }
}

}  // namespace
}  // namespace hotset
