// What limits memory, from trees as the kernel shows them: bare machines, containers of both
// versions of control groups, and nonsense.
#include "tools/memory_room.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace hotset {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = 1 << 20;

class MemoryRoomTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(testing::TempDir()) / (std::string("room_") + test->name());
    fs::remove_all(root_);
    write("/proc/meminfo",
          "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:  8388608 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root_.string() + path).parent_path());
    std::ofstream(root_.string() + path) << text;
  }
  void mount_v1(const std::string& group, const std::string& seen = "/") const {
    write("/proc/self/cgroup", "5:cpu:/x\n4:memory:" + group + "\n0::/\n");
    write("/proc/self/mountinfo",
          "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
          "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
          "35 31 0:32 " +
              seen + " /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n");
  }
  void mount_v2(const std::string& group, const std::string& seen = "/") const {
    write("/proc/self/cgroup", "0::" + group + "\n");
    write("/proc/self/mountinfo",
          "41 31 0:38 " + seen + " /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n");
  }
  void v1_group(const std::string& folder, const std::string& limit, int64_t usage,
                int64_t cache = 0) const {
    const std::string at = "/sys/fs/cgroup/memory" + folder;
    write(at + "/memory.limit_in_bytes", limit + "\n");
    write(at + "/memory.usage_in_bytes", std::to_string(usage) + "\n");
    write(at + "/memory.stat",
          "cache 7\ntotal_inactive_file " + std::to_string(cache) + "\ntotal_active_file 0\n");
  }
  void v2_group(const std::string& folder, const std::string& limit, int64_t usage,
                const std::string& high = "max") const {
    const std::string at = "/sys/fs/cgroup" + folder;
    write(at + "/memory.max", limit + "\n");
    write(at + "/memory.high", high + "\n");
    write(at + "/memory.current", std::to_string(usage) + "\n");
    write(at + "/memory.stat", "anon 5\ninactive_file 0\nactive_file 0\n");
  }
  MemoryRoom room() const { return memory_room(root_).value_or(MemoryRoom{-1, -1, "nothing"}); }

  fs::path root_;
};

TEST_F(MemoryRoomTest, ABareMachineHasWhatIsAvailable) {
  EXPECT_EQ(room().bytes, 8192 * kMiB);
  EXPECT_EQ(room().limit_bytes, 16384 * kMiB);
  EXPECT_EQ(room().whose, "this machine");
}

TEST_F(MemoryRoomTest, WhatTheProcessHoldsAlreadyIsItsRoomToo) {
  write("/proc/self/status", "Name: hotset\nRssAnon:\t  1048576 kB\n");
  EXPECT_EQ(room().bytes, 9216 * kMiB);
  write("/proc/self/status", "Name: hotset\nRssAnon:\t  1048576 kB\nHugetlbPages:\t  524288 kB\n");
  EXPECT_EQ(room().bytes, 9728 * kMiB);
}

TEST_F(MemoryRoomTest, AContainerOfVersion1IsLimitedByItsGroup) {
  mount_v1("/docker/ab", "/docker/ab");
  v1_group("", std::to_string(4096 * kMiB), 1024 * kMiB);
  EXPECT_EQ(room().bytes, 3072 * kMiB);
  EXPECT_EQ(room().limit_bytes, 4096 * kMiB);
  EXPECT_EQ(room().whose, "control group /docker/ab");
}

TEST_F(MemoryRoomTest, PageCacheIsNotHeld) {
  mount_v1("/a");
  v1_group("/a", std::to_string(4096 * kMiB), 4096 * kMiB, 3000 * kMiB);
  EXPECT_EQ(room().bytes, 3000 * kMiB);
}

TEST_F(MemoryRoomTest, TheAncestorThatLeavesLeastIsTheLimitInBothVersions) {
  mount_v1("/a/b/c");
  v1_group("/a/b/c", "9223372036854771712", kMiB);  // none
  v1_group("/a/b", std::to_string(2048 * kMiB), 100 * kMiB);
  v1_group("/a", std::to_string(4096 * kMiB), 3000 * kMiB);  // siblings hold most of it
  v1_group("", "9223372036854771712", 9000 * kMiB);
  EXPECT_EQ(room().bytes, 1096 * kMiB);
  EXPECT_EQ(room().whose, "control group /a");

  mount_v2("/a/b/c");
  v2_group("/a/b/c", "max", kMiB);
  v2_group("/a/b", std::to_string(2048 * kMiB), 100 * kMiB);
  v2_group("/a", "max", 3000 * kMiB);
  EXPECT_EQ(room().bytes, 1948 * kMiB);
  EXPECT_EQ(room().whose, "control group /a/b");
}

