// What `hotset run` keeps between runs, and what the user sees where it cannot.
#include <gtest/gtest.h>

#include "tests/tools/cli.h"
#include "tools/config.h"
#include "tools/score_keeper.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SavedScoresTest : public CliTest {
 protected:
  // With an own cache folder.
  Result run(const std::string& more = "", const std::string& before = "") const {
    return hotset("run -q -m " + kDemo + " -p 'What is 2+2?' --ram 20% " + more,
                  before + "XDG_CACHE_HOME=" + path("xdg"));
  }
  Result cache(const std::string& arguments) const {
    return hotset("cache " + arguments, "XDG_CACHE_HOME=" + path("xdg"));
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(path("xdg/hotset/scores"), error)) {
      names.push_back(entry.path());
    }
    return names;
  }
};

TEST_F(SavedScoresTest, ARunSavesAndTheNextBeginsWithThem) {
  EXPECT_EQ(run().out, "4\n");
  ASSERT_EQ(files().size(), 1u);
  const std::vector<float> first = read_scores(files()[0]).scores;
  EXPECT_EQ(run("-n 0").err, "");
  // Nothing was generated, but what was learned before is not forgotten.
  const std::vector<float> second = read_scores(files()[0]).scores;
  int64_t kept = 0, known = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    known += first[i] > 0;
    kept += first[i] > 0 && second[i] > 0;
  }
  EXPECT_GT(known, 0);
  EXPECT_EQ(kept, known);
}

TEST_F(SavedScoresTest, ATouchedOrMovedModelKeepsThem) {
  const auto learn = [&](const std::string& model) {
    const Result result =
        hotset("run -q -m " + model + " -p hello -n 2 --ram 20%", "XDG_CACHE_HOME=" + path("xdg"));
    EXPECT_EQ(result.exit_code, 0) << result.err;
  };
  fs::copy(kDemo, path("a.gguf"));
  learn(path("a.gguf"));
  fs::last_write_time(path("a.gguf"), fs::file_time_type::clock::now() + std::chrono::hours(1));
  learn(path("a.gguf"));
  fs::rename(path("a.gguf"), path("b.gguf"));
  learn(path("b.gguf"));
  EXPECT_EQ(files().size(), 1u);
  std::fstream(path("b.gguf"), std::ios::in | std::ios::out | std::ios::binary)
          .seekp(-1, std::ios::end)
      << 'x';
  learn(path("b.gguf"));
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(SavedScoresTest, AWorkloadHasAFileOfItsOwnAndMeasurementsHaveNone) {
  run("--workload code");
  ASSERT_EQ(files().size(), 1u);
  EXPECT_THAT(files()[0], testing::EndsWith(".code.scores"));
  EXPECT_EQ(run("--workload ../../x").exit_code, 2);
  run("--set scores.save=off");
  const Result eval =
      hotset("eval --json --ids 1,2,3 -m " + kDemo, "XDG_CACHE_HOME=" + path("xdg"));
  EXPECT_EQ(eval.exit_code, 0);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(SavedScoresTest, ADamagedFileIsSaidOnceAndReplaced) {
  run();
  ASSERT_EQ(files().size(), 1u);
  std::fstream(files()[0], std::ios::in | std::ios::out | std::ios::binary)
      .seekp(500)
      .write("x", 1);
  const Result result = run();
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "4\n");
  EXPECT_THAT(result.err, HasSubstr(".scores: found checksum"));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(run().err, "");
}

// A limit on the size of files makes the write fail, as a full disk would.
TEST_F(SavedScoresTest, AFullDiskIsAWordAndTheAnswerIsGivenAllTheSame) {
  run();
  const std::string before = content(files().at(0));
  const Result result = run("--set profiler.ring=0", "trap '' XFSZ; ulimit -f 1;");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "4\n");
  EXPECT_THAT(result.err, HasSubstr("cannot be written"));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(content(files().at(0)), before);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(SavedScoresTest, AFolderThatCannotBeMadeIsAWord) {
  std::ofstream(path("xdg")) << "a file";
  const Result result = run();
  EXPECT_EQ(result.out, "4\n");
  EXPECT_THAT(result.err, HasSubstr("are not saved"));
}

TEST_F(SavedScoresTest, CacheListsWithSizesAndAgesAndRemovesOnlyWhatItLists) {
  run();
  run("--workload code");
  std::ofstream(path("xdg/hotset/notes.txt")) << "mine";
  const json listed = json::parse(cache("ls --json").out);
  ASSERT_EQ(listed["files"].size(), 2u);
  for (const json& file : listed["files"]) {
    EXPECT_EQ(file["kind"], "scores");
    EXPECT_EQ(file["bytes"], fs::file_size(path("xdg/hotset/" + file["name"].get<std::string>())));
    EXPECT_LT(file["age_s"], 1000);
    EXPECT_GT(file["model"].get<std::string>().size(), 0u);
  }
  EXPECT_THAT(cache("ls").out, HasSubstr(".code.scores"));
  EXPECT_EQ(cache("rm").exit_code, 2);
  EXPECT_THAT(cache("rm notes.txt").err, HasSubstr("is not there"));
  EXPECT_EQ(cache("rm ../../err").exit_code, 1);
  EXPECT_EQ(cache("rm " + listed["files"][0]["name"].get<std::string>()).exit_code, 0);
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(cache("rm --all").exit_code, 0);
  EXPECT_EQ(files().size(), 0u);
  EXPECT_TRUE(fs::exists(path("xdg/hotset/notes.txt")));
}

}  // namespace
}  // namespace hotset
