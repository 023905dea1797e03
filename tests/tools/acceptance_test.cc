// Promises that are checked on the binary itself: residency never changes a byte of the logits, and
// bad files are refused, quickly, in little memory, by every command that reads them.
#include <sys/resource.h>

#include <chrono>

#include "kernels/cpu/kernel_table.h"
#include "tests/support/mentions.h"
#include "tests/tools/cli.h"

namespace hotset {
namespace {

class AcceptanceTest : public CliTest {
 protected:
  // Logits of a text of 200 ids with these options.
  std::string logits(const std::string& options) {
    std::string ids = "7";
    for (int i = 1; i < 200; ++i) ids += "," + std::to_string((i * 7919 + 13) % 2000);
    const std::string file = path("logits.npy");
    std::filesystem::remove(file);
    const Result result =
        hotset("eval --json -m " + kDemo + " --ids " + ids + " --logits " + file + " " + options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return content(file);
  }
};

TEST_F(AcceptanceTest, NoSettingThatOnlyMovesWorkChangesAByteOfTheLogits) {
  const std::string expected = logits("");
  ASSERT_GT(expected.size(), 200u * 2048 * 4);
  std::vector<std::string> settings = {
      "--ram 50%",   "--ram 10%",  "--ram 0",     "--threads 1",
      "--threads 3", "--chunk 64", "--chunk 512", "--ram 10% --threads 3 --chunk 64"};
  for (const char* isa : kKernelTableNames) {
    if (find_kernel_table(isa) == nullptr) {
      std::printf("not run, this machine lacks: %s\n", isa);
      continue;
    }
    settings.push_back(std::string("--set cpu.isa=") + isa);
    settings.push_back(std::string("--ram 10% --chunk 64 --set cpu.isa=") + isa);
  }
  for (const std::string& setting : settings) EXPECT_TRUE(logits(setting) == expected) << setting;
}

TEST_F(AcceptanceTest, BadFilesAreRefusedInTimeAndMemoryAndNeverAnsweredFrom) {
  const std::string folder = HOTSET_SOURCE_DIR "/tests/data/bad/";
  const json manifest = json::parse(content(folder + "manifest.json"));
  int tried = 0;
  for (const json& fault : manifest["cases"]) {
    const std::string file = folder + fault["path"].get<std::string>();
    ASSERT_TRUE(std::filesystem::exists(file)) << file;
    ++tried;
    SCOPED_TRACE(fault.dump());
    const auto start = std::chrono::steady_clock::now();
    const Result inspected = hotset("inspect --verify " + file);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_TRUE(inspected.exit_code >= 1 && inspected.exit_code <= 9) << inspected.exit_code;
    EXPECT_LT(seconds.count(), 5.0);
    for (const json& wanted : fault["mention"]) {
      EXPECT_TRUE(mentions(inspected.err, wanted)) << wanted << " is not in: " << inspected.err;
    }
    const Result answered = hotset("run -n 4 -p hello --raw -m " + file);
    EXPECT_TRUE(answered.exit_code >= 1 && answered.exit_code <= 9) << answered.exit_code;
    EXPECT_EQ(answered.out, "");
  }
  EXPECT_EQ(tried, 114);
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  EXPECT_LT(usage.ru_maxrss, 1 << 20) << "KiB, the largest of all commands run so far";
}

TEST_F(AcceptanceTest, SoundFilesOfTheSameKindAreAccepted) {
  const std::string folder = HOTSET_SOURCE_DIR "/tests/data/bad/good/";
  for (const char* name :
       {"model.gguf", "hf", "hf_awq", "hf_bnb", "hf_ct", "hf_fp8", "hf_gptq"}) {
    EXPECT_EQ(hotset("inspect --verify " + folder + name).exit_code, 0) << name;
    EXPECT_EQ(hotset("run -n 2 -p hello --raw -m " + folder + name).exit_code, 0) << name;
  }
}

}  // namespace
}  // namespace hotset
