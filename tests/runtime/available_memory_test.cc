// Limits of control groups of both versions count, page cache does not.
#include "runtime/host/available_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace hotset::test {
namespace {

namespace fs = std::filesystem;

class AvailableMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ =
        fs::path(testing::TempDir()) /
        (std::string("machine_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(root_);
    write("proc/meminfo", "MemTotal: 24000000 kB\nMemAvailable: 20000000 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  int64_t available() const { return available_memory(root_); }
  fs::path root_;
};

constexpr int64_t kMachine = 20000000LL * 1024;

TEST_F(AvailableMemoryTest, WithoutGroupsItIsTheMachines) {
  EXPECT_EQ(available(), kMachine);
}

TEST_F(AvailableMemoryTest, AVersion1LimitCountsAndPageCacheDoesNot) {
  write("proc/self/cgroup", "9:name=systemd:/x\n4:memory:/box\n");
  write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "5000000000\n");
  write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "3000000000\n");
  write("sys/fs/cgroup/memory/box/memory.stat", "cache 1\ntotal_cache 2500000000\n");
  EXPECT_EQ(available(), 4500000000);
}

TEST_F(AvailableMemoryTest, AVersion2LimitOfAnyGroupAboveCounts) {
  write("proc/self/cgroup", "0::/outer/inner\n");
  write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  write("sys/fs/cgroup/outer/memory.max", "6000000000\n");
  write("sys/fs/cgroup/outer/memory.current", "1000000000\n");
  write("sys/fs/cgroup/outer/memory.stat", "anon 1\nfile 500000000\n");
  EXPECT_EQ(available(), 5500000000);
}

TEST_F(AvailableMemoryTest, InAContainerTheRootIsTheGroup) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "700\n");
  write("sys/fs/cgroup/memory.current", "900\n");
  EXPECT_EQ(available(), 0);
}

TEST_F(AvailableMemoryTest, NoLimitIsNone) {
  write("proc/self/cgroup", "4:memory:/box\n0::/\n");
  write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1\n");
  EXPECT_EQ(available(), kMachine);
}

}  // namespace
}  // namespace hotset::test