TEST_F(MemoryRoomTest, AHiddenAncestorOfVersion1ShowsInTheStatistics) {
  mount_v1("/pod/c", "/pod/c");
  v1_group("", "9223372036854771712", 10 * kMiB);
  write("/sys/fs/cgroup/memory/memory.stat",
        "hierarchical_memory_limit " + std::to_string(1000 * kMiB) + "\n");
  EXPECT_EQ(room().bytes, 990 * kMiB);
}

TEST_F(MemoryRoomTest, AContainerOfVersion2SeesItsGroupAsTheRoot) {
  for (const std::string group : {"/", "/../../elsewhere"}) {
    mount_v2(group);
    v2_group("", std::to_string(512 * kMiB), 12 * kMiB);
    EXPECT_EQ(room().bytes, 500 * kMiB) << group;
    EXPECT_EQ(room().whose, "control group /") << group;
  }
}

TEST_F(MemoryRoomTest, TheSofterLimitOfVersion2Counts) {
  mount_v2("/a");
  v2_group("/a", std::to_string(4096 * kMiB), 0, std::to_string(3000 * kMiB));
  EXPECT_EQ(room().bytes, 3000 * kMiB);
}

TEST_F(MemoryRoomTest, AGroupThatIsNotMountedUnderItsNameIsNotTakenForAnother) {
  mount_v1("/docker/ab", "/docker/a");
  v1_group("b", "1", 0);  // where a careless reader would look
  v1_group("", std::to_string(700 * kMiB), 0);
  EXPECT_EQ(room().bytes, 700 * kMiB);
}

TEST_F(MemoryRoomTest, AnOverfullGroupHasNoRoomAndNotLess) {
  mount_v2("/a");
  v2_group("/a", std::to_string(100 * kMiB), 200 * kMiB);
  EXPECT_EQ(room().bytes, 0);
}

TEST_F(MemoryRoomTest, NonsenseLimitsNothing) {
  mount_v2("/a");
  const auto huge = "99999999999999999999999999999";
  for (const std::string text : {"", "max", "lots", "-5", huge, "\n\n"}) {
    for (const char* file : {"memory.max", "memory.current", "memory.high"}) {
      v2_group("/a", "max", 0);
      write(std::string("/sys/fs/cgroup/a/") + file, text);
      EXPECT_EQ(room().bytes, 8192 * kMiB) << file << " of \"" << text << "\"";
    }
  }
  for (const char* file : {"/proc/self/cgroup", "/proc/self/mountinfo", "/proc/self/status"}) {
    write(file, ":::\n - \n1 2 3\nRssAnon:\nRssAnon: x\n - cgroup2\n");
    EXPECT_EQ(room().bytes, 8192 * kMiB) << file;
  }
  write("/proc/meminfo", "MemTotal: x kB\nMemAvailable:\n");
  EXPECT_FALSE(memory_room(root_));
}

TEST_F(MemoryRoomTest, ThisMachineHasSome) {
  const auto here = memory_room();
  ASSERT_TRUE(here);
  EXPECT_GT(here->bytes, 64 * kMiB);
  EXPECT_LE(here->bytes, here->limit_bytes);
}

TEST_F(MemoryRoomTest, PressureIsTheOwnGroupsElseTheMachines) {
  EXPECT_FALSE(memory_pressure(root_));
  write("/proc/pressure/memory",
        "some avg10=99.00 avg60=99.00 avg300=0.00 total=0\n"
        "full avg10=12.50 avg60=3.25 avg300=0.00 total=77\n");
  EXPECT_EQ(memory_pressure(root_)->avg10, 12.5);
  EXPECT_EQ(memory_pressure(root_)->avg60, 3.25);
  mount_v2("/a");
  write("/sys/fs/cgroup/a/memory.pressure", "full avg10=1.00 avg60=2.00 avg300=0.00 total=0\n");
  EXPECT_EQ(memory_pressure(root_)->avg60, 2.0);
  write("/sys/fs/cgroup/a/memory.pressure", "full avg10=x avg60=-1\nfull\n");
  EXPECT_EQ(memory_pressure(root_)->avg10, 12.5);
}

}  // namespace
}  // namespace hotset
