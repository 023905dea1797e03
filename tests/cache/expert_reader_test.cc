// The order of reads is the order of need; guesses give way, are given up, and cost nothing else.
#include "cache/expert_reader.h"

#include <gtest/gtest.h>

#include "tests/cache/fake_source.h"

namespace hotset::test {
namespace {

class ExpertReaderTest : public testing::Test {
 protected:
  // Waits until everything that was needed has landed; returns the experts as they came.
  std::vector<int32_t> take(ExpertReader& reader, size_t count) {
    std::vector<int32_t> experts;
    std::vector<ExpertReader::Landed> landed(16);
    while (experts.size() < count) {
      const size_t now = reader.take_landed(landed);
      for (size_t i = 0; i < now; ++i) {
        experts.push_back(landed[i].id.expert);
        reader.release(landed[i].read);
      }
    }
    reader.verify();
    return experts;
  }
  FakeSource source{2, 16};
};

TEST_F(ExpertReaderTest, WhatIsNeededIsReadBeforeWhatIsGuessed) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 1, 8);
  source.hold({0, 0});
  ASSERT_TRUE(reader.need({0, 0}, nullptr));
  source.wait_until_held();  // the only thread is busy
  reader.expect({1, 1});
  reader.expect({1, 2});
  ASSERT_TRUE(reader.need({0, 3}, nullptr));
  ASSERT_TRUE(reader.need({1, 2}, nullptr));  // a guess that comes true goes ahead, too
  source.hold({1, 1});
  EXPECT_EQ(take(reader, 3).size(), 3u);
  source.wait_until_held();  // the other guess is only read now
  source.let_go();
  const ReadAheadStats stats = reader.stats();
  EXPECT_EQ(stats.guesses, 2);
  EXPECT_EQ(stats.used, 1);
  EXPECT_EQ(stats.needed, 3);
}

TEST_F(ExpertReaderTest, HalfOfTheThreadsReadNoGuesses) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 2, 8);
  source.hold({1, 1});
  reader.expect({1, 1});
  source.wait_until_held();
  reader.expect({1, 2});
  ASSERT_TRUE(reader.need({0, 3}, nullptr));
  EXPECT_EQ(take(reader, 1), std::vector<int32_t>{3});
  EXPECT_EQ(source.reads[16 + 2], 0);
  source.let_go();
  ASSERT_TRUE(reader.need({1, 2}, nullptr));
  EXPECT_EQ(take(reader, 1), std::vector<int32_t>{2});
}

TEST_F(ExpertReaderTest, AGuessThatTheStepPassedByIsNotRead) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 1, 8);
  source.hold({0, 0});
  ASSERT_TRUE(reader.need({0, 0}, nullptr));
  source.wait_until_held();
  reader.expect({1, 1});
  reader.drop_expected(1);
  source.let_go();
  take(reader, 1);
  ASSERT_TRUE(reader.need({0, 2}, nullptr));
  take(reader, 1);
  EXPECT_EQ(source.reads[16 + 1], 0);
  EXPECT_EQ(reader.stats().bytes_unused, 0);
}

TEST_F(ExpertReaderTest, AGuessGivenUpWhileItIsReadFreesItsLandingAfterwards) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 1, 2);
  source.hold({1, 1});
  reader.expect({1, 1});
  source.wait_until_held();
  reader.drop_expected(1);
  reader.verify();
  ASSERT_TRUE(reader.need({0, 1}, nullptr));
  EXPECT_FALSE(reader.need({0, 2}, nullptr)) << "one landing is taken, the other not free yet";
  source.let_go();
  take(reader, 1);
  ASSERT_TRUE(reader.need({0, 2}, nullptr));
  take(reader, 1);
  EXPECT_GT(reader.stats().bytes_unused, 0);
}

TEST_F(ExpertReaderTest, TheLatestGuessGivesWayToANeed) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 1, 3);
  source.hold({0, 0});
  ASSERT_TRUE(reader.need({0, 0}, nullptr));
  source.wait_until_held();
  reader.expect({1, 1});
  reader.expect({1, 2});
  reader.expect({1, 3});  // no landing is left: without effect
  EXPECT_EQ(reader.stats().guesses, 2);
  ASSERT_TRUE(reader.need({0, 5}, nullptr));
  source.let_go();
  take(reader, 2);
  ASSERT_TRUE(reader.need({1, 1}, nullptr));
  take(reader, 1);
  EXPECT_EQ(source.reads[16 + 1], 1);
  EXPECT_EQ(source.reads[16 + 2], 0);
}

TEST_F(ExpertReaderTest, WhatLandedBeforeItWasNeededHidItsReading) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 1, 4);
  source.read_us = 5000;
  reader.expect({0, 1});
  while (source.reads[1] == 0) std::this_thread::yield();
  ASSERT_TRUE(reader.need({0, 2}, nullptr));
  take(reader, 1);  // the guess was under way first
  ASSERT_TRUE(reader.need({0, 1}, nullptr));
  take(reader, 1);
  EXPECT_GT(reader.stats().hidden_ns, 3'000'000);
  EXPECT_EQ(source.reads[1], 1);
}

// Whose reads wait until all parts of an expert are being read.
class MeetingSource : public FakeSource {
 public:
  explicit MeetingSource(int parts) : FakeSource(2, 16, parts) {}
  int64_t read(ExpertId id, int32_t part, std::byte* landing) override {
    {
      std::unique_lock lock(mutex_);
      if (++here_ == parts()) changed_.notify_all();
      const auto all_here = [&] { return here_ >= parts(); };
      if (!changed_.wait_for(lock, std::chrono::seconds(2), all_here)) have_met = false;
    }
    return FakeSource::read(id, part, landing);
  }
  std::atomic<bool> have_met = true;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int here_ = 0;
};

TEST_F(ExpertReaderTest, SleepingThreadsShareTheFirstExpertThatIsAskedFor) {
  Recorder recorder;
  for (const bool is_guess : {false, true}) {
    MeetingSource meeting(3);
    ExpertReader reader(meeting, recorder, is_guess ? 6 : 3, 4);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until all are asleep
    if (is_guess) {
      reader.expect({0, 1});
      while (meeting.reads[1] == 0) std::this_thread::yield();
    }
    ASSERT_TRUE(reader.need({0, 1}, nullptr));
    take(reader, 1);
    EXPECT_TRUE(meeting.have_met) << (is_guess ? "a guess" : "a need");
  }
}

TEST_F(ExpertReaderTest, AGuessThatFailsIsReadAgainWhenItIsNeeded) {
  Recorder recorder;
  ExpertReader reader(source, recorder, 1, 4);
  source.fail({0, 1});
  reader.expect({0, 1});
  while (source.reads[1] == 0) std::this_thread::yield();
  ASSERT_TRUE(reader.need({0, 2}, nullptr));
  take(reader, 1);
  source.fail({-1, -1});
  ASSERT_TRUE(reader.need({0, 1}, nullptr));
  EXPECT_EQ(take(reader, 1), std::vector<int32_t>{1});
}

}  // namespace
}  // namespace hotset::test
