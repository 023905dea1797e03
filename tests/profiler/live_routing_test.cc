#include "profiler/live_routing.h"

#include <gmock/gmock.h>

#include "kernels/check.h"
#include "tests/profiler/rings.h"

namespace hotset {
namespace {

using test::kMs;
using test::Script;
using test::small_header;
using testing::ElementsAre;

// A token whose layer `l` picks 4 experts from `first` + l on, `hits` of them resident; each miss
// takes 2 ms beside the 5 ms of the layer and what a neighbour took.
void add_token(Script& script, int64_t position, uint16_t first, size_t hits, int layers = 4,
               int64_t neighbour_ms = 0) {
  script.begin(position);
  for (uint16_t layer = 0; layer < layers; ++layer) {
    std::vector<uint16_t> ids;
    for (int i = 0; i < 4; ++i) ids.push_back(static_cast<uint16_t>(first + layer + i));
    script.picks(layer, ids, hits);
    const int64_t ms = 5 + 2 * (4 - static_cast<int64_t>(hits)) + neighbour_ms;
    const auto half_ns = static_cast<uint32_t>(ms * kMs / 2);  // records of a layer add up
    script.layer(layer, {{0, 0, half_ns, 0}});
    script.layer(layer, {{0, 0, half_ns, 0}});
  }
  script.end(3 * kMs);
}

LiveRouting routing_of(const Script& script, std::vector<double>* ms = nullptr,
                       int64_t most = 100) {
  LiveRouting routing(small_header(), most);
  routing.absorb(script.records, [&](double x) {
    if (ms != nullptr) ms->push_back(x);
  });
  return routing;
}

TEST(LiveRoutingTest, ATraceHasWhatTheTokensPicked) {
  Script script;
  add_token(script, 0, 10, 4);
  add_token(script, 1, 20, 4);
  std::vector<double> ms;
  const RoutingTrace trace = routing_of(script, &ms).trace();
  ASSERT_EQ(trace.events.size(), 8u);
  EXPECT_EQ(trace.events[7].layer, 3);
  EXPECT_EQ(trace.events[7].step, 1u);
  EXPECT_THAT(trace.row(trace.events[1], 0), ElementsAre(11, 12, 13, 14));
  EXPECT_THAT(trace.row(trace.events[7], 0), ElementsAre(23, 24, 25, 26));
  EXPECT_THAT(ms, ElementsAre(23, 23));
}

TEST(LiveRoutingTest, HitsAndMissesShareTheRanksEvenly) {
  Script script;
  add_token(script, 0, 10, 2);  // hits 10, 11; misses 12, 13
  const RoutingTrace trace = routing_of(script).trace();
  EXPECT_THAT(trace.row(trace.events[0], 0), ElementsAre(10, 12, 11, 13));
  Script one;
  add_token(one, 0, 10, 1);  // the hit is the middle one, not the first
  const RoutingTrace other = routing_of(one).trace();
  EXPECT_THAT(other.row(other.events[0], 0), ElementsAre(11, 10, 12, 13));
}

TEST(LiveRoutingTest, AMissCostsWhatTheLayersTookLongerForIt) {
  Script script;
  for (int t = 0; t < 12; ++t) add_token(script, t, 10, t % 5);
  const TuneCosts costs = routing_of(script).costs();
  EXPECT_NEAR(costs.miss_ms, 2, 1e-5);
  EXPECT_NEAR(costs.rest_ms, 23, 1e-4);
  Script hits;
  for (int t = 0; t < 12; ++t) add_token(hits, t, 10, 4);
  EXPECT_EQ(routing_of(hits).costs().miss_ms, 0);
  EXPECT_EQ(LiveRouting(small_header(), 10).costs().rest_ms, 0);
}

// Tokens that hit are the ones that it meets.
TEST(LiveRoutingTest, ANeighbourWhoTakesTheCoreNowAndThenIsNoMiss) {
  Script script;
  for (int t = 0; t < 60; ++t) {
    add_token(script, t, 10, t % 5, 4, t % 5 == 4 && t % 3 == 0 ? 400 : 0);
  }
  EXPECT_NEAR(routing_of(script).costs().miss_ms, 2, 1e-5);
}

TEST(LiveRoutingTest, MissesThatSeemToSaveTimeCostNothing) {
  Script script;
  for (int t = 0; t < 12; ++t) {
    script.begin(t);
    for (uint16_t layer = 0; layer < 4; ++layer) {
      const auto hits = static_cast<size_t>(t % 5);
      script.picks(layer, {1, 2, 3, 4}, hits);
      script.layer(layer, {{0, 0, static_cast<uint32_t>((5 + hits) * kMs), 0}});
    }
    script.end();
  }
  EXPECT_EQ(routing_of(script).costs().miss_ms, 0);
  EXPECT_GT(routing_of(script).costs().rest_ms, 20);
}

TEST(LiveRoutingTest, AMissCostsNoLessThanTheWaitForItsRead) {
  Script script;
  for (int t = 0; t < 12; ++t) {
    script.begin(t);
    // Once everything stands still.
    if (t == 3) script.range(RangeName::kReadWait, 0, 400 * kMs, 1);
    for (uint16_t layer = 0; layer < 4; ++layer) {
      const int64_t misses = t % 5;
      script.picks(layer, {1, 2, 3, 4}, static_cast<size_t>(4 - misses));
      script.range(RangeName::kReadWait, layer, kMs * static_cast<uint64_t>(misses), misses);
      script.range(RangeName::kFillWait, layer, kMs * static_cast<uint64_t>(misses), misses);
      script.layer(layer, {{0, 0, 20 * kMs, 0}});
    }
    script.end();
  }
  EXPECT_NEAR(routing_of(script).costs().miss_ms, 2, 1e-5);
}

TEST(LiveRoutingTest, WhatIsNotWholeOrNotOneRowIsLeftOut) {
  Script script;
  add_token(script, 0, 10, 4, 3);  // a layer is missing
  script.begin(1, 5);
  script.end();
  script.begin(6);  // fails
  script.add(RecordType::kStepEnd, 0, 0, StepRecord{6, 1, 1, 1, 0});
  add_token(script, 7, 10, 4);
  add_token(script, 8, 10, 4);
  script.records.erase(script.records.end() - 4);  // a record of the last token was lost
  EXPECT_EQ(routing_of(script).tokens(), 1);
}

TEST(LiveRoutingTest, ATokenOfACardIsLeftOutEvenWhereTheCardHadNobody) {
  Script script;
  add_token(script, 0, 10, 0);
  script.records.insert(script.records.end() - 1, script.records.back());
  Record& card = script.records.end()[-2];
  card.type = RecordType::kCard;
  card.set(CardRecord{0, 16, 4096, 0});
  add_token(script, 1, 20, 0);
  const LiveRouting routing = routing_of(script);
  ASSERT_EQ(routing.tokens(), 1);
  EXPECT_EQ(routing.trace().ids[0], 20);
}

TEST(LiveRoutingTest, ItKeepsTheLastTokens) {
  Script script;
  for (int t = 0; t < 30; ++t) add_token(script, t, static_cast<uint16_t>(t), 4);
  const LiveRouting routing = routing_of(script, nullptr, 7);
  EXPECT_EQ(routing.tokens(), 7);
  const RoutingTrace trace = routing.trace();
  EXPECT_EQ(trace.row(trace.events[0], 0)[0], 23);
}

TEST(LiveRoutingTest, AHeaderThatCannotBeIsRefused) {
  for (const int32_t picks : {0, -1, 65, 2000}) {
    RingHeader header = small_header();
    header.picks_per_row = picks;
    EXPECT_THROW(LiveRouting(header, 10), Error) << picks;
  }
}

}  // namespace
}  // namespace hotset
