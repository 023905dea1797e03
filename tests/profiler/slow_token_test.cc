// Which tokens the daemon calls slow, and what it keeps.
#include <gmock/gmock.h>

#include "profiler/daemon.h"
#include "tests/profiler/exported.h"
#include "tests/profiler/reads.h"
#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

class SlowTokenTest : public testing::Test {
 protected:
  void SetUp() override { ring.take_step_lane(); }
  void token(uint64_t ns, int64_t rows = 1, int64_t failed = 0) {
    script.begin(position, rows);
    const uint64_t begin_ns = script.time_ns;
    script.time_ns += ns;
    script.add(
        RecordType::kStepEnd, 0, 0,
        StepRecord{position, rows, static_cast<int64_t>(script.time_ns - begin_ns), failed, 0});
    position += rows;
  }
  void tick() {
    for (const Record& record : script.records) ring.write(record);
    script.records.clear();
    daemon.tick({script.time_ns, 1}, nullptr);
  }
  double slow() {
    tick();
    return metric(daemon.metrics(),
                  "hotset_slow_tokens_total{cause=\"other\",model=\"model.gguf\"}");
  }
  RingFolder folder;
  Ring ring{folder.path(), small_header(), 4096, 2};
  Daemon daemon{{folder.path()}, 2};
  Script script;
  int64_t position = 0;
};

TEST_F(SlowTokenTest, TheFirstOnesAreSetBesideNothing) {
  for (int t = 0; t < 15; ++t) token(10 * kMs);
  token(50 * kMs);
  EXPECT_EQ(slow(), 0);
  token(50 * kMs);
  EXPECT_EQ(slow(), 1);
}

TEST_F(SlowTokenTest, AMillisecondMoreIsNeverWorthALine) {
  for (int t = 0; t < 20; ++t) token(kMs / 10);
  token(kMs);
  EXPECT_EQ(slow(), 0);
  token(kMs + kMs / 5);
  EXPECT_EQ(slow(), 1);
}

TEST_F(SlowTokenTest, PromptsAndFailuresAreNone) {
  for (int t = 0; t < 20; ++t) token(10 * kMs);
  token(500 * kMs, 30);
  token(500 * kMs, 1, 1);
  EXPECT_EQ(slow(), 0);
}

TEST_F(SlowTokenTest, WhatStaysSlowIsUsualInTheEndAndTheLastAreKept) {
  for (int t = 0; t < 300; ++t) token(10 * kMs);
  for (int t = 0; t < 300; ++t) token(40 * kMs);
  const double found = slow();
  EXPECT_GT(found, 100);
  EXPECT_LT(found, 140);
  EXPECT_EQ(daemon.slow_tokens().size(), 50U);
  for (int t = 0; t < 100; ++t) token(40 * kMs);
  EXPECT_EQ(slow(), found);
  for (int t = 0; t < 700; ++t) daemon.tick({script.time_ns, t}, nullptr);
  const json state = json::parse(daemon.state());
  EXPECT_EQ(state["history"].size(), 600U);
  EXPECT_EQ(state["history"].back()["unix_ms"], 699);
}

TEST_F(SlowTokenTest, TheLastWordsOfAWatchHaveWhatCameSinceTheLastTick) {
  token(10 * kMs);
  tick();
  token(10 * kMs);
  for (const Record& record : script.records) ring.write(record);
  {
    JsonLog log(folder.path() + "/log", 1 << 20);
    daemon.finish({script.time_ns, 1}, &log);
  }
  const json last = lines_of(folder.path() + "/log").back();
  EXPECT_EQ(last["event"], "end of watch");
  EXPECT_EQ(last["tokens"], 2);
  EXPECT_EQ(last["heat"].size(), 4U);
}

// The engine writes its last record and ends just when the daemon looks whether it has.
TEST_F(SlowTokenTest, AnEngineThatEndsDuringATickIsReadToItsEnd) {
  token(10 * kMs);
  tick();
  token(10 * kMs);
  JsonLog log(folder.path() + "/log", 1 << 20);
  {
    bool has_ended = false;
    const ReadsWatched watch(
        [&](off_t at) {
          if (at != kRingGaugesAt + offsetof(RingGauges, is_closed) || has_ended) return;
          has_ended = true;
          for (const Record& record : script.records) ring.write(record);
          ring.gauges().is_closed = 1;
        },
        [](off_t, std::byte*, size_t) {});
    daemon.tick({script.time_ns, 1}, &log);
    EXPECT_TRUE(has_ended);
  }
  const json last = lines_of(folder.path() + "/log").back();
  EXPECT_EQ(last["event"], "end of engine");
  EXPECT_EQ(last["tokens"], 2);
}

}  // namespace
}  // namespace hotset::test
