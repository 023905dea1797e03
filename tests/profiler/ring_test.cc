#include "cache/ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

#include "kernels/check.h"
#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

// A record whose every word follows from one number, so that a torn one shows.
Record numbered(uint64_t n) {
  Record record;
  record.time_ns = n + (uint64_t{1} << 40);
  record.type = RecordType::kBudget;
  const auto value = static_cast<int64_t>(n);
  record.set(BudgetRecord{value, value + 1, {value + 2, value + 3, value + 4}});
  return record;
}
void expect_whole(const Record& record) {
  const auto b = record.as<BudgetRecord>();
  const int64_t n = b.bytes_before;
  ASSERT_EQ(record.time_ns, static_cast<uint64_t>(n) + (uint64_t{1} << 40));
  ASSERT_EQ(b.bytes_after, n + 1);
  ASSERT_EQ(b.unused[0], n + 2);
  ASSERT_EQ(b.unused[1], n + 3);
  ASSERT_EQ(b.unused[2], n + 4);
}

std::string refusal(const std::string& path) {
  try {
    RingReader reader(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class RingTest : public testing::Test {
 protected:
  RingFolder folder;
};

TEST_F(RingTest, WhatIsWrittenIsReadOnceInOrder) {
  Ring ring(folder.path(), small_header(), 256, 2);
  RingReader reader(ring.path());
  ring.take_step_lane();
  for (uint64_t n = 0; n < 100; ++n) ring.write(numbered(n));
  const std::vector<Record> records = drain(reader);
  ASSERT_EQ(records.size(), 100U);
  for (uint64_t n = 0; n < 100; ++n) EXPECT_EQ(records[n].as<BudgetRecord>().bytes_before, n);
  EXPECT_TRUE(drain(reader).empty());
  EXPECT_EQ(reader.lost(), 0U);
  EXPECT_EQ(reader.invalid(), 0U);
  EXPECT_EQ(reader.model(), "model.gguf");
}

TEST_F(RingTest, OverwrittenRecordsAreCounted) {
  Ring ring(folder.path(), small_header(), 256, 2);
  RingReader reader(ring.path());
  ring.take_step_lane();
  for (uint64_t n = 0; n < 1000; ++n) ring.write(numbered(n));
  const std::vector<Record> records = drain(reader);
  ASSERT_EQ(records.size(), 256U);
  EXPECT_EQ(records.front().as<BudgetRecord>().bytes_before, 1000 - 256);
  EXPECT_EQ(reader.lost(), 1000U - 256U);
}

TEST_F(RingTest, EveryThreadHasItsLaneAndOneTooManyIsCounted) {
  Ring ring(folder.path(), small_header(), 1024, 2);
  RingReader reader(ring.path());
  ring.take_step_lane();
  ring.write(numbered(0));
  std::atomic<int> started = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      ++started;
      while (started < 3) std::this_thread::yield();  // all live at once: no id comes twice
      for (uint64_t n = 0; n < 10; ++n) ring.write(numbered(1 + t * 10 + n));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(drain(reader).size() + reader.lost(), 31U);
  EXPECT_EQ(reader.lost(), 10U);
  RingReader by_lane(ring.path());
  std::vector<Record> records;
  for (size_t lane = 0; lane < by_lane.lane_count(); ++lane) by_lane.drain_lane(lane, records);
  EXPECT_EQ(records.size(), 21U);
  EXPECT_EQ(by_lane.lost(), 10U);
}

// The writer at full speed laps the reader again and again: whatever is reported is whole, and
// nothing is reported twice.
TEST_F(RingTest, ATornRecordIsNeverReported) {
  Ring ring(folder.path(), small_header(), 64, 1);
  RingReader reader(ring.path());
  constexpr uint64_t kRecords = 400000;
  std::atomic<bool> done = false;
  std::thread writer([&] {
    ring.take_step_lane();
    for (uint64_t n = 0; n < kRecords; ++n) ring.write(numbered(n));
    done = true;
  });
  int64_t last = -1;
  uint64_t seen = 0;
  std::vector<Record> records;
  for (bool is_last = false; !is_last;) {
    is_last = done;
    records.clear();
    reader.drain(records);
    for (const Record& record : records) {
      expect_whole(record);
      ASSERT_GT(record.as<BudgetRecord>().bytes_before, last);
      last = record.as<BudgetRecord>().bytes_before;
    }
    seen += records.size();
  }
  writer.join();
  EXPECT_EQ(seen + reader.lost(), kRecords);
  EXPECT_EQ(last, kRecords - 1);
  EXPECT_EQ(reader.invalid(), 0U);
}

// What a reader finds of a cell that is being written (sequence 0), and of one that was written
// again.
TEST_F(RingTest, ACellWhoseSequenceIsAnotherRecordsIsLostAndNotReported) {
  Ring ring(folder.path(), small_header(), 256, 2);
  ring.take_step_lane();
  for (uint64_t n = 0; n < 10; ++n) ring.write(numbered(n));
  RingReader reader(ring.path());
  const int fd = open(ring.path().c_str(), O_RDWR | O_CLOEXEC);
  uint64_t cells_at = 0;
  ASSERT_EQ(pread(fd, &cells_at, 8, kRingPage + offsetof(RingLane, cells_at)), 8);
  for (const auto& [n, sequence] :
       {std::pair<uint64_t, uint64_t>{3, 0}, {5, 5 + 1 + 256}, {7, 7}}) {
    const auto at = static_cast<off_t>(cells_at + n * sizeof(RingCell));
    ASSERT_EQ(pwrite(fd, &sequence, sizeof sequence, at), 8);
  }
  close(fd);
  std::vector<int64_t> reported;
  for (const Record& record : drain(reader)) {
    expect_whole(record);
    reported.push_back(record.as<BudgetRecord>().bytes_before);
  }
  EXPECT_THAT(reported, testing::ElementsAre(0, 1, 2, 4, 6, 8, 9));
  EXPECT_EQ(reader.lost(), 3U);
}

// Parts of a step are told of together: one alone would be counted twice.
TEST_F(RingTest, ARangeNamesNoPartOfAStep) {
  Ring ring(folder.path(), small_header(), 256, 2);
  RingReader reader(ring.path());
  for (const RangeName name : {RangeName::kReadWait, RangeName::kMixer, RangeName::kHead}) {
    Record record;
    record.time_ns = 100;
    record.type = RecordType::kRange;
    record.detail = static_cast<uint8_t>(name);
    record.set(RangeRecord{.duration_ns = 10});
    ring.write(record);
  }
  const std::vector<Record> records = drain(reader);
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].detail, static_cast<uint8_t>(RangeName::kReadWait));
  EXPECT_EQ(reader.invalid(), 2U);
}

// The least of several rounds: other programs only ever make one longer.
template <class Write>
double ns_a_write(const Write& write) {
  constexpr int kWrites = 50000, kRounds = 40;
  double best_ns = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t n = 0; n < kWrites; ++n) write(n);
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    best_ns = std::min(best_ns, taken.count() / kWrites);
  }
  return best_ns;
}

