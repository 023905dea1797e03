// What Nsight Systems would see of a run, through the injection library of tests/nvtx.
#include <fcntl.h>

#include <map>
#include <set>
#include <sstream>

#include "tests/tools/cli.h"

namespace hotset {
namespace {

class NvtxTest : public CliTest {};

TEST_F(NvtxTest, RangesHaveTheirNamesAndNestAndBalance) {
#ifndef HOTSET_NVTX_INJECTION
  GTEST_SKIP() << "needs the NVTX headers of the CUDA toolkit";
#else
  const Result result =
      hotset("run -m " + kDemo + " -p 'What is 2+2?' -n 8 --ram 20% --threads 2 --json 9> " +
                 path("ranges"),
             "XDG_RUNTIME_DIR=" + path("") + " NVTX_INJECTION64_PATH=" HOTSET_NVTX_INJECTION);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json run = json::parse(result.out);
  // The last token is fed only where the model then stops.
  const int decoded = run["generated_tokens"].get<int>() - (run["finish_reason"] == "stop" ? 0 : 1);

  std::map<int, std::vector<std::string>> open;  // by thread
  std::map<std::string, int> count;
  std::set<std::string> under_token;
  std::istringstream lines(content(path("ranges")));
  for (std::string line; std::getline(lines, line);) {
    int thread = 0, layer = 0;
    unsigned step = 0, kib = 0;
    if (std::sscanf(line.c_str(), "pop %d", &thread) == 1) {
      ASSERT_FALSE(open[thread].empty());
      open[thread].pop_back();
      continue;
    }
    ASSERT_EQ(std::sscanf(line.c_str(), "push %d hotset layer %d step %u KiB %u:", &thread, &layer,
                          &step, &kib),
              4)
        << line;
    const std::string name = line.substr(line.find(": ") + 2);
    if (open[thread].empty()) {
      // The top of a thread is a step, or a read of a thread that reads.
      EXPECT_TRUE(name == "token" || name == "prompt" || name == "read") << line;
      EXPECT_GT(step, 0U);
    } else if (open[thread].front() == "token") {
      under_token.insert(name);
    }
    if (name == "read") {
      EXPECT_GT(kib, 0U);
      EXPECT_GE(layer, 0);
    }
    if (name == "mixer") {
      EXPECT_GE(layer, 0);
    }
    open[thread].push_back(name);
    ++count[name];
  }
  for (const auto& [thread, names] : open) EXPECT_TRUE(names.empty()) << thread;
  EXPECT_EQ(count["token"], decoded);
  EXPECT_EQ(count["prompt"], 1);
  EXPECT_EQ(count["router"], count["experts"]);
  for (const char* name : {"mixer", "router", "experts", "combine", "head", "read wait"}) {
    EXPECT_TRUE(under_token.contains(name)) << name;
  }
#endif
}

}  // namespace
}  // namespace hotset
