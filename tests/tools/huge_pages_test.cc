#include "tools/huge_pages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sstream>

#include "kernels/memory.h"

namespace hotset {
namespace {

TEST(HugePagesTest, CountsOnlyMappingsThatAskedForThem) {
  std::istringstream smaps(
      "7f00-7f80 rw-p 00000000 00:00 0\n"
      "Rss:                6144 kB\nAnonHugePages:      4096 kB\nVmFlags: rd wr mr hg\n"
      "7f80-7f90 rw-p 00000000 00:00 0\n"
      "Rss:                2048 kB\nAnonHugePages:         0 kB\nVmFlags: rd wr hg nh\n"
      "7f90-7fa0 r-xp 00000000 08:01 77 /bin/hg\n"
      "Rss:                9000 kB\nAnonHugePages:         0 kB\nVmFlags: rd ex mr\n");
  EXPECT_EQ(huge_page_share(smaps), 0.5);
}

TEST(HugePagesTest, PagesSetAsideCount) {
  std::istringstream smaps(
      "7f00-7f80 rw-p 00000000 00:00 0\n"
      "Rss:                2048 kB\nAnonHugePages:         0 kB\nVmFlags: rd wr mr hg\n"
      "7f80-7f90 rw-p 00000000 00:0f 99 /anon_hugepage (deleted)\n"
      "Rss:                   0 kB\nAnonHugePages:         0 kB\n"
      "Private_Hugetlb:    6144 kB\nVmFlags: rd wr mr de ht\n");
  EXPECT_EQ(huge_page_share(smaps), 0.75);
}

TEST(HugePagesTest, SaysNothingWhereTheSystemDoesNot) {
  std::istringstream smaps("7f00-7f80 rw-p 00000000 00:00 0\nRss: 6144 kB\n");
  EXPECT_FALSE(huge_page_share(smaps).has_value());
}

TEST(HugePagesTest, SmallPagesDoNotCount) {
  const Memory small(4 << 20, "a test", Pages::kSmall);
  std::memset(small.data(), 1, 4 << 20);
  EXPECT_FALSE(huge_page_share().has_value());
}

}  // namespace
}  // namespace hotset
