#include "profiler/statistics.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "profiler/simulator.h"
#include "tests/profiler/rings.h"
#include "tests/profiler/routing.h"

namespace hotset::test {
namespace {

class StatisticsTest : public testing::Test {
 protected:
  void absorb() {
    statistics.absorb(script.records, [&](const Token& token) { tokens.push_back(token); });
    script.records.clear();
  }
  Script script;
  Statistics statistics{small_header()};  // 4 layers of 64 experts, 4 picks
  std::vector<Token> tokens;
};

TEST_F(StatisticsTest, ATokensTimeIsSplitWithoutCountingAnyOfItTwice) {
  script.begin(6);
  script.end();
  script.time_ns += 3 * kMs;  // sampling
  script.begin(7);
  script.range(RangeName::kReadWait, 0, 30 * kMs, 6);
  // The layer holds the wait that ended before it.
  script.layer(0, {{kMs, kMs / 2, 32 * kMs, kMs / 2}}, 30 * kMs);
  script.time_ns += kMs;
  script.end(2 * kMs);
  absorb();
  ASSERT_EQ(tokens.size(), 2U);
  const Token& token = tokens[1];
  EXPECT_EQ(token.step_ns, 37 * kMs);
  EXPECT_EQ(token.gap_ns, 3 * kMs);
  EXPECT_EQ(token.compute_ns, 6 * kMs);
  EXPECT_EQ(token.read_wait_ns, 30 * kMs);
  EXPECT_EQ(token.other_ns(), 4 * kMs);
  EXPECT_EQ(token.reads, 6);
  EXPECT_EQ(statistics.token_ns().count(), 1U);  // of the first nobody knows since when
  EXPECT_EQ(explain(token), "token 7: 40 ms, 30 ms waiting for 6 reads in layer 0");
}

TEST_F(StatisticsTest, TheExplanationNamesTheLayersAndTheTopic) {
  Token token;
  token.position = 812;
  token.step_ns = 41 * kMs;
  token.compute_ns = 8 * kMs;
  token.read_wait_ns = 33 * kMs;
  token.reads = 6;
  token.waits = {{3, 10 * kMs}, {7, 11 * kMs}, {20, 12 * kMs}};
  token.after_topic_change = true;
  EXPECT_EQ(explain(token),
            "token 812: 41 ms, 33 ms waiting for 6 reads in layers 3, 7, 20 after a topic change");
  token.after_topic_change = false;
  token.waits.insert(token.waits.end(), {{21, kMs}, {22, 20 * kMs}, {23, 2 * kMs}, {24, 3 * kMs}});
  EXPECT_EQ(explain(token),
            "token 812: 41 ms, 33 ms waiting for 6 reads in layers 3, 7, 20, 22, 24 and 2 more");
  token.read_wait_ns = 0;
  EXPECT_EQ(explain(token), "token 812: 41 ms, 33 ms outside of the model's operations");
  token.compute_ns = 40 * kMs;
  EXPECT_EQ(explain(token), "token 812: 41 ms, 40 ms computing");
}

TEST_F(StatisticsTest, WindowsForgetAndTotalsDoNot) {
  script.begin(1);
  script.picks(2, {1, 2, 3, 4}, 1);
  script.end();
  script.time_ns += 30 * 1000 * kMs;
  script.begin(2);
  script.picks(2, {1, 2, 3, 4}, 4);
  script.end();
  const uint64_t now = script.time_ns;
  absorb();
  EXPECT_EQ(statistics.picks().hits(), 5U);
  EXPECT_EQ(statistics.picks().misses(), 3U);
  EXPECT_EQ(statistics.layer_picks(2).hits(), 5U);
  EXPECT_EQ(statistics.layer_picks(1).hits(), 0U);
  EXPECT_EQ(statistics.recent_picks(now, 10).hits(), 4U);
  EXPECT_EQ(statistics.recent_picks(now, 10).misses(), 0U);
  EXPECT_EQ(statistics.recent_picks(now, 60, 2).hits(), 5U);
  EXPECT_EQ(statistics.recent_picks(now + 40 * 1000 * kMs, 60).hits(), 4U);
  EXPECT_EQ(statistics.recent_picks(now + 40 * 1000 * kMs, 10).hits(), 0U);
  EXPECT_EQ(statistics.recent_time(now, 60).tokens, 2U);
}

// Ten a second, of which a watcher that looks after three seconds has seen thirty.
TEST_F(StatisticsTest, TheRateIsThatOfTheTimeThatHasBeenWatched) {
  EXPECT_EQ(statistics.recent_rate(script.time_ns, 10), 0);
  for (const int seconds : {3, 30}) {
    for (int t = 0; t < 10 * seconds; ++t) {
      script.begin(t);
      script.time_ns += 100 * kMs;
      script.end();
    }
    absorb();
    EXPECT_NEAR(statistics.recent_rate(script.time_ns, 10), 10, 0.2) << seconds;
  }
  EXPECT_EQ(statistics.recent_rate(script.time_ns + 11000 * kMs, 10), 0);
}

TEST_F(StatisticsTest, AnInsertedExpertIsUsefulWhenItIsHit) {
  const auto slot = [&](RecordType type, int32_t expert) {
    script.add(type, 0, 1, SlotRecord{expert, 0, 100});
  };
  slot(RecordType::kAdmit, 5);
  slot(RecordType::kAdmit, 6);
  script.begin(1);
  script.picks(1, {5}, 1);
  script.picks(1, {6}, 0);  // a miss is no hit
  script.end();
  script.begin(2);
  script.picks(1, {5}, 1);
  script.end();
  slot(RecordType::kEvict, 5);
  slot(RecordType::kEvict, 6);
  absorb();
  EXPECT_EQ(statistics.admissions(), 2U);
  EXPECT_EQ(statistics.admissions_hit(), 1U);
  EXPECT_EQ(statistics.evictions(), 2U);
  EXPECT_EQ(statistics.evictions_unhit(), 1U);
  // That it was admitted again has been lost: of which admission it is a hit, nobody knows.
  script.begin(3);
  script.picks(1, {6}, 1);
  script.end();
  absorb();
  EXPECT_EQ(statistics.admissions_hit(), 1U);
}

// By another thread, between a layer's end and its record.
TEST_F(StatisticsTest, APickThatIsToldOfAfterItsEvictionWasAHitAllTheSame) {
  const auto slot = [&](RecordType type) { script.add(type, 0, 1, SlotRecord{5, 0, 100}); };
  slot(RecordType::kAdmit);
  script.begin(1);
  slot(RecordType::kEvict);
  script.picks(1, {5}, 1);
  script.picks(1, {5}, 1);
  script.end();
  absorb();
  EXPECT_EQ(statistics.admissions_hit(), 1U);
  EXPECT_EQ(statistics.evictions(), 1U);
  EXPECT_EQ(statistics.evictions_unhit(), 0U);
}

TEST_F(StatisticsTest, WaitsAreOfTheirOwnStepAndOfEitherKind) {
  script.begin(1);
  script.end();
  script.begin(2);
  script.range(RangeName::kFillWait, 1, 4 * kMs, 1);
  script.range(RangeName::kReadWait, 1, 5 * kMs, 2);
  script.range(RangeName::kReadWait, 2, 6 * kMs, 1);
  --script.records.back().step;  // an engine's thread was late with it
  script.layer(3, {{0, 0, 20 * kMs, 0}}, 15 * kMs);
  --script.records.back().step;
  script.end();
  absorb();
  const Token& token = tokens.back();
  EXPECT_EQ(token.read_wait_ns, 9 * kMs);
  EXPECT_EQ(token.reads, 3);
  EXPECT_EQ(token.read_bytes, 300);
  EXPECT_EQ(token.compute_ns, 0);
  ASSERT_EQ(token.waits.size(), 1U);
  EXPECT_EQ(token.waits[0].ns, 9 * kMs);
}

TEST_F(StatisticsTest, AfterAStepThatFailedNobodyKnowsWhatTheNextOneFollows) {
  script.begin(1);
  script.end();
  script.begin(2);
  script.add(RecordType::kStepEnd, 0, 0, StepRecord{2, 1, 0, 1, 0});
  script.time_ns += 5000 * kMs;
  script.begin(3);
  script.end();
  absorb();
  ASSERT_EQ(tokens.size(), 3U);
  EXPECT_TRUE(tokens[1].failed);
  EXPECT_FALSE(tokens[2].follows);
  EXPECT_EQ(statistics.time().tokens, 2U);
  EXPECT_EQ(statistics.token_ns().count(), 0U);
}

// Against LRU caches of all sizes that replay the trace: what is used again after D others is a hit
// of a cache of more than D slots.
TEST_F(StatisticsTest, ReuseDistancesAreThoseOfTheTrace) {
  const RoutingTrace trace = random_trace(20261124, 400, 4, 64, 4);
  for (const RoutingTrace::Event& event : trace.events) {
    const std::span<const uint16_t> ids = trace.row(event, 0);
    if (event.layer == 0) script.begin(event.step);
    script.picks(static_cast<uint16_t>(event.layer), {ids.begin(), ids.end()}, 0);
    if (event.layer == 3) script.end();
  }
  absorb();
  const Histogram& distances = statistics.reuse_distance();
  EXPECT_EQ(static_cast<int64_t>(statistics.first_uses()), compulsory_misses(trace));
  EXPECT_EQ(distances.count() + statistics.first_uses(), trace.ids.size());
  const auto lru = [](PolicyShape shape) {
    return make_policy({PolicyKind::kLru}, std::move(shape));
  };
  int compared = 0;
  for (int32_t slots = 4; slots <= 64; ++slots) {
    const auto largest = static_cast<uint64_t>(slots - 1);
    if (Histogram::bucket(largest) == Histogram::bucket(largest + 1)) continue;  // not exact
    const auto pools = slot_pools(trace.header, slots, SlotSplit::kEqual);
    EXPECT_EQ(static_cast<int64_t>(distances.count_up_to(largest)),
              replay(trace, pools, lru, 0).hits)
        << slots;
    ++compared;
  }
  EXPECT_GT(compared, 40);
}

TEST_F(StatisticsTest, ATopicChangeIsNoticedAndPasses) {
  std::mt19937 random(7);
  const auto token = [&](int64_t position, uint16_t base) {
    script.begin(position);
    for (uint16_t layer = 0; layer < 4; ++layer) {
      std::set<uint16_t> picks;
      while (picks.size() < 4) picks.insert(static_cast<uint16_t>(base + random() % 8));
      script.picks(layer, {picks.begin(), picks.end()}, 4);
    }
    script.end();
  };
  for (int t = 0; t < 100; ++t) token(t, t < 50 ? 0 : 32);
  absorb();
  ASSERT_EQ(tokens.size(), 100U);
  EXPECT_FALSE(tokens[49].after_topic_change);
  EXPECT_TRUE(tokens[50].after_topic_change);
  EXPECT_TRUE(tokens[55].after_topic_change);
  EXPECT_FALSE(tokens[90].after_topic_change);
}

TEST_F(StatisticsTest, APauseOfTheUserIsNoLatency) {
  script.begin(0, 10);
  script.end();
  script.time_ns += 2 * kMs;
  script.begin(10);
  script.end();
  script.time_ns += 60 * 1000 * kMs;
  script.begin(12, 5);  // the next question; its first token was the last of the answer
  script.end();
  absorb();
  EXPECT_EQ(statistics.token_ns().count(), 1U);
  EXPECT_EQ(statistics.time().tokens, 1U);
  EXPECT_EQ(statistics.time().prompt_rows, 15U);
}

TEST(HistogramTest, AQuantileIsTheLeastThatSoManyAreNotAbove) {
  Histogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0U);
  for (const uint64_t value : {1, 2, 3}) histogram.add(value);
  EXPECT_EQ(histogram.quantile(0.33), 1U);
  EXPECT_EQ(histogram.quantile(0.34), 2U);
  EXPECT_EQ(histogram.quantile(0.5), 2U);
  EXPECT_EQ(histogram.quantile(0.99), 3U);
  EXPECT_EQ(histogram.count_up_to(2), 2U);
}

TEST(HistogramTest, QuantilesAreWithinASixteenthOfTheTruth) {
  std::mt19937_64 random(20261124);
  std::lognormal_distribution<double> latency(15, 2);
  Histogram histogram;
  std::vector<uint64_t> values;
  for (int i = 0; i < 20000; ++i) {
    values.push_back(static_cast<uint64_t>(latency(random)));
    histogram.add(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double q : {0.01, 0.5, 0.9, 0.99, 1.0}) {
    const auto truth = values[static_cast<size_t>(q * 20000) - 1];
    EXPECT_GE(histogram.quantile(q), truth);
    EXPECT_LE(static_cast<double>(histogram.quantile(q)), static_cast<double>(truth) * 17 / 16 + 1);
  }
  for (int b = 0; b < Histogram::kBuckets; ++b) {
    EXPECT_EQ(Histogram::bucket(Histogram::least(b)), b);
  }
  EXPECT_EQ(Histogram::bucket(UINT64_MAX), Histogram::kBuckets - 1);
}

}  // namespace
}  // namespace hotset::test
