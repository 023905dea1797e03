// Where sidecars are looked for and written, and the command that writes them.
#include "tools/sidecars.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <csignal>

#include "kernels/check.h"
#include "tests/tools/cli.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const SidecarLimits kAnySize = {.least_model_bytes = 0, .free_part = 0};

class SidecarsTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    fs::copy(kDemo, path("model.gguf"));
  }
  void TearDown() override { fs::remove_all(folder_); }
  ModelDescription model() const { return open_model(path("model.gguf")); }
  std::string beside() const { return path("model.hotset"); }
  std::string elsewhere() const { return path("cache/x.hotset"); }
  // With an own cache folder.
  Result with_cache(const std::string& arguments) const {
    return hotset(arguments, "XDG_CACHE_HOME=" + path("xdg"));
  }
  void damage(const std::string& file, int64_t from_end) const {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(-from_end, std::ios::end).write("damage", 6);
  }
  // What the model's folder holds, of what a writer makes.
  std::vector<std::string> left_over() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename();
      if (name.find("hotset") != std::string::npos) names.push_back(name);
    }
    return names;
  }
};

TEST_F(SidecarsTest, PackWritesBesideTheModelByDefault) {
  const json out = hotset_json("pack --json " + path("model.gguf"));
  EXPECT_EQ(out["output"], beside());
  EXPECT_EQ(out["file_bytes"], fs::file_size(beside()));
  EXPECT_NE(find_sidecar(model(), {beside()}).found, nullptr);
  EXPECT_EQ(left_over(), std::vector<std::string>{"model.hotset"});

  fs::copy(HOTSET_SOURCE_DIR "/tests/data/models/qwen3_next-b", path("folder"));
  EXPECT_EQ(hotset("pack " + path("folder")).exit_code, 0);
  EXPECT_TRUE(fs::exists(path("folder/model.hotset")));
  EXPECT_EQ(hotset("pack " + path("model.gguf") + " -o " + path("other.hotset")).exit_code, 0);
  EXPECT_TRUE(fs::exists(path("other.hotset")));
}

TEST_F(SidecarsTest, NothingIsWrittenOverTheModel) {
  fs::create_symlink("model.gguf", path("link"));
  const std::string from = path("model.gguf");
  for (const std::string& to : {from, path("link")}) {
    for (const std::string& command : {"pack " + from + " -o ", "quantize " + from + " -o ",
                                       "run -p Hello -n 1 -m " + from + " --trace "}) {
      const Result result = hotset(command + to);
      EXPECT_EQ(result.exit_code, 1) << command << to;
      EXPECT_THAT(result.err, HasSubstr("is the model itself")) << command << to;
    }
  }
  EXPECT_NO_THROW(model());
}

TEST_F(SidecarsTest, TheOneBesideTheModelComesBeforeTheCachesAndEitherIsUsed) {
  EXPECT_EQ(hotset_json("inspect --json " + path("model.gguf"))["sidecar"], nullptr);
  const std::string name = fmt::format("{:016x}.hotset", fingerprint_of(model()));
  const std::string cached = path("xdg/hotset/" + name);
  fs::create_directories(path("xdg/hotset"));
  ASSERT_EQ(hotset("pack " + path("model.gguf") + " -o " + cached).exit_code, 0);
  const auto found = [&] {
    return json::parse(with_cache("inspect --json " + path("model.gguf")).out)["sidecar"];
  };
  EXPECT_EQ(found(), cached);
  ASSERT_EQ(hotset("pack " + path("model.gguf")).exit_code, 0);
  EXPECT_EQ(found(), beside());
  EXPECT_THAT(with_cache("inspect " + path("model.gguf")).out,
              HasSubstr("sidecar      " + beside()));
}

TEST_F(SidecarsTest, AnswersAreTheSameWithOneAndWithoutLookingAtIt) {
  ASSERT_EQ(hotset("pack " + path("model.gguf")).exit_code, 0);
  const std::string eval = "eval --json --ids 1,2,3,4 -m " + path("model.gguf") + " --logits ";
  EXPECT_EQ(hotset(eval + path("with.npy")).err, "");
  EXPECT_EQ(hotset(eval + path("without.npy") + " --set pack.sidecar=off").exit_code, 0);
  EXPECT_EQ(content(path("with.npy")), content(path("without.npy")));
  // off: not even opened.
  damage(beside(), 20000);
  EXPECT_EQ(hotset(eval + path("without.npy") + " --set pack.sidecar=off").err, "");
}

TEST_F(SidecarsTest, ADamagedOneIsSaidOnceRemovedAndMadeAnew) {
  ASSERT_EQ(hotset("pack " + path("model.gguf")).exit_code, 0);
  damage(beside(), 5000);
  const Result result = hotset("eval --json --ids 1,2,3,4 -m " + path("model.gguf"));
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("model.hotset: expert "));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_FALSE(fs::exists(beside()));
  EXPECT_NE(find_or_write_sidecar(model(), {beside()}, kAnySize), nullptr);
  EXPECT_TRUE(fs::exists(beside()));
}

