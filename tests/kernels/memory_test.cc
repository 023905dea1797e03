#include "kernels/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

namespace hotset {
namespace {

int64_t pages_in_memory(const Memory& memory) {
  std::vector<unsigned char> pages(static_cast<size_t>(memory.bytes() / 4096));
  EXPECT_EQ(mincore(memory.data(), static_cast<size_t>(memory.bytes()), pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; });
}

TEST(MemoryTest, WhatIsTouchedIsCommittedAndZero) {
  for (const Pages pages : {Pages::kHuge, Pages::kSmall}) {
    const Memory memory(5 << 20, "a test", pages);
    EXPECT_EQ(pages_in_memory(memory), 0);
    memory.touch();
    EXPECT_EQ(pages_in_memory(memory), memory.bytes() / 4096);
    EXPECT_TRUE(std::all_of(memory.data(), memory.data() + memory.bytes(),
                            [](std::byte b) { return b == std::byte{}; }));
  }
}

}  // namespace
}  // namespace hotset
