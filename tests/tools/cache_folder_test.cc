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
  static std::string make_folder() {
    std::string name = fs::path(testing::TempDir()) / "runtimeXXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    return name;
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

// As su leaves it: what root made in there would keep that user's own engines out.
TEST_F(RuntimeFoldersTest, AFolderOfAnotherUserIsNone) {
  std::string foreign = "/";
  if (geteuid() == 0) {
    foreign = make_folder();
    if (chown(foreign.c_str(), 65534, 65534) != 0) {
      fs::remove(foreign);
      GTEST_SKIP() << "needs another user to give a folder to";
    }
  }
  name(foreign);
  EXPECT_EQ(runtime_folder(), shared_);
  EXPECT_THAT(runtime_folders(), ElementsAre(session_, shared_));
  if (foreign != "/") fs::remove(foreign);
}

TEST_F(RuntimeFoldersTest, APlaceOfOnesOwnIsTheOnlyOne) {
  const std::string own = make_folder();
  name(own);
  EXPECT_EQ(runtime_folder(), own + "/hotset");
  EXPECT_THAT(runtime_folders(), ElementsAre(own + "/hotset"));
  fs::remove(own);
}

}  // namespace
}  // namespace hotset
