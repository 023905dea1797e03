#include "cache/policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>

#include "cache/score_policy.h"
#include "tests/support/count_allocations.h"

namespace hotset {
namespace {

constexpr int32_t kLayers = 4, kExperts = 32, kTopK = 4;

PolicyShape shape(std::vector<int32_t> layers = {0, 1, 2, 3}) {
  return {kLayers, kExperts, kTopK, std::move(layers)};
}

std::vector<Pick> picks(std::initializer_list<int32_t> experts) {
  std::vector<Pick> p;
  for (const int32_t e : experts) p.push_back({e, static_cast<int32_t>(p.size())});
  return p;
}

std::vector<Pick> random_picks(std::mt19937& random) {
  std::set<int32_t> distinct;
  // Skewed: the product of two draws favours low ones.
  while (std::ssize(distinct) < kTopK) {
    distinct.insert(static_cast<int32_t>(random() % kExperts * (random() % kExperts) / kExperts));
  }
  std::vector<Pick> p;
  for (const int32_t e : distinct) p.push_back({e, static_cast<int32_t>(p.size())});
  return p;
}

// Offers everything without accepting: the order in which residents would go.
std::vector<ExpertId> order_of(Policy& policy) {
  std::vector<ExpertId> order;
  EXPECT_FALSE(policy.offer_victims([&](ExpertId id) {
    order.push_back(id);
    return false;
  }));
  return order;
}

// What holds for every policy.
class PolicyTest : public testing::TestWithParam<PolicyOptions> {
 protected:
  std::unique_ptr<Policy> make(std::vector<int32_t> layers = {0, 1, 2, 3}) const {
    return make_policy(GetParam(), shape(std::move(layers)));
  }
  // A policy with a past: scores of all sizes, some experts resident.
  std::unique_ptr<Policy> used(unsigned seed = 1) const {
    auto policy = make();
    std::mt19937 random(seed);
    std::vector<float> scores(kLayers * kExperts);
    for (float& s : scores) s = static_cast<float>(random() % 100);
    policy->restore(scores);
    for (int32_t i = 0; i < 60; ++i) policy->admit({i % kLayers, i / kLayers});
    for (int64_t now = 0; now < 40; ++now) {
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        policy->use(layer, random_picks(random), now);
      }
    }
    return policy;
  }
};

TEST_P(PolicyTest, OffersEveryResidentOnceAndNobodyElse) {
  const auto policy = used();
  std::set<std::pair<int32_t, int32_t>> offered;
  for (const ExpertId id : order_of(*policy)) {
    EXPECT_TRUE(offered.emplace(id.layer, id.expert).second) << "offered twice";
    EXPECT_LT(id.expert * kLayers + id.layer, 60) << "offered, but absent";
  }
  EXPECT_EQ(offered.size(), 60u);
  policy->verify();
}

TEST_P(PolicyTest, OffersByAscendingScore) {
  const auto policy = used();
  double last = 0;
  for (const ExpertId id : order_of(*policy)) {
    EXPECT_GE(policy->score(id), last);
    last = policy->score(id);
  }
  EXPECT_GT(last, 0);
}

TEST_P(PolicyTest, StopsAtTheAcceptedOneAndOffersItAgainUntilItIsEvicted) {
  const auto policy = used();
  const std::vector<ExpertId> order = order_of(*policy);
  int offers = 0;
  const auto third = [&](ExpertId) { return ++offers == 3; };
  EXPECT_EQ(policy->offer_victims(third), order[2]);
  EXPECT_EQ(offers, 3);
  EXPECT_EQ(order_of(*policy), order);
  policy->evict(order[2]);
  std::vector<ExpertId> rest = order;
  rest.erase(rest.begin() + 2);
  EXPECT_EQ(order_of(*policy), rest);
  policy->verify();
}

TEST_P(PolicyTest, NothingResidentIsNothingOffered) {
  const auto policy = make();
  EXPECT_FALSE(policy->offer_victims([](ExpertId) { return true; }));
  policy->use(1, picks({3, 4}), 5);
  EXPECT_FALSE(policy->offer_victims([](ExpertId) { return true; }));
}

TEST_P(PolicyTest, TheSameEventsGiveTheSameOrder) {
  EXPECT_EQ(order_of(*used()), order_of(*used()));
  EXPECT_NE(order_of(*used(1)), order_of(*used(2)));
}

TEST_P(PolicyTest, AdmitsNobodyOverOneOfTheSameScoreExceptForLru) {
  const auto policy = make();
  policy->admit({0, 1});
  EXPECT_EQ(policy->admits({0, 2}, {0, 1}, 0.0), policy->name() == "lru");
}

TEST_P(PolicyTest, ScoresOutliveThePolicy) {
  const auto before = used();
  std::vector<float> scores(kLayers * kExperts);
  before->save(scores);
  const auto after = make();
  for (const ExpertId id : order_of(*before)) after->admit(id);
  after->restore(scores);
  EXPECT_EQ(order_of(*after), order_of(*before)) << "a float may not tell apart what a double did";
  after->verify();
}

TEST_P(PolicyTest, EachSizeClassSavesItsOwnLayers) {
  const auto even = make({0, 2}), odd = make({1, 3});
  std::vector<float> scores(kLayers * kExperts);
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i + 1);
  even->restore(scores);
  std::vector<float> saved(scores.size(), -1.0f);
  even->save(saved);
  for (int32_t i = 0; i < kExperts; ++i) {
    EXPECT_GT(saved[i], 0.0f);
    EXPECT_EQ(saved[kExperts + i], -1.0f);
  }
  odd->save(saved);
  EXPECT_EQ(saved[kExperts], 0.0f);
}