TEST_F(RingTest, AWriteTakesTensOfNanoseconds) {
  Ring ring(folder.path(), small_header(), 65536, 1);
  ring.take_step_lane();
  const double best_ns = ns_a_write([&](uint64_t n) { ring.write(numbered(n)); });
  hotset::Recorder recorder(std::make_unique<Ring>(folder.path(), small_header(), 65536, 1));
  const auto step = recorder.step(0, 1);
  // A layer as an engine tells of it: one record, four looks at the clock.
  const double layer_ns = ns_a_write([&](uint64_t) {
    for (int i = 0; i < LayerRecord::kParts; ++i) {
      const auto stage = recorder.stage(LayerRecord::part(i), 0);
      if (LayerRecord::part(i) != RangeName::kExperts) continue;
      recorder.picks(0, 8, PickSource::kResident, [](size_t pick) { return pick; });
    }
  });
  std::printf("ring write: %.1f ns a record; a layer's, with its looks at the clock: %.1f ns\n",
              best_ns, layer_ns);
#if defined(__OPTIMIZE__) && !defined(HOTSET_SANITIZES_thread) && !defined(HOTSET_SANITIZES_address)
  EXPECT_LT(best_ns, 50);
#endif
}

TEST_F(RingTest, TheFileIsPrivateAndGoneWithItsOwner) {
  std::string path;
  {
    const Ring ring(folder.path(), small_header(), 256, 2);
    path = ring.path();
    struct stat file {
    }, directory{};
    ASSERT_EQ(stat(path.c_str(), &file), 0);
    ASSERT_EQ(stat(folder.path().c_str(), &directory), 0);
    EXPECT_EQ(file.st_mode & 0777, 0600U);
    EXPECT_EQ(directory.st_mode & 0777, 0700U);
    EXPECT_THAT(find_rings(folder.path()), testing::ElementsAre(path));
  }
  EXPECT_THAT(find_rings(folder.path()), testing::IsEmpty());
}

