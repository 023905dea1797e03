#include "profiler/json_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>

#include "kernels/check.h"
#include "tests/profiler/exported.h"
#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

class JsonLogTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directory(folder.path()); }
  std::string path() const { return folder.path() + "/log.jsonl"; }
  static void append(JsonLog& log, int begin, int end) {
    for (int i = begin; i < end; ++i) log.append("{\"i\":" + std::to_string(i) + "}");
  }
  RingFolder folder;
};

TEST_F(JsonLogTest, ItStaysWithinItsBoundAndLosesNoWholeLine) {
  {
    JsonLog log(path(), 4000);
    append(log, 0, 500);
    EXPECT_EQ(log.lost(), 0U);
    EXPECT_THROW(JsonLog(path(), 4000), Error);  // another daemon
  }
  EXPECT_LE(std::filesystem::file_size(path()) + std::filesystem::file_size(path() + ".1"), 4000U);
  EXPECT_EQ(lines_of(path()).back()["i"], 499);
  EXPECT_EQ(lines_of(path() + ".1").back()["i"].get<int>() + 1, lines_of(path()).front()["i"]);
  struct stat status {};
  ASSERT_EQ(stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
}

// Root may write everywhere: a folder in the second file's place stands for one that may not.
TEST_F(JsonLogTest, WhereItCannotBeRenamedItBeginsAnew) {
  std::filesystem::create_directories(path() + ".1/full");
  JsonLog log(path(), 4000);
  append(log, 0, 500);
  EXPECT_LE(std::filesystem::file_size(path()), 2000U);
  EXPECT_EQ(lines_of(path()).back()["i"], 499);
  EXPECT_EQ(log.lost(), 0U);
}

TEST_F(JsonLogTest, ALineThatIsLongerThanTheBoundIsLostAlone) {
  JsonLog log(path(), 4000);
  append(log, 0, 3);
  log.append(std::string(2001, 'x'));
  append(log, 3, 4);
  EXPECT_EQ(log.lost(), 1U);
  EXPECT_EQ(lines_of(path()).size(), 4U);
}

TEST_F(JsonLogTest, WhatAKilledDaemonLeftHalfWrittenSpoilsNoOtherLine) {
  std::ofstream(path()) << "{\"i\":0}\n{\"i\":";
  {
    JsonLog log(path(), 4000);
    append(log, 1, 3);
  }
  {
    JsonLog log(path(), 4000);
    append(log, 3, 4);
  }
  std::ifstream file(path());
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(text, "{\"i\":0}\n{\"i\":\n{\"i\":1}\n{\"i\":2}\n{\"i\":3}\n");
}

// A limit on the size of files makes a write stop halfway, as a disk that fills up does.
TEST_F(JsonLogTest, ADiskThatFillsUpCostsTheLinesThatDoNotFit) {
  JsonLog log(path(), 1 << 20);
  append(log, 0, 2);
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit tight = {20, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  append(log, 2, 5);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, before);
  EXPECT_EQ(log.lost(), 3U);
  append(log, 5, 6);
  std::ifstream file(path());
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(text, "{\"i\":0}\n{\"i\":1}\n{\"i\"\n{\"i\":5}\n");
}

}  // namespace
}  // namespace hotset::test
