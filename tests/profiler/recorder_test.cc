#include "cache/recorder.h"

#include <gmock/gmock.h>

#include <thread>

#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

class RecorderTest : public testing::Test {
 protected:
  RingFolder folder;
};

// Those of a layer are one record, which ends with the last of them; the head ends with its step.
TEST_F(RecorderTest, StagesFollowEachOtherWithoutAGapFromTheStepsBeginning) {
  auto owned = std::make_unique<Ring>(folder.path(), small_header(), 256, 2);
  RingReader reader(owned->path());
  hotset::Recorder recorder(std::move(owned));
  for (int64_t position = 0; position < 2; ++position) {
    auto step = recorder.step(position, 1);
    for (int32_t layer = 0; layer < 3; ++layer) {
      // A prompt's mixers work on tiles.
      { const auto stage = recorder.stage(RangeName::kMixer, layer); }
      { const auto stage = recorder.stage(RangeName::kMixer, layer); }
      { const auto stage = recorder.stage(RangeName::kRouter, layer); }
      {
        const auto stage = recorder.stage(RangeName::kExperts, layer);
        const auto within = recorder.range(RangeName::kReadWait, layer);
      }
      const auto stage = recorder.stage(RangeName::kCombine, layer);
    }
    { const auto stage = recorder.stage(RangeName::kHead); }
    step.done();
  }
  uint64_t seam = 0;
  int layers = 0, heads = 0;
  for (const Record& record : drain(reader)) {
    if (record.type == RecordType::kStepBegin) {
      seam = record.time_ns;
    } else if (record.type == RecordType::kRange) {  // it has looked at the clock for itself
      EXPECT_GT(record.time_ns - record.as<RangeRecord>().duration_ns, seam);
    } else {
      const bool is_layer = record.type == RecordType::kLayer;
      const auto parts = record.as<LayerRecord>();
      const int64_t ns = is_layer ? parts.sum_ns() : record.as<StepRecord>().head_ns;
      EXPECT_EQ(record.time_ns - static_cast<uint64_t>(ns), seam);
      EXPECT_GT(ns, 0);
      seam = record.time_ns;
      (is_layer ? layers : heads) += 1;
      if (!is_layer) continue;
      for (const uint32_t part : parts.ns) EXPECT_GT(part, 0U);
    }
  }
  EXPECT_EQ(layers, 6);
  EXPECT_EQ(heads, 2);
}

TEST_F(RecorderTest, ALayerThatAnErrorCutsOffIsToldOfWithItsStep) {
  auto owned = std::make_unique<Ring>(folder.path(), small_header(), 256, 2);
  RingReader reader(owned->path());
  hotset::Recorder recorder(std::move(owned));
  {
    const auto whole = recorder.step(0, 1);
    const auto stage = recorder.stage(RangeName::kHead);
  }
  EXPECT_GT(drain(reader).at(1).as<StepRecord>().head_ns, 0);
  for (int64_t position = 0; position < 2; ++position) {
    const auto step = recorder.step(position, 1);
    { const auto stage = recorder.stage(RangeName::kMixer, 2); }
    const auto stage = recorder.stage(RangeName::kRouter, 2);
  }
  const std::vector<Record> records = drain(reader);
  ASSERT_EQ(records.size(), 6U);
  for (const size_t begin : {0, 3}) {
    const auto parts = records[begin + 1].as<LayerRecord>();
    EXPECT_EQ(records[begin + 1].type, RecordType::kLayer);
    EXPECT_EQ(records[begin + 1].layer, 2);
    EXPECT_EQ(parts.sum_ns(), records[begin + 1].time_ns - records[begin].time_ns);
    EXPECT_EQ(parts.ns[2] + parts.ns[3], 0U);
    EXPECT_EQ(records[begin + 2].as<StepRecord>().failed, 1);
    EXPECT_EQ(records[begin + 2].as<StepRecord>().head_ns, 0);
  }
}

TEST(LayerRecordTest, WhatDoesNotFitIsLeftForTheNext) {
  LayerRecord layer;
  EXPECT_EQ(layer.add(RangeName::kExperts, UINT32_MAX - 1), 0U);
  EXPECT_EQ(layer.add(RangeName::kExperts, 10), 9U);
  EXPECT_EQ(layer.add(RangeName::kExperts, 9), 9U);
  EXPECT_EQ(layer.add(RangeName::kCombine, 7), 0U);
  EXPECT_EQ(layer.sum_ns(), int64_t{UINT32_MAX} + 7);
}

std::vector<uint16_t> picks_of(const Record& record) {
  const auto layer = record.as<LayerRecord>();
  return {layer.experts.begin(), layer.experts.begin() + layer.picks};
}

// What a layer picked is told of with its parts, whichever way it comes: a wave that is not the
// last, more than a record holds, and those of other threads are told of at once.
TEST_F(RecorderTest, PicksAreToldOfWithTheirLayerAndInTheirOrder) {
  using testing::ElementsAre;
  auto owned = std::make_unique<Ring>(folder.path(), small_header(), 256, 2);
  RingReader reader(owned->path());
  hotset::Recorder recorder(std::move(owned));
  const auto identity = [](size_t i) { return i; };
  {
    const auto step = recorder.step(0, 1);
    {
      const auto stage = recorder.stage(RangeName::kExperts, 0);
      recorder.picks(0, 10, PickSource::kResident, identity);
      EXPECT_EQ(drain(reader).size(), 1U);  // the step's beginning
    }
    { const auto stage = recorder.stage(RangeName::kCombine, 0); }
    const std::vector<Record> one = drain(reader);
    ASSERT_EQ(one.size(), 1U);
    EXPECT_THAT(picks_of(one[0]), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
    EXPECT_GT(one[0].as<LayerRecord>().ns[2], 0U);

    recorder.picks(1, 12, PickSource::kResident, identity);
    recorder.picks(1, 2, PickSource::kRead, identity);
    std::thread([&] { recorder.picks(3, 1, PickSource::kHost, identity); }).join();
    const std::vector<Record> more = drain(reader);
    ASSERT_EQ(more.size(), 3U);
    EXPECT_EQ(picks_of(more[0]).size(), 11U);
    EXPECT_THAT(picks_of(more[1]), ElementsAre(11));
    EXPECT_EQ(more[2].layer, 3);
    EXPECT_EQ(more[2].as<LayerRecord>().source, PickSource::kHost);
    recorder.evict({1, 0}, 0, 100);
    const std::vector<Record> evicted = drain(reader);
    ASSERT_EQ(evicted.size(), 2U);
    EXPECT_EQ(evicted[0].as<LayerRecord>().source, PickSource::kRead);
    EXPECT_THAT(picks_of(evicted[0]), ElementsAre(0, 1));
    EXPECT_EQ(evicted[1].type, RecordType::kEvict);
    recorder.picks(1, 1, PickSource::kResident, identity);  // and the step fails
  }
  const std::vector<Record> last = drain(reader);
  ASSERT_EQ(last.size(), 2U);
  EXPECT_EQ(last[0].layer, 1);
  EXPECT_EQ(picks_of(last[0]).size(), 1U);
  recorder.picks(2, 1, PickSource::kResident, identity);  // of no step
  EXPECT_EQ(drain(reader).size(), 1U);
}

}  // namespace
}  // namespace hotset::test