TEST_F(RingTest, WhatAKilledEngineLeftIsRemovedByTheNext) {
  std::filesystem::create_directory(folder.path());
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
  const pid_t child = fork();
  if (child == 0) {
    const Ring ring(folder.path(), small_header(), 256, 2);
    raise(SIGKILL);
  }
  ASSERT_GT(child, 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const std::vector<std::string> left = find_rings(folder.path());
  ASSERT_EQ(left.size(), 1U);
  EXPECT_FALSE(RingReader(left[0]).writer_is_alive());
  const Ring ring(folder.path(), small_header(), 256, 2);
  EXPECT_THAT(find_rings(folder.path()), testing::ElementsAre(ring.path()));
  EXPECT_TRUE(RingReader(ring.path()).writer_is_alive());
}

TEST_F(RingTest, AFolderThatOthersMayEnterIsRefused) {
  std::filesystem::create_directory(folder.path());
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  EXPECT_THROW(Ring(folder.path(), small_header(), 256, 2), Error);
  EXPECT_THAT(find_rings(folder.path()), testing::IsEmpty());
}

TEST_F(RingTest, ARingThatOthersMayReadIsRefused) {
  const Ring ring(folder.path(), small_header(), 256, 2);
  ASSERT_EQ(chmod(ring.path().c_str(), 0644), 0);
  EXPECT_THAT(refusal(ring.path()), testing::HasSubstr("mode 0600"));
}

TEST_F(RingTest, ARingOfAnotherUserIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: only root may give a file away";
  constexpr uid_t kNobody = 65534;
  const Ring ring(folder.path(), small_header(), 256, 2);
  ASSERT_EQ(chown(ring.path().c_str(), kNobody, kNobody), 0);
  EXPECT_THAT(refusal(ring.path()), testing::HasSubstr("not a file of this user's"));
  ASSERT_EQ(chown(folder.path().c_str(), kNobody, kNobody), 0);
  EXPECT_THAT(find_rings(folder.path()), testing::IsEmpty());
  EXPECT_THROW(Ring(folder.path(), small_header(), 256, 2), Error);
}

TEST_F(RingTest, AFileThatIsCutOffWhileItIsReadIsADeadRing) {
  Ring ring(folder.path(), small_header(), 256, 2);
  ring.take_step_lane();
  RingReader reader(ring.path());
  ring.write(numbered(1));
  EXPECT_EQ(drain(reader).size(), 1U);
  const int fd = open(ring.path().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, 100), 0);
  EXPECT_FALSE(reader.writer_is_alive());
  EXPECT_TRUE(drain(reader).empty());
  EXPECT_EQ(reader.resident_bytes(), 0);
  EXPECT_EQ(reader.lost(), 0U);
  ASSERT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(4 * kRingPage)), 0);  // its owner's, still
  close(fd);
}

