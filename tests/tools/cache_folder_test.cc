#include "tools/cache_folder.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace hotset {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

class RuntimeFoldersTest : public testing::Test {
 protected:
  // A test is a process of its own: what it does to the environment is nobody else's.
  static void name(const std::string& folder) {
    ASSERT_EQ(setenv("XDG_RUNTIME_DIR", folder.c_str(), 1), 0);
  }
  const std::string session_ = "/run/user/" + std::to_string(geteuid()) + "/hotset",
                    shared_ = "/dev/shm/hotset-" + std::to_string(geteuid());
};

TEST_F(RuntimeFoldersTest, WithoutASessionTheSessionsFolderIsLookedIntoAsWell) {
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(runtime_folder(), shared_);
  EXPECT_THAT(runtime_folders(), ElementsAre(session_, shared_));
  name("/run/user/of a session that has ended");
  EXPECT_EQ(runtime_folder(), shared_);
  EXPECT_THAT(runtime_folders(), ElementsAre(session_, shared_));
}

TEST_F(RuntimeFoldersTest, APlaceOfOnesOwnIsTheOnlyOne) {
  name(testing::TempDir());
  EXPECT_THAT(runtime_folders(), ElementsAre(runtime_folder()));
  EXPECT_EQ(runtime_folder(), testing::TempDir() + "/hotset");
}

}  // namespace
}  // namespace hotset
