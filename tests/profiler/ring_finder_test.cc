#include "profiler/ring_finder.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class RingFinderTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(mkdir(folder.path().c_str(), 0700), 0); }
  std::string file(const std::string& name) const { return folder.path() + "/" + name; }
  void put(const std::string& name) const { std::ofstream(file(name)) << "ring"; }
  std::vector<std::string> found() {
    finder.look();
    return finder.rings();
  }

  RingFolder folder;
  RingFinder finder{folder.path()};
};

// Looked for again and again: what comes in the same step of the kernel's stamps as a look is found
// all the same. (Kernels from 6.13 on take a finer stamp where somebody has looked.)
TEST_F(RingFinderTest, NothingComesOrGoesUnseen) {
  EXPECT_THAT(found(), IsEmpty());
  for (int n = 0; n < 2000; ++n) {
    put("1-0.ring");
    ASSERT_THAT(found(), ElementsAre(file("1-0.ring"))) << n;
    std::filesystem::remove(file("1-0.ring"));
    ASSERT_THAT(found(), IsEmpty()) << n;
  }
}

// Once the folder's stamp is relied on.
TEST_F(RingFinderTest, ASettledFolderThatChangesIsLookedAtAgain) {
  put("1-0.ring");
  put("notes.txt");
  std::this_thread::sleep_for(std::chrono::milliseconds(2050));
  EXPECT_THAT(found(), ElementsAre(file("1-0.ring")));
  put("1-1.ring");
  EXPECT_THAT(found(), ElementsAre(file("1-0.ring"), file("1-1.ring")));
  std::filesystem::remove(file("1-1.ring"));
  EXPECT_THAT(found(), ElementsAre(file("1-0.ring")));
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  EXPECT_THAT(found(), IsEmpty());
  ASSERT_EQ(chmod(folder.path().c_str(), 0700), 0);
  EXPECT_THAT(found(), ElementsAre(file("1-0.ring")));
  const std::string aside = folder.path() + "_aside";
  std::filesystem::rename(folder.path(), aside);
  EXPECT_THAT(found(), IsEmpty());
  std::filesystem::rename(aside, folder.path());
  EXPECT_THAT(found(), ElementsAre(file("1-0.ring")));
}

}  // namespace
}  // namespace hotset::test
