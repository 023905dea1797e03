#include "kernels/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace hotset {
namespace {

int64_t pages_in_memory(const Memory& memory) {
  std::vector<unsigned char> pages(static_cast<size_t>(memory.bytes() / 4096));
  EXPECT_EQ(mincore(memory.data(), static_cast<size_t>(memory.bytes()), pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; });
}

int64_t huge_pages_set_aside() {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  int64_t pages = 0;
  file >> pages;
  return pages;
}

// By this process alone: others take from what is set aside, too.
int64_t huge_pages_taken() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("HugetlbPages:")) return std::stoll(line.substr(13)) / 2048;
  }
  return 0;
}

TEST(MemoryTest, WhatIsTouchedIsCommittedAndZero) {
  for (const Pages pages : {Pages::kHuge, Pages::kSmall}) {
    const Memory memory(5 << 20, "a test", pages);
    // Pages set aside come at once.
    EXPECT_EQ(pages_in_memory(memory), huge_pages_taken() > 0 ? memory.bytes() / 4096 : 0);
    memory.touch();
    EXPECT_EQ(pages_in_memory(memory), memory.bytes() / 4096);
    EXPECT_TRUE(std::all_of(memory.data(), memory.data() + memory.bytes(),
                            [](std::byte b) { return b == std::byte{}; }));
  }
}

bool is_all(const Memory& memory, int64_t begin, int64_t end, int value) {
  return std::all_of(memory.data() + begin, memory.data() + end,
                     [&](std::byte b) { return b == std::byte(value); });
}

TEST(MemoryTest, PagesSetAsideAreTakenForAllOfItAndGivenBack) {
  if (huge_pages_set_aside() < 32) GTEST_SKIP() << "no huge pages are set aside: vm.nr_hugepages";
  constexpr int64_t kPage = 2 << 20;
  const int64_t before = huge_pages_taken();
  {
    Memory memory = Memory::reserve(16 * kPage, "a test");
    EXPECT_EQ(huge_pages_taken(), before);
    memory.commit(8 * kPage, "a test");
    EXPECT_EQ(huge_pages_taken(), before + 8);
    std::memset(memory.data(), 1, 8 * kPage);
    memory.commit(3 * kPage, "a test");
    EXPECT_EQ(huge_pages_taken(), before + 3);
    memory.commit(16 * kPage, "a test");
    EXPECT_EQ(huge_pages_taken(), before + 16);
    EXPECT_TRUE(is_all(memory, 0, 3 * kPage, 1));
    EXPECT_TRUE(is_all(memory, 3 * kPage, 16 * kPage, 0));
  }
  EXPECT_EQ(huge_pages_taken(), before);
  const Memory small(4 * kPage, "a test", Pages::kSmall);
  small.touch();
  EXPECT_EQ(huge_pages_taken(), before);
  const Memory memory(2 * kPage, "a test");
  EXPECT_EQ(huge_pages_taken(), before + 2);
  // One page more than there are: ordinary memory.
  const Memory large((huge_pages_set_aside() + 1) * kPage, "a test");
  large.touch();
  EXPECT_EQ(huge_pages_taken(), before + 2);
}

// Whatever the pages: what was given back is zero when it comes again, what stayed is as it was.
TEST(MemoryTest, WhatIsGivenBackComesAgainAsZero) {
  constexpr int64_t kPage = 2 << 20;
  Memory memory = Memory::reserve(4 * kPage, "a test");
  memory.commit(4 * kPage, "a test");
  std::memset(memory.data(), 1, 4 * kPage);
  memory.commit(kPage, "a test");
  EXPECT_EQ(pages_in_memory(memory), kPage / 4096);
  memory.commit(3 * kPage, "a test");
  EXPECT_TRUE(is_all(memory, 0, kPage, 1));
  EXPECT_TRUE(is_all(memory, kPage, 3 * kPage, 0));
}

}  // namespace
}  // namespace hotset
