// Scores in a file: there and back, every damage is refused by name, and whatever moment a writer
// is killed at, the file is the one of before or the one of after.
#include "runtime/model/score_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <thread>

#include "kernels/check.h"

namespace hotset::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int32_t kLayers = 48, kExperts = 512;
constexpr size_t kScores = static_cast<size_t>(kLayers) * kExperts;

class ScoreFileTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("scores_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path() const { return folder_ / "a.scores"; }
  void write(float value) const {
    write_scores(path(), score_head(77, "demo", kLayers, kExperts),
                 std::vector<float>(kScores, value));
  }
  std::string refusal() const {
    try {
      read_scores(path());
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      found.push_back(entry.path().filename());
    }
    return found;
  }

  fs::path folder_;
};

TEST_F(ScoreFileTest, WhatIsWrittenIsRead) {
  std::vector<float> scores(kScores);
  for (size_t i = 0; i < kScores; ++i) scores[i] = static_cast<float>(i) / 3;
  write_scores(path(), score_head(77, std::string(200, 'n'), kLayers, kExperts), scores);
  const SavedScores saved = read_scores(path());
  EXPECT_EQ(saved.scores, scores);
  EXPECT_EQ(saved.head.model_name(), std::string(63, 'n'));
  EXPECT_TRUE(saved.head.is_of(score_head(77, "", kLayers, kExperts)));
  EXPECT_FALSE(saved.head.is_of(score_head(78, "", kLayers, kExperts)));
  EXPECT_FALSE(saved.head.is_of(score_head(77, "", kLayers, kExperts + 1)));
  EXPECT_EQ(names(), std::vector<std::string>{"a.scores"});
}

TEST_F(ScoreFileTest, DamageIsRefusedByName) {
  write(1);
  const auto size = fs::file_size(path());
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    const uint64_t at = i < 96 ? static_cast<uint64_t>(i) : random() % size;
    const auto flip = [&] {
      std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
      char byte;
      file.seekg(static_cast<std::streamoff>(at)).get(byte);
      byte = static_cast<char>(byte ^ (1 << i % 8));
      file.seekp(static_cast<std::streamoff>(at)).put(byte);
    };
    flip();
    EXPECT_THAT(refusal(), HasSubstr("a.scores: ")) << "byte " << at;
    flip();
  }
  EXPECT_EQ(refusal(), "");
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{95}, uint64_t{96}, size / 2, size - 1}) {
    write(1);
    fs::resize_file(path(), bytes);
    EXPECT_THAT(refusal(), HasSubstr("a.scores: ")) << bytes << " bytes left";
  }
  write(1);
  fs::resize_file(path(), size + 1);
  EXPECT_THAT(refusal(), HasSubstr("a.scores: "));
  write(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(refusal(), HasSubstr("not finite"));
  write(-1);
  EXPECT_THAT(refusal(), HasSubstr("negative"));
  fs::remove(path());
  EXPECT_THAT(refusal(), HasSubstr("a.scores: cannot be opened"));
}

// A child saves 1, 2, 3, ... without a pause and says in shared memory what it has begun and what
// it has finished; it is killed after a random time. What is read then must be one of the two.
TEST_F(ScoreFileTest, AKillAtAnyMomentLeavesTheOldOrTheNew) {
  constexpr int kKills = 200;
  struct Progress {
    std::atomic<int> begun, finished;
  };
  auto* progress = static_cast<Progress*>(
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(progress), MAP_FAILED);
  std::mt19937_64 random(20261124);
  int old_ones = 0, in_between = 0;
  write(0);
  for (int kill_nr = 0; kill_nr < kKills; ++kill_nr) {
    const int before = progress->finished;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int i = before + 1;; ++i) {
        progress->begun = i;
        write(static_cast<float>(i));
        progress->finished = i;
      }
    }
    while (progress->begun == before) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    const SavedScores saved = read_scores(path());  // throws if it is neither
    const float found = saved.scores.front();
    EXPECT_EQ(saved.scores, std::vector<float>(kScores, found));
    EXPECT_GE(found, static_cast<float>(progress->finished));
    EXPECT_LE(found, static_cast<float>(progress->begun));
    if (progress->begun > progress->finished) ++in_between;
    if (found < static_cast<float>(progress->begun)) ++old_ones;
    progress->finished = progress->begun = static_cast<int>(found);
  }
  // Otherwise no kill has hit what this is about.
  EXPECT_GT(in_between, kKills / 2);
  EXPECT_GT(old_ones, kKills / 10);
  munmap(progress, sizeof(Progress));
}

TEST_F(ScoreFileTest, AFullDiskIsAnErrorAndTheOldFileStays) {
  write(5);
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old_action = signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  for (const rlim_t bytes : {rlim_t{0}, rlim_t{50}, rlim_t{96}, rlim_t{60000}}) {
    small.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &small);
    std::string message;
    try {
      write(6);
    } catch (const Error& error) {
      message = error.what();
    }
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_THAT(message, HasSubstr("a.scores: cannot be written")) << bytes;
    EXPECT_EQ(read_scores(path()).scores.front(), 5.0f) << bytes;
    EXPECT_EQ(names(), std::vector<std::string>{"a.scores"}) << bytes;
  }
  signal(SIGXFSZ, old_action);
  write(6);
  EXPECT_EQ(read_scores(path()).scores.front(), 6.0f);
}

TEST_F(ScoreFileTest, WhatIsNoRegularFileIsNotReplaced) {
  ASSERT_EQ(mkfifo(path().c_str(), 0600), 0);
  EXPECT_THROW(write(1), Error);
  EXPECT_TRUE(fs::is_fifo(path()));
  fs::remove(path());
  fs::create_directory(path());
  EXPECT_THROW(write(1), Error);
  EXPECT_EQ(names(), std::vector<std::string>{"a.scores"}) << "nothing was begun";
}

TEST_F(ScoreFileTest, ALinkStaysAndItsFileIsReplaced) {
  write(1);
  fs::rename(path(), folder_ / "b.scores");
  fs::create_symlink("b.scores", path());
  write(2);
  EXPECT_TRUE(fs::is_symlink(path()));
  EXPECT_EQ(read_scores(folder_ / "b.scores").scores.front(), 2.0f);
}

TEST_F(ScoreFileTest, TwoWritersAtOnceAreOneAndAnError) {
  // Held open by another: as in the middle of its writing.
  write(1);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    for (;;) {
      try {
        write(2);
      } catch (const Error&) {  // it is refused as often as the other is
      }
    }
  }
  int refused = 0, written = 0;
  for (int i = 0; i < 2000 && (refused == 0 || written == 0); ++i) {
    try {
      write(3);
      ++written;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("being written by another process"));
      ++refused;
    }
    EXPECT_EQ(refusal(), "");
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_GT(refused, 0);
  EXPECT_GT(written, 0);
}

}  // namespace
}  // namespace hotset::test