// A file that is cut off and made whole again at full speed: at no moment of a look at it is that
// a signal, and nothing but whole records is ever reported.
TEST_F(RingTest, AFileMayBeCutOffAtAnyMomentOfALook) {
  Ring ring(folder.path(), small_header(), 256, 2);
  ring.take_step_lane();
  for (uint64_t n = 0; n < 256; ++n) ring.write(numbered(n));
  const int fd = open(ring.path().c_str(), O_RDWR | O_CLOEXEC);
  std::vector<char> image(static_cast<size_t>(ring.bytes()));
  ASSERT_EQ(pread(fd, image.data(), image.size(), 0), ring.bytes());
  std::atomic<bool> done = false;
  std::thread cutter([&] {
    std::mt19937_64 random(20261125);
    for (int round = 0; round < 3000; ++round) {
      const auto at = static_cast<off_t>(random() % image.size());
      EXPECT_EQ(ftruncate(fd, at), 0);
      EXPECT_EQ(pwrite(fd, image.data(), image.size(), 0), ring.bytes());
    }
    done = true;
  });
  uint64_t whole = 0, cut_off = 0;
  std::vector<Record> records;
  while (!done) {
    records.clear();
    try {
      RingReader reader(ring.path());
      reader.drain(records);
      reader.writer_is_alive();
    } catch (const Error&) {
      ++cut_off;
      continue;
    }
    for (const Record& record : records) expect_whole(record);
    whole += records.size() == 256 ? 1 : 0;
    cut_off += records.size() < 256 ? 1 : 0;
  }
  cutter.join();
  close(fd);
  EXPECT_GT(whole, 0U);
  EXPECT_GT(cut_off, 0U);
}

TEST_F(RingTest, AnotherVersionAndEveryBrokenHeaderIsRefused) {
  const Ring ring(folder.path(), small_header(), 256, 2);
  const auto change = [&](size_t at, uint32_t value) {
    const int fd = open(ring.path().c_str(), O_RDWR);
    uint32_t before = 0;
    EXPECT_EQ(pread(fd, &before, sizeof before, static_cast<off_t>(at)), 4);
    EXPECT_EQ(pwrite(fd, &value, sizeof value, static_cast<off_t>(at)), 4);
    const std::string message = refusal(ring.path());
    EXPECT_EQ(pwrite(fd, &before, sizeof before, static_cast<off_t>(at)), 4);
    close(fd);
    return message;
  };
  EXPECT_THAT(change(offsetof(RingHeader, magic), 7), testing::HasSubstr("not a ring"));
  EXPECT_THAT(change(offsetof(RingHeader, version), 7), testing::HasSubstr("version 7"));
  EXPECT_THAT(change(offsetof(RingHeader, version), 2), testing::HasSubstr("version 2,"));
  for (const size_t field :
       {offsetof(RingHeader, cell_bytes), offsetof(RingHeader, lanes),
        offsetof(RingHeader, file_bytes), offsetof(RingHeader, layers),
        offsetof(RingHeader, experts_per_layer), kRingPage + offsetof(RingLane, capacity),
        kRingPage + offsetof(RingLane, cells_at)}) {
    for (const uint32_t value : {0U, 0xffffffffU}) {
      if (field == kRingPage + offsetof(RingLane, cells_at) && value == 0) continue;  // of page 0
      EXPECT_THAT(change(field, value), testing::HasSubstr("damaged")) << field << " " << value;
    }
  }
  EXPECT_EQ(refusal(ring.path()), "");
}

TEST_F(RingTest, RandomRecordsAreCountedAndNotReported) {
  const Ring ring(folder.path(), small_header(), 256, 2);
  const int fd = open(ring.path().c_str(), O_RDWR);
  struct stat status {};
  ASSERT_EQ(fstat(fd, &status), 0);
  std::mt19937_64 random(20261124);
  for (off_t at = 2 * kRingPage; at + 64 <= status.st_size; at += 64) {
    const auto n = static_cast<uint64_t>((at - 2 * kRingPage) / 64);
    std::array<uint64_t, 8> cell;
    for (uint64_t& word : cell) word = random();
    cell[0] = n % 256 + 1;
    cell[2] = random() % 14 | 0xfffeff00;  // a known type, a layer and a detail that are not
    ASSERT_EQ(pwrite(fd, cell.data(), 64, at), 64);
  }
  const uint64_t head = 256;
  ASSERT_EQ(pwrite(fd, &head, 8, kRingPage + offsetof(RingLane, head)), 8);
  close(fd);
  RingReader reader(ring.path());
  for (const Record& record : drain(reader)) EXPECT_EQ(record.type, RecordType::kError);
  EXPECT_GT(reader.invalid(), 150U);
}

}  // namespace
}  // namespace hotset::test