TEST_F(SidecarsTest, AStaleOneIsMadeAnew) {
  write_sidecar(model(), beside(), [](int64_t, int64_t) {});
  damage(path("model.gguf"), 6);
  const SidecarSearch search = find_sidecar(model(), {beside()});
  EXPECT_EQ(search.found, nullptr);
  ASSERT_EQ(search.refused.size(), 1u);
  EXPECT_THAT(search.refused[0], HasSubstr("fingerprint"));
  EXPECT_THAT(hotset("inspect " + path("model.gguf")).out, HasSubstr("unusable     " + beside()));
  EXPECT_NE(find_or_write_sidecar(model(), {beside()}, kAnySize), nullptr);
  EXPECT_NE(find_sidecar(model(), {beside()}).found, nullptr);
}

TEST_F(SidecarsTest, ASmallModelGetsNoneByItself) {
  EXPECT_EQ(find_or_write_sidecar(model(), {beside()}, {}), nullptr);
  EXPECT_EQ(with_cache("eval --json --ids 1,2 -m " + path("model.gguf")).err, "");
  EXPECT_EQ(left_over(), std::vector<std::string>{});
  EXPECT_FALSE(fs::exists(path("xdg")));
}

TEST_F(SidecarsTest, WithoutRoomOrAWritableFolderTheNextPlaceIsTakenAndElseNone) {
  SidecarLimits no_room = kAnySize;
  no_room.free_part = 1.0;
  EXPECT_EQ(find_or_write_sidecar(model(), {beside(), elsewhere()}, no_room), nullptr);
  EXPECT_EQ(left_over(), std::vector<std::string>{});

  // A folder that cannot be made, since a file has its name; then one that can.
  const std::string impossible = path("model.gguf/model.hotset");
  EXPECT_EQ(find_or_write_sidecar(model(), {impossible}, kAnySize), nullptr);
  const auto sidecar = find_or_write_sidecar(model(), {impossible, elsewhere()}, kAnySize);
  ASSERT_NE(sidecar, nullptr);
  EXPECT_EQ(sidecar->path(), elsewhere());
}

// A limit on the size of files kills the writer with a signal in the middle of the experts, as a
// power cut would; ignored, it makes the write fail, as a full disk would.
TEST_F(SidecarsTest, AKilledWriterLeavesNothingThatIsTakenForOne) {
  const std::string pack = "pack " + path("model.gguf");
  const Result killed = hotset(pack, "ulimit -c 0; ulimit -f 12000;");
  EXPECT_NE(killed.exit_code, 0);
  EXPECT_EQ(left_over(), std::vector<std::string>{"model.hotset.part"});
  EXPECT_EQ(find_sidecar(model(), {beside()}).found, nullptr);
  const Result second = hotset(pack + " --json");
  EXPECT_EQ(second.exit_code, 0);
  EXPECT_GT(nlohmann::json::parse(second.out)["experts_kept"], 0);
  EXPECT_EQ(left_over(), std::vector<std::string>{"model.hotset"});
  const std::string continued = content(beside());
  EXPECT_EQ(hotset(pack).exit_code, 0);
  EXPECT_TRUE(content(beside()) == continued);
}

// One that is written on the way to something else: the model is packed from its own file then.
TEST_F(SidecarsTest, AFullDiskIsAWordAndTheModelIsOpenedAllTheSame) {
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old_action = signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 6 << 20;
  setrlimit(RLIMIT_FSIZE, &small);
  testing::internal::CaptureStderr();
  const auto sidecar = find_or_write_sidecar(model(), {beside(), elsewhere()}, kAnySize);
  const std::string said = testing::internal::GetCapturedStderr();
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_action);
  EXPECT_EQ(sidecar, nullptr);
  EXPECT_THAT(said, HasSubstr("model.hotset: cannot be written: "));
  EXPECT_THAT(said, HasSubstr("x.hotset: cannot be written: "));
  EXPECT_THAT(said, HasSubstr("no sidecar, so the model is packed at each start"));
  EXPECT_EQ(left_over(), std::vector<std::string>{});
  EXPECT_TRUE(fs::is_empty(path("cache")));
}

TEST_F(SidecarsTest, AFailedWriteIsSaidAndLeavesNothing) {
  const Result failed = hotset("pack " + path("model.gguf"), "trap '' XFSZ; ulimit -f 12000;");
  EXPECT_EQ(failed.exit_code, 1);
  EXPECT_THAT(failed.err, HasSubstr("model.hotset: cannot be written: "));
  EXPECT_EQ(left_over(), std::vector<std::string>{});
}

}  // namespace
}  // namespace hotset
