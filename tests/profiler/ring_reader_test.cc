// What a reader makes of a ring that no honest engine writes, or that one writes at an unlucky
// moment.
#include "profiler/ring_reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/check.h"
#include "tests/profiler/reads.h"
#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

class RingReaderTest : public testing::Test {
 protected:
  // Overwrites words of a ring's file, as its engine might have.
  template <class T>
  static void put(const Ring& ring, uint64_t at, const T& value) {
    const int fd = open(ring.path().c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_EQ(pwrite(fd, &value, sizeof value, static_cast<off_t>(at)), ssize_t{sizeof value});
    close(fd);
  }
  static Record record(RecordType type, uint8_t detail = 0, uint16_t layer = 0) {
    Record r;
    r.time_ns = 1000;
    r.type = type;
    r.detail = detail;
    r.layer = layer;
    return r;
  }
  template <class Payload>
  static Record record(RecordType type, uint8_t detail, uint16_t layer, const Payload& payload) {
    Record r = record(type, detail, layer);
    r.set(payload);
    return r;
  }
  RingFolder folder;
};

// The bounds of each type: the last value that is taken, and the first that is not.
TEST_F(RingReaderTest, WhatTheHeaderExcludesIsInvalidFromTheFirstValueOn) {
  Ring ring(folder.path(), small_header(), 256, 2);  // 4 layers of 64 experts
  RingReader reader(ring.path());
  const auto is_taken = [&](const Record& r) {
    ring.write(r);
    const uint64_t invalid = reader.invalid();
    const bool taken = drain(reader).size() == 1;
    EXPECT_EQ(reader.invalid(), invalid + (taken ? 0 : 1));
    return taken;
  };
  const auto picks = [](size_t count, uint16_t expert, int source, uint16_t layer = 0) {
    LayerRecord p;
    p.experts[std::min<size_t>(count, LayerRecord::kPicksMost) - 1] = expert;
    p.picks = static_cast<uint8_t>(count);
    p.source = static_cast<PickSource>(source);
    return record(RecordType::kLayer, 0, layer, p);
  };
  EXPECT_TRUE(is_taken(picks(11, 63, kPickSources - 1, 3)));
  EXPECT_FALSE(is_taken(picks(11, 64, 0)));
  EXPECT_FALSE(is_taken(picks(11, 63, kPickSources)));
  EXPECT_FALSE(is_taken(picks(1, 0, 0, 4)));
  EXPECT_FALSE(is_taken(picks(12, 63, 0)));

  const auto range = [](uint8_t name, uint16_t layer, int64_t ns) {
    return record(RecordType::kRange, name, layer, RangeRecord{.duration_ns = ns});
  };
  EXPECT_TRUE(is_taken(range(kRangeNames - 1, 3, 1000)));
  EXPECT_TRUE(is_taken(range(0, 0xffff, 0)));
  EXPECT_FALSE(is_taken(range(kRangeNames, 3, 0)));
  EXPECT_FALSE(is_taken(range(0, 4, 0)));
  EXPECT_FALSE(is_taken(range(0, 3, 1001))) << "before the clock began";
  EXPECT_FALSE(is_taken(range(0, 3, -1)));

  EXPECT_TRUE(is_taken(record(RecordType::kLayer, 0, 3, LayerRecord{{250, 250, 250, 250}})));
  EXPECT_FALSE(is_taken(record(RecordType::kLayer, 0, 4, LayerRecord{})));
  EXPECT_FALSE(is_taken(record(RecordType::kLayer, 0, 3, LayerRecord{{251, 250, 250, 250}})));

  const auto transfer = [](uint8_t cause, uint16_t layer, int32_t expert, int32_t to_card) {
    return record(
        RecordType::kTransfer, cause, layer,
        TransferRecord{.duration_ns = 1, .bytes = 1, .expert = expert, .to_card = to_card});
  };
  EXPECT_TRUE(is_taken(transfer(kTransferCauses - 1, 3, 63, 1)));
  EXPECT_FALSE(is_taken(transfer(kTransferCauses, 3, 63, 1)));
  EXPECT_FALSE(is_taken(transfer(0, 4, 63, 1)));
  EXPECT_FALSE(is_taken(transfer(0, 3, 64, 1)));
  EXPECT_FALSE(is_taken(transfer(0, 3, -1, 1)));
  EXPECT_FALSE(is_taken(transfer(0, 3, 63, 2)));

  for (const RecordType type : {RecordType::kAdmit, RecordType::kEvict}) {
    EXPECT_TRUE(is_taken(record(type, 0, 3, SlotRecord{63, 0, 1})));
    EXPECT_FALSE(is_taken(record(type, 0, 4, SlotRecord{63, 0, 1})));
    EXPECT_FALSE(is_taken(record(type, 0, 3, SlotRecord{64, 0, 1})));
    EXPECT_FALSE(is_taken(record(type, 0, 3, SlotRecord{63, 0, -1})));
  }
  EXPECT_FALSE(is_taken(record(RecordType::kBudget, 0, 0, BudgetRecord{-1, 0})));
  EXPECT_FALSE(is_taken(record(RecordType::kBudget, 0, 0, BudgetRecord{0, -1})));
  for (const RecordType type : {RecordType::kStepBegin, RecordType::kStepEnd}) {
    EXPECT_TRUE(is_taken(record(type, 0, 0, StepRecord{0, 1, 1000})));
    EXPECT_FALSE(is_taken(record(type, 0, 0, StepRecord{0, 0, 0})));
    EXPECT_FALSE(is_taken(record(type, 0, 0, StepRecord{-1, 1, 0})));
    EXPECT_FALSE(is_taken(record(type, 0, 0, StepRecord{0, 1, 1001})));
    EXPECT_TRUE(is_taken(record(type, 0, 0, StepRecord{0, 1, 9, 0, 9})));
    EXPECT_FALSE(is_taken(record(type, 0, 0, StepRecord{0, 1, 9, 0, 10})));
    EXPECT_FALSE(is_taken(record(type, 0, 0, StepRecord{0, 1, 9, 0, -1})));
  }
  EXPECT_TRUE(is_taken(record(RecordType::kPrediction, 0, 3, PredictionRecord{8, 4, 4})));
  EXPECT_FALSE(is_taken(record(RecordType::kPrediction, 0, 3, PredictionRecord{8, 5, 4})));
  EXPECT_FALSE(is_taken(record(RecordType::kPrediction, 0, 3, PredictionRecord{4, 5, 8})));
  EXPECT_FALSE(is_taken(record(RecordType::kPrediction, 0, 3, PredictionRecord{8, -1, 4})));
  EXPECT_TRUE(is_taken(record(RecordType::kGuard, kGuardLanes - 1, 0, GuardRecord{})));
  EXPECT_FALSE(is_taken(record(RecordType::kGuard, kGuardLanes, 0, GuardRecord{})));
  EXPECT_TRUE(is_taken(record(RecordType::kCard, 0, 0, CardRecord{1, 2, 3, 4})));
  for (int field = 0; field < 4; ++field) {
    std::array<int64_t, 5> words = {};
    words[field] = -1;
    EXPECT_FALSE(is_taken(record(RecordType::kCard, 0, 0, words)));
  }
  EXPECT_FALSE(is_taken(record(static_cast<RecordType>(0))));
  EXPECT_FALSE(is_taken(record(static_cast<RecordType>(200))));
}

// The engine goes round and begins to write over a cell just between the copies of its sequence and
// of its words. Its head still says that all is well.
TEST_F(RingReaderTest, ARecordThatIsBeingOverwrittenWhileItIsCopiedIsLost) {
  Ring ring(folder.path(), small_header(), 256, 1);
  ring.take_step_lane();
  const auto numbered = [](int64_t n) {
    return record(RecordType::kBudget, 0, 0, BudgetRecord{n, n});
  };
  for (int64_t n = 0; n < 256; ++n) ring.write(numbered(n));
  RingReader reader(ring.path());
  uint64_t cells_at = 0;
  const int fd = open(ring.path().c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(pread(fd, &cells_at, 8, kRingPage + offsetof(RingLane, cells_at)), 8);
  close(fd);
  std::vector<Record> records;
  {
    bool is_first = true;
    const ReadsWatched watch([](off_t) {},
                             [&](off_t at, std::byte* read, size_t) {
                               if (static_cast<uint64_t>(at) != cells_at || !is_first) return;
                               is_first = false;
                               put(ring, cells_at, uint64_t{0});  // its sequence
                               const Record later = numbered(256);
                               std::copy_n(reinterpret_cast<const std::byte*>(&later), sizeof later,
                                           read + sizeof(uint64_t));
                             });
    reader.drain_lane(0, records);
    EXPECT_FALSE(is_first);
  }
  ASSERT_EQ(records.size(), 255U);
  EXPECT_EQ(records.front().as<BudgetRecord>().bytes_before, 1);
  EXPECT_EQ(reader.lost(), 1U);
}

TEST_F(RingReaderTest, ThreadsRecordsComeInTheOrderOfTheirTimes) {
  Ring ring(folder.path(), small_header(), 256, 2);
  RingReader reader(ring.path());
  const auto at = [](uint64_t time_ns) {
    Record r = record(RecordType::kBudget, 0, 0, BudgetRecord{});
    r.time_ns = time_ns;
    return r;
  };
  ring.take_step_lane();
  for (const uint64_t time_ns : {10, 30, 50}) ring.write(at(time_ns));
  std::thread([&] {
    for (const uint64_t time_ns : {20, 30, 40}) ring.write(at(time_ns));
  }).join();
  std::vector<uint64_t> times;
  for (const Record& r : drain(reader)) times.push_back(r.time_ns);
  EXPECT_THAT(times, testing::ElementsAre(10, 20, 30, 30, 40, 50));
}

TEST_F(RingReaderTest, AHeadThatGoesBackIsCountedOnceAndReadOnFrom) {
  Ring ring(folder.path(), small_header(), 256, 2);
  RingReader reader(ring.path());
  ring.take_step_lane();
  for (int i = 0; i < 10; ++i) ring.write(record(RecordType::kError));
  EXPECT_EQ(drain(reader).size(), 10U);
  put(ring, kRingPage + offsetof(RingLane, head), uint64_t{4});
  EXPECT_TRUE(drain(reader).empty());
  EXPECT_TRUE(drain(reader).empty());
  EXPECT_EQ(reader.invalid(), 1U);
  put(ring, kRingPage + offsetof(RingLane, head), uint64_t{10});
  EXPECT_EQ(drain(reader).size(), 6U);
}

TEST_F(RingReaderTest, AProcessNumberThatCameAgainIsNotTheWriter) {
  const Ring ring(folder.path(), small_header(), 256, 2);
  EXPECT_TRUE(RingReader(ring.path()).writer_is_alive());
  put(ring, offsetof(RingHeader, pid_start), process_start(getpid()) - 1);
  EXPECT_FALSE(RingReader(ring.path()).writer_is_alive());
}

TEST_F(RingReaderTest, ANameIsFitForATerminal) {
  RingHeader header = small_header();
  const std::string name = "m\x1b[31m\n\x7f\xe2\x82\xac\x1f.gguf";
  std::fill(std::begin(header.model), std::end(header.model), '\0');
  name.copy(header.model, sizeof header.model - 1);
  const Ring ring(folder.path(), header, 256, 2);
  EXPECT_EQ(RingReader(ring.path()).model(), "m?[31m??????.gguf");
}

TEST_F(RingReaderTest, ALinkAndAPipeAreNoRings) {
  const Ring ring(folder.path(), small_header(), 256, 2);
  const std::string link = folder.path() + "/link.ring", pipe = folder.path() + "/pipe.ring";
  std::filesystem::create_symlink(ring.path(), link);
  EXPECT_THROW(RingReader reader(link), Error);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW(RingReader reader(pipe), Error) << "and it waits for nobody to write";
}

}  // namespace
}  // namespace hotset::test
