// What Nsight Systems would see of a run, through the injection library of tests/nvtx.
#include <fcntl.h>

#include <map>
#include <set>
#include <sstream>

#include "tests/support/on_demand.h"
#include "tests/tools/cli.h"

namespace hotset {
namespace {

struct Seen {
  std::string name;
  std::vector<std::string> around;  // ranges of the thread that are open, the outer first
  int layer = 0;
  unsigned step = 0, kib = 0;
};

class NvtxTest : public CliTest {
 protected:
  // What a command pushes, once it is sure that all is popped in order.
  std::vector<Seen> run([[maybe_unused]] const std::string& command,
                        [[maybe_unused]] json& out) const {
#ifdef HOTSET_NVTX_INJECTION
    const Result result =
        hotset(command + " -m " + kDemo + " --threads 2 --json 9> " + path("ranges"),
               "XDG_RUNTIME_DIR=" + path("") + " NVTX_INJECTION64_PATH=" HOTSET_NVTX_INJECTION);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    out = json::parse(result.out);
#endif
    std::vector<Seen> seen;
    std::map<int, std::vector<std::string>> open;  // by thread
    std::istringstream lines(content(path("ranges")));
    for (std::string line; std::getline(lines, line);) {
      int thread = 0;
      if (std::sscanf(line.c_str(), "pop %d", &thread) == 1) {
        if (open[thread].empty()) ADD_FAILURE() << line;
        if (!open[thread].empty()) open[thread].pop_back();
        continue;
      }
      Seen range;
      EXPECT_EQ(std::sscanf(line.c_str(), "push %d hotset layer %d step %u KiB %u:", &thread,
                            &range.layer, &range.step, &range.kib),
                4)
          << line;
      range.name = line.substr(line.find(": ") + 2);
      range.around = open[thread];
      open[thread].push_back(range.name);
      seen.push_back(range);
    }
    for (const auto& [thread, names] : open) EXPECT_TRUE(names.empty()) << thread;
    return seen;
  }
};

#ifdef HOTSET_NVTX_INJECTION
constexpr bool kHasNvtx = true;
#else
constexpr bool kHasNvtx = false;
#endif
constexpr const char* kNoNvtx = "needs the NVTX headers of the CUDA toolkit";

TEST_F(NvtxTest, RangesHaveTheirNamesAndNestAndBalance) {
  if (!kHasNvtx) GTEST_SKIP() << kNoNvtx;
  json out;
  std::map<std::string, int> count;
  std::set<std::string> under_token;
  for (const Seen& range : run("run -p 'What is 2+2?' -n 8 --ram 20%", out)) {
    if (range.around.empty()) {
      // The top of a thread is a step, or a read of a thread that reads.
      EXPECT_TRUE(range.name == "token" || range.name == "prompt" || range.name == "read")
          << range.name;
      EXPECT_GT(range.step, 0U);
    } else if (range.around.front() == "token") {
      under_token.insert(range.name);
    }
    if (range.name == "read") {
      EXPECT_GT(range.kib, 0U);
      EXPECT_GE(range.layer, 0);
    }
    if (range.name == "mixer") {
      EXPECT_GE(range.layer, 0);
    }
    ++count[range.name];
  }
  // The last token is fed only where the model then stops.
  EXPECT_EQ(count["token"],
            out["generated_tokens"].get<int>() - (out["finish_reason"] == "stop" ? 0 : 1));
  EXPECT_EQ(count["prompt"], 1);
  EXPECT_EQ(count["router"], count["experts"]);
  for (const char* name : {"mixer", "router", "experts", "combine", "head", "read wait"}) {
    EXPECT_TRUE(under_token.contains(name)) << name;
  }
}

TEST_F(NvtxTest, CopiesToACardShowUnderAPromptsExpertsAndOnAThreadOfTheirOwn) {
  HOTSET_NOT_UNDER_TSAN();
  if (!kHasNvtx) GTEST_SKIP() << kNoNvtx;
  json out;
  int for_prompt = 0, for_slots = 0;
  // A prompt copies what the host has: bench waits until that is all.
  const std::string bench = "bench -p 16 -n 16 -r 1 --device emulated --vram 20%";
  for (const Seen& range : run(bench, out)) {
    if (range.name != "copy") continue;
    EXPECT_GT(range.kib, 0U);
    EXPECT_GE(range.layer, 0);
    if (range.around.empty()) ++for_slots;
    if (range.around == std::vector<std::string>{"prompt", "experts"}) ++for_prompt;
  }
  EXPECT_GT(for_slots, 0);
  EXPECT_GT(for_prompt, 0);
  EXPECT_GT(out["card"]["prompt_experts_copied"], 0);
}

}  // namespace
}  // namespace hotset
