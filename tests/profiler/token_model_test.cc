// The model of a token against arithmetic done by hand, where that is possible.
#include "profiler/token_model.h"

#include <gtest/gtest.h>

namespace hotset {
namespace {

constexpr CardRates kRates = {
    .card_gbps = 100, .card_efficiency = 1, .dram_gbps = 10, .link_gbps = 2, .sync_us = 10};

TokenBytes two_layers() {
  return {.layers = {{.mixer = 1'000'000, .shared = 100'000, .expert = 1'000'000},
                     {.mixer = 2'000'000, .shared = 0, .expert = 1'000'000}},
          .head = 5'000'000};
}

TEST(TokenModelTest, ATokenOfHitsIsBytesByTheCardsRate) {
  TokenModel model(two_layers(), kRates);
  const LayerPicks picks[] = {{.hits = 4}, {.hits = 4}};
  const TokenTime time = model.token(picks);
  EXPECT_DOUBLE_EQ(time.mixers, 8e6 / 100e9);
  EXPECT_DOUBLE_EQ(time.card, 8.1e6 / 100e9);
  EXPECT_EQ(time.cpu, 0);
  EXPECT_DOUBLE_EQ(time.sync, 20e-6);
}

TEST(TokenModelTest, LanesRunSideBySideAndTheLongerOneCounts) {
  TokenModel model(two_layers(), kRates);
  // One miss: 100 us. 4 hits: 41 us, of which nothing is seen. In the second layer 20 hits: 200 us.
  const LayerPicks picks[] = {{.hits = 4, .misses = 1}, {.hits = 20, .misses = 1}};
  const TokenTime time = model.token(picks);
  EXPECT_DOUBLE_EQ(time.cpu, 100e-6);
  EXPECT_DOUBLE_EQ(time.card, 200e-6);
}

TEST(TokenModelTest, ACopyUnderWayTakesItsRateFromTheMisses) {
  TokenModel model(two_layers(), kRates);
  // Two experts to copy take 1 ms of the link; meanwhile misses are read at 8 of 10 GB/s.
  const LayerPicks picks[] = {{.misses = 4, .copies = 2}, {}};
  EXPECT_DOUBLE_EQ(model.token(picks).cpu, 4e6 / 8e9);
}

TEST(TokenModelTest, MissesThatOutlastTheCopiesHaveAllOfTheMemoryThen) {
  TokenModel model(two_layers(), kRates);
  // 0.5 ms at 8 GB/s are 4 of 9 MB, the rest goes at 10 GB/s.
  const LayerPicks picks[] = {{.misses = 9, .copies = 1}, {}};
  EXPECT_DOUBLE_EQ(model.token(picks).cpu, 0.5e-3 + 5e6 / 10e9);
}

TEST(TokenModelTest, CopiesThatATokenQueuesAreStillThereForTheNext) {
  TokenModel model(two_layers(), kRates);
  const LayerPicks first[] = {{.copies = 100}, {}}, later[] = {{.misses = 8}, {}};
  const double alone = TokenModel(two_layers(), kRates).token(later).cpu;
  model.token(first);
  EXPECT_GT(model.queued_bytes(), 90e6);
  EXPECT_DOUBLE_EQ(model.token(later).cpu, alone * 10 / 8);
}

// The ceiling for 80B, 849 MB of experts a token: a card of 360 GB/s, memory of 40 GB/s.
TEST(TokenModelTest, WithoutCopiesItIsTheSimpleCeiling) {
  TokenBytes bytes;
  bytes.layers.assign(48, {.mixer = 20'000'000, .shared = 1'770'000, .expert = 1'770'000});
  bytes.head = 175'000'000;
  TokenModel model(bytes, {});
  const std::vector<LayerPicks> picks(48, {.hits = 7, .misses = 3});
  const double dense = (48 * 20e6 + 175e6) / (0.8 * 360e9);
  const double misses = 48 * 3 * 1.77e6 / 40e9;
  EXPECT_NEAR(model.token(picks).total(), dense + misses + 48 * 25e-6, 1e-9);
}

}  // namespace
}  // namespace hotset