TEST_P(PolicyTest, ScoresAreFiniteAndNotNegativeAfterALongTime) {
  const auto policy = used();
  for (int64_t now = 100; now < 5'000'000'000; now *= 3) policy->use(0, picks({1, 2}), now);
  std::vector<float> scores(kLayers * kExperts);
  policy->save(scores);
  for (const float s : scores) EXPECT_TRUE(std::isfinite(s) && s >= 0.0f) << s;
  policy->verify();
}

TEST_P(PolicyTest, RandomStepsKeepItsOrder) {
  constexpr unsigned kSeed = 20261124;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  const auto policy = make();
  std::set<int32_t> resident;
  int64_t now = 0;
  for (int step = 0; step < 20000; ++step) {
    const auto layer = static_cast<int32_t>(random() % kLayers);
    now += random() % 100 == 0 ? 1000 : random() % 2;
    const std::vector<Pick> p = random_picks(random);
    policy->use(layer, p, now);
    for (const Pick& pick : p) {
      const int32_t i = layer * kExperts + pick.expert;
      if (resident.contains(i)) continue;
      if (resident.size() >= 40) {
        const auto victim = policy->offer_victims([&](ExpertId id) {
          EXPECT_TRUE(resident.contains(id.layer * kExperts + id.expert));
          return random() % 4 != 0;
        });
        if (!victim || !policy->admits({layer, pick.expert}, *victim, 0.5)) continue;
        policy->evict(*victim);
        resident.erase(victim->layer * kExperts + victim->expert);
      }
      policy->admit({layer, pick.expert});
      resident.insert(i);
    }
    if (step % 16 == 0) policy->verify();
  }
  EXPECT_EQ(order_of(*policy).size(), resident.size());
}

TEST_P(PolicyTest, NoEventAllocates) {
  const auto policy = used();
  std::mt19937 random(3);
  const std::vector<Pick> p = random_picks(random);
  const auto any = [](ExpertId) { return true; };
  const int64_t before = test::allocations;
  for (int64_t now = 100; now < 5000; ++now) {
    policy->use(static_cast<int32_t>(now % kLayers), p, now);
    const ExpertId victim = *policy->offer_victims(any);
    policy->evict(victim);
    policy->admit(victim);
  }
  EXPECT_EQ(test::allocations, before);
}

INSTANTIATE_TEST_SUITE_P(, PolicyTest,
                         testing::Values(PolicyOptions{PolicyKind::kScore},
                                         PolicyOptions{PolicyKind::kScore, 16.0},
                                         PolicyOptions{PolicyKind::kLru},
                                         PolicyOptions{PolicyKind::kLfu},
                                         PolicyOptions{PolicyKind::kStatic}),
                         [](const auto& info) {
                           return std::string(make_policy(info.param, shape())->name()) +
                                  (info.param.half_life > 0 ? "Fixed" : "");
                         });

TEST(PolicyNameTest, EveryKindHasItsName) {
  for (const std::string_view name : policy_names()) {
    EXPECT_EQ(make_policy({*policy_named(name)}, shape())->name(), name);
  }
  EXPECT_FALSE(policy_named("belady"));
}

TEST(ScorePolicyTest, ADecayedUseIsHalfAfterTheHalfLife) {
  ScorePolicy policy(shape(), 8.0);
  policy.use(0, picks({1}), 100);
  const double fresh = policy.score({0, 1});
  policy.use(1, picks({1}), 108);
  EXPECT_DOUBLE_EQ(policy.score({0, 1}), fresh / 2);
  policy.use(0, picks({1}), 116);
  EXPECT_DOUBLE_EQ(policy.score({0, 1}), fresh / 4 + fresh);
  EXPECT_EQ(policy.score({0, 2}), 0.0);
}

TEST(ScorePolicyTest, AHeavierRankCountsForMoreAndTheMeanIsOne) {
  double sum = 0;
  for (int32_t rank = 0; rank < 10; ++rank) {
    sum += ScorePolicy::weight(rank, 10);
    EXPECT_LT(ScorePolicy::weight(rank + 1, 11), ScorePolicy::weight(rank, 11));
  }
  EXPECT_DOUBLE_EQ(sum, 10.0);
  EXPECT_EQ(ScorePolicy::weight(0, 1), 1.0);
}

TEST(ScorePolicyTest, TheScoreOfWhoIsAbsentGrowsUntilItIsAdmitted) {
  ScorePolicy policy(shape(), 8.0);
  policy.admit({0, 1});
  policy.use(0, picks({1}), 0);
  policy.use(0, picks({2}), 0);
  EXPECT_FALSE(policy.admits({0, 2}, {0, 1}, 0.0));
  policy.use(0, picks({2}), 4);
  EXPECT_TRUE(policy.admits({0, 2}, {0, 1}, 0.0));
}

TEST(ScorePolicyTest, APriceRefusesWhatHardlyPays) {
  ScorePolicy policy(shape(), 8.0);
  for (int32_t e = 0; e < 4; ++e) policy.admit({0, e});
  policy.use(0, picks({5}), 0);
  EXPECT_TRUE(policy.admits({0, 5}, {0, 0}, 1.0)) << "nobody was evicted yet: it would stay";
  // Now everybody leaves soon: 4 slots, several evictions a token.
  for (int64_t now = 1; now < 50; ++now) {
    policy.use(0, picks({5}), now);
    for (int32_t e = 0; e < 4; ++e) {
      policy.evict({0, e});
      policy.admit({0, e});
    }
  }
  policy.use(0, picks({6}), 50);
  EXPECT_TRUE(policy.admits({0, 6}, {0, 0}, 0.0));
  EXPECT_FALSE(policy.admits({0, 6}, {0, 0}, 1.0));
}

// A text whose experts come back after `period` tokens, with as many others in between.
double half_life_after(int64_t period) {
  ScorePolicy policy({1, 512, 1, {0}}, 0.0);
  for (int32_t e = 0; e < 32; ++e) policy.admit({0, e});
  std::mt19937 random(5);
  for (int64_t now = 0; now < 4000; ++now) {
    // Two uses on end, then a pause: who forgets fast keeps those who had one use in the pause.
    // All are among the sampled ones, every fourth.
    const auto e = static_cast<int32_t>(4 * (now / 2 % period));
    const auto one_off = static_cast<int32_t>(4 * (25 + random() % 100));
    policy.use(0, now % 3 == 2 ? picks({one_off}) : picks({e}), now);
  }
  return policy.half_life();
}

TEST(ScorePolicyTest, TheHalfLifeFollowsTheText) {
  std::set<double> seen;
  for (const int64_t period : {3, 6, 9, 12, 20}) seen.insert(half_life_after(period));
  EXPECT_GT(seen.size(), 1u) << "whatever the text, the same half-life";
}

TEST(LruPolicyTest, WithinAnEventTheHeavierPickIsTheLaterUse) {
  const auto policy = make_policy({PolicyKind::kLru}, shape());
  for (const int32_t e : {1, 2, 3}) policy->admit({0, e});
  policy->use(0, picks({3, 1}), 0);
  policy->use(1, picks({3, 1}), 0);
  policy->use(0, picks({2}), 0);
  EXPECT_EQ(order_of(*policy), (std::vector<ExpertId>{{0, 1}, {0, 3}, {0, 2}}));
}

TEST(LfuPolicyTest, CountsAreHalvedAsTimeGoesOn) {
  const auto policy = make_policy({PolicyKind::kLfu}, shape());
  for (int i = 0; i < 3; ++i) policy->use(0, picks({1}), 0);
  EXPECT_EQ(policy->score({0, 1}), 3.0);
  policy->use(0, picks({2}), 256);
  EXPECT_EQ(policy->score({0, 1}), 1.5);
  EXPECT_TRUE(policy->admits({0, 1}, {0, 2}, 0.0));
  policy->use(0, picks({2}), 512);
  EXPECT_FALSE(policy->admits({0, 1}, {0, 2}, 0.0));
}

TEST(StaticPolicyTest, UseChangesNothing) {
  const auto policy = make_policy({PolicyKind::kStatic}, shape());
  std::vector<float> profile(kLayers * kExperts);
  profile[1] = 2.0f;
  profile[2] = 1.0f;
  policy->restore(profile);
  policy->admit({0, 1});
  policy->admit({0, 2});
  for (int64_t now = 0; now < 9; ++now) policy->use(0, picks({2, 3}), now);
  EXPECT_EQ(order_of(*policy), (std::vector<ExpertId>{{0, 2}, {0, 1}}));
  EXPECT_FALSE(policy->admits({0, 3}, {0, 2}, 0.0));
}

}  // namespace
}  // namespace hotset
