#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/check.h"

namespace hotset {
namespace {

std::vector<bool> all(size_t count) {
  return std::vector<bool>(count, true);
}

// How often each id comes in `draws` draws, as parts of 1.
std::vector<double> shares(Sampler& sampler, const std::vector<float>& logits, int draws = 20000) {
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) counts[sampler.sample(logits)] += 1.0 / draws;
  return counts;
}

std::vector<float> logs(std::initializer_list<double> probabilities) {
  std::vector<float> out;
  for (const double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdOfATie) {
  Sampler sampler({}, all(4));
  EXPECT_EQ(sampler.sample(std::vector<float>{-3, -1, -2, -5}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, 5, 5}), 1);
}

TEST(SamplerTest, TopK1IsGreedyAtAnyTemperature) {
  Sampler sampler({.temperature = 100, .top_k = 1}, all(3));
  for (int i = 0; i < 50; ++i) EXPECT_EQ(sampler.sample(std::vector<float>{1, 2, 1}), 1);
}

TEST(SamplerTest, AnIdWithoutATokenIsNeverChosen) {
  const std::vector<float> logits = {9, 1, 8, 1};
  Sampler greedy({}, {false, true, false, true});
  EXPECT_EQ(greedy.sample(logits), 1);
  Sampler hot({.temperature = 50}, {false, true, false, true});
  const std::vector<double> share = shares(hot, logits, 2000);
  EXPECT_EQ(share[0], 0);
  EXPECT_EQ(share[2], 0);
  EXPECT_THROW(Sampler({}, {false, false}), Error);
}

TEST(SamplerTest, ADeviceMayChooseOnlyWhatDependsOnNothingButTheLogits) {
  EXPECT_EQ(Sampler({}, {true, false, true}).greedy_ids().size(), 3U);
  EXPECT_EQ(Sampler({}, {true, false, true}).greedy_ids()[1], 0);
  EXPECT_EQ(Sampler({.temperature = 2, .top_k = 1}, all(3)).greedy_ids().size(), 3U);
  EXPECT_TRUE(Sampler({.temperature = 1}, all(3)).greedy_ids().empty());
  EXPECT_TRUE(Sampler({.repetition_penalty = 1.1}, all(3)).greedy_ids().empty());
}

TEST(SamplerTest, TheLargestLogitIsAnAllowedOneAndTheLowestOfATie) {
  const float nan = std::nanf("");
  const std::vector<uint8_t> all_of_them = {1, 1, 1, 1}, all_but_one = {1, 0, 1, 1};
  EXPECT_EQ(largest_logit(std::vector<float>{1, 5, 5, 5}, all_of_them), 1);
  EXPECT_EQ(largest_logit(std::vector<float>{1, 5, 5, 5}, all_but_one), 2);
  EXPECT_EQ(largest_logit(std::vector<float>{nan, -7, nan, -8}, all_of_them), 1);
  EXPECT_EQ(largest_logit(std::vector<float>{nan, -7, nan, nan}, all_but_one), 0);
  EXPECT_EQ(largest_logit(std::vector<float>{-0.0f, 0, -1, -1}, all_of_them), 0);
  EXPECT_EQ(largest_logit(std::vector<float>{1, 2, 3, 4}, std::vector<uint8_t>(4)), -1);
}

TEST(SamplerTest, DrawsFollowTheProbabilities) {
  Sampler sampler({.temperature = 1}, all(3));
  const std::vector<double> share = shares(sampler, logs({.5, .3, .2}));
  EXPECT_NEAR(share[0], .5, .015);
  EXPECT_NEAR(share[1], .3, .015);
  EXPECT_NEAR(share[2], .2, .015);
}

TEST(SamplerTest, TemperatureSharpensBeforeTheFilters) {
  // At .5 the probabilities are the squares' shares: .25 .09 .04 of .38.
  Sampler sampler({.temperature = .5}, all(3));
  const std::vector<double> share = shares(sampler, logs({.5, .3, .2}));
  EXPECT_NEAR(share[0], .658, .015);
  // .25/.38 reaches .65: with top-p .65 nothing else remains.
  Sampler filtered({.temperature = .5, .top_p = .65}, all(3));
  EXPECT_EQ(shares(filtered, logs({.5, .3, .2}), 500)[1], 0);
}

TEST(SamplerTest, TopKKeepsTheKLargestAndTheLowestIdOfATie) {
  Sampler sampler({.temperature = 1, .top_k = 2}, all(4));
  const std::vector<double> share = shares(sampler, {1, 0, 1, 1}, 4000);
  EXPECT_NEAR(share[0], .5, .04);
  EXPECT_NEAR(share[2], .5, .04);
  EXPECT_EQ(share[1] + share[3], 0);
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachP) {
  const std::vector<float> logits = logs({.2, .5, .3});
  const auto kept = [&](double top_p) {
    Sampler sampler({.temperature = 1, .top_p = top_p}, all(3));
    int count = 0;
    for (const double share : shares(sampler, logits, 3000)) count += share > 0 ? 1 : 0;
    return count;
  };
  EXPECT_EQ(kept(0), 1);  // the best one always remains
  EXPECT_EQ(kept(.49), 1);
  EXPECT_EQ(kept(.51), 2);
  EXPECT_EQ(kept(.79), 2);
  EXPECT_EQ(kept(.81), 3);
  EXPECT_EQ(kept(1), 3);
}

TEST(SamplerTest, TopPLooksBeyondTheFirstSortedPart) {
  // The upper 500 of 1,000 ids have .73 of the probability: below that no other one may come.
  std::vector<float> logits(1000, 0.0f);
  std::fill(logits.begin() + 500, logits.end(), 1.0f);
  Sampler sampler({.temperature = 1, .top_p = .7}, all(1000));
  int32_t lowest = 1000, highest = 0;
  for (int i = 0; i < 5000; ++i) {
    const int32_t id = sampler.sample(logits);
    lowest = std::min(lowest, id);
    highest = std::max(highest, id);
  }
  EXPECT_EQ(lowest, 500);
  EXPECT_EQ(highest, 978);  // the 479th reaches .7: 479 e / (500 e + 500)
}

TEST(SamplerTest, MinPKeepsWhatIsProbableEnoughBesideTheBest) {
  Sampler sampler({.temperature = 1, .min_p = .5}, all(3));
  const std::vector<double> share = shares(sampler, logs({.5, .3, .2}));
  EXPECT_NEAR(share[0], .625, .015);  // .5 of .8
  EXPECT_EQ(share[2], 0);             // .2 < .5 * .5
}

TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  Sampler sampler({.repetition_penalty = 2}, all(3));
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(std::vector<float>{4, 1.9f, -9}), 0);  // 4 / 2 > 1.9
  EXPECT_EQ(sampler.sample(std::vector<float>{4, 2.1f, -9}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-1, -1.9f, -9}), 1);  // -1 * 2 < -1.9
  EXPECT_EQ(sampler.sample(std::vector<float>{-1, -2.1f, -9}), 0);
  sampler.forget();
  EXPECT_EQ(sampler.sample(std::vector<float>{4, 2.1f, -9}), 0);
}

TEST(SamplerTest, ASeedMeansTheSameChoicesEverywhere) {
  const std::vector<float> logits(1000, 0.0f);
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed}, all(1000));
    std::array<int32_t, 4> ids{};
    for (int32_t& id : ids) id = sampler.sample(logits);
    return ids;
  };
  // SplitMix64 from 0: 0xE220..., 0x6E78..., 0x06C4..., 0xF88B..., as parts of 2^64.
  EXPECT_EQ(draw(0), (std::array<int32_t, 4>{883, 431, 26, 970}));
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
}

}  // namespace
}  // namespace hotset
