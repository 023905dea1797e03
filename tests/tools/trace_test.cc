// Traces as a user makes and reads them: run --trace, hotset trace, hotset simulate, bench
// --routing.
#include <sys/mman.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>

#include "profiler/routing_trace.h"
#include "runtime/weights/output_file.h"
#include "tests/tools/cli.h"

namespace hotset {
namespace {

using testing::HasSubstr;

class TraceCliTest : public CliTest {
 protected:
  // int16 [tokens][2][3] of 8 experts that move on by one every four tokens.
  std::string write_ids(int tokens) const {
    std::ofstream out(path("ids.i16"), std::ios::binary);
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < 6; ++i) {
        const auto id = static_cast<int16_t>((t / 4 + i) % 8);
        out.write(reinterpret_cast<const char*>(&id), 2);
      }
    }
    return path("ids.i16");
  }
  std::string import_ids(int tokens) const {
    const Result result =
        hotset("trace import " + write_ids(tokens) +
               " --layers 2 --experts 8 --top-k 3 --expert-bytes 1kB -o " + path("t.trace"));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return path("t.trace");
  }
};

TEST_F(TraceCliTest, AnImportedTraceIsExportedAsItCame) {
  const std::string trace = import_ids(500);
  EXPECT_EQ(hotset("trace export " + trace + " -o " + path("back.i16")).exit_code, 0);
  EXPECT_EQ(content(path("back.i16")), content(path("ids.i16")));
  EXPECT_EQ(hotset("trace export " + trace + " -o " + path("back.csv")).exit_code, 0);
  EXPECT_THAT(content(path("back.csv")),
              testing::StartsWith("step,phase,layer,row,rank,expert,weight\n"
                                  "0,decode,0,0,0,0,0.000\n0,decode,0,0,1,1,0.000\n"));
  const json info = hotset_json("trace info --json " + trace);
  EXPECT_EQ(info["decode_tokens"], 500);
  EXPECT_EQ(info["prompt_tokens"], 0);
  EXPECT_EQ(info["distinct_experts"], json({8, 8}));
  EXPECT_EQ(info["damage"], "");
}

TEST_F(TraceCliTest, WhatIsWrongIsNamed) {
  write_ids(10);
  const std::string import = "trace import " + path("ids.i16");
  expect_error(import + " --layers 7 --experts 8 --top-k 3 -o " + path("x"), 1,
               "ends within token 2");
  expect_error(import + " --layers 2 --experts 3 --top-k 3 -o " + path("x"), 1, "from 0 to 2");
  expect_error("trace info " + path("none"), 1, "cannot be read");
  expect_error("trace info " + path("ids.i16"), 1, "is no routing trace");
  const std::string trace = import_ids(10);
  expect_error("trace export " + trace + " -o " + path("x.txt"), 2, ".csv or .i16");
  expect_error("simulate --trace " + trace + " --slots 0%", 2, "--slots");
  expect_error("simulate --trace " + trace + " --policies clock", 2, "score, lru, lfu, static");
  for (const char* number : {"nan", "-1", "2000000", "much"}) {
    expect_error("simulate --trace " + trace + " --lambda " + number, 2, "expected 0 to 1e+06");
  }
  expect_error("tune --trace " + trace + " --ram 20% --miss-ms nan", 2, "found nan, expected");
  expect_error("bench -m " + kDemo + " -p 0 -n 1 -r 1 --routing " + trace, 1, "as the model has");
  EXPECT_FALSE(std::filesystem::exists(path("x")));
}

TEST_F(TraceCliTest, ATraceThatWasCutShortIsReadWithAWord) {
  const std::string trace = import_ids(5000);
  std::filesystem::resize_file(trace, std::filesystem::file_size(trace) - 100);
  const Result result = hotset("trace info " + trace);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("damaged: "));
  EXPECT_THAT(result.out, HasSubstr("the file ends within a block"));
  const Result simulated = hotset("simulate --slots 50% --trace " + trace);
  EXPECT_EQ(simulated.exit_code, 0);
  EXPECT_THAT(simulated.err, HasSubstr("the file ends within a block"));
}

TEST_F(TraceCliTest, SimulateComparesPoliciesAndDrawsThem) {
  const std::string trace = import_ids(400);
  const json out = hotset_json("simulate --json --trace " + trace +
                               " --slots 4,50%,8 --lambda 0,1 --plot " + path("p.svg"));
  EXPECT_EQ(out["compulsory_misses"], 16);
  ASSERT_EQ(out["results"].size(), 3u * (4 * 2 + 1));
  for (const json& row : out["results"]) {
    EXPECT_EQ(row["accesses"], 2400);
    EXPECT_LE(row["hits"], 2400 - 16);
    EXPECT_EQ(row["miss_bytes_per_token"], (2400 - row["hits"].get<int>()) * 1000 / 400.0);
    EXPECT_TRUE(row["slots"] != 8 || row["hits"] == 2400 - 16) << row;
  }
  const std::string svg = content(path("p.svg"));
  EXPECT_THAT(svg, testing::StartsWith("<svg "));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr(">belady<"));
  EXPECT_THAT(svg, HasSubstr(">score, lambda 1<"));
  const Result table = hotset("simulate --trace " + trace);
  EXPECT_THAT(table.out, HasSubstr("compulsory misses: 0.67 % of 2400 accesses"));
}

TEST_F(TraceCliTest, ARunsTraceIsItsRouting) {
  const std::string trace = path("run.trace");
  const Result run =
      hotset("run -m " + kDemo + " --raw --temp 0 -p 'The cat' -n 12 --trace " + trace);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_FALSE(std::filesystem::exists(trace + ".part"));
  const json info = hotset_json("trace info --json " + trace);
  EXPECT_GT(info["decode_tokens"], 2);
  EXPECT_GT(info["prompt_tokens"], 1);
  EXPECT_EQ(info["has_weights"], true);
  EXPECT_GT(info["expert_bytes"][0], 1000);
  EXPECT_EQ(hotset("run -m " + kDemo + " --raw --temp 0 -p 'The cat' -n 12").out, run.out);
}

TEST_F(TraceCliTest, AnEvalsTraceHasThePicksThatEvalWrites) {
  const std::string eval = "eval -m " + kDemo + " --ids 5,6,7,8,9 --decode --json";
  ASSERT_EQ(hotset(eval + " --trace " + path("e.trace") + " --routing " + path("r.npy")).exit_code,
            0);
  ASSERT_EQ(hotset("trace export " + path("e.trace") + " -o " + path("e.i16")).exit_code, 0);
  const std::string ids = content(path("e.i16")), npy = content(path("r.npy"));
  const size_t count = ids.size() / 2;
  ASSERT_GT(count, 0u);
  ASSERT_GT(npy.size(), 4 * count);
  for (size_t i = 0; i < count; ++i) {
    int16_t id;
    int32_t expected;
    std::memcpy(&id, ids.data() + 2 * i, 2);
    std::memcpy(&expected, npy.data() + npy.size() - 4 * (count - i), 4);
    ASSERT_EQ(id, expected);
  }
}

TEST_F(TraceCliTest, BenchPlaysATracesRoutingInPlaceOfTheRouters) {
  ASSERT_EQ(hotset("eval -m " + kDemo + " --ids 5,6,7,8,9,10,11,12 --decode --json --trace " +
                   path("e.trace"))
                .exit_code,
            0);
  const json out = hotset_json("bench -m " + kDemo + " -p 0 -n 4 -r 1 --json --routing " +
                               path("e.trace") + " --trace " + path("b.trace"));
  EXPECT_EQ(out["routing"], "forced from " + path("e.trace"));
  for (const char* name : {"e", "b"}) {
    ASSERT_EQ(hotset("trace export " + path(name + std::string(".trace")) + " -o " +
                     path(name + std::string(".i16")))
                  .exit_code,
              0);
  }
  // The warm-up and the one repetition: 8 tokens.
  EXPECT_EQ(content(path("b.i16")), content(path("e.i16")));
}

TEST_F(TraceCliTest, ADrawnGuessHasTheRecallThatWasAskedFor) {
  ASSERT_EQ(hotset("eval -m " + kDemo + " --ids 5,6,7,8,9,10,11,12 --decode --json --trace " +
                   path("e.trace"))
                .exit_code,
            0);
  const auto recall = [&](const std::string& asked) {
    const json out = hotset_json("bench -m " + kDemo +
                                 " -p 0 -n 16 -r 2 --json --ram 50% --set cache.prefetch=on "
                                 "--predict-recall " +
                                 asked + " --routing " + path("e.trace"));
    EXPECT_THAT(out["prefetch"]["predictor"],
                HasSubstr("drawn from the trace with recall " + asked));
    return out["prefetch"]["recall"].get<double>();
  };
  EXPECT_EQ(recall("1"), 1.0);
  EXPECT_NEAR(recall("0.5"), 0.5, 0.1);
  expect_error("bench -m " + kDemo + " --predict-recall 0.5", 2, "--routing");
}

// A child records without a pause and says in shared memory how many steps are in blocks that have
// been written; it is killed after a random time. What is left is sound up to them.
TEST_F(TraceCliTest, AKillAtAnyMomentLeavesATraceUpToItsLastBlock) {
  constexpr int kKills = 100, kTopK = 10;
  TraceHeader header{1, 2, 64, kTopK, true, {1, 1}, "m"};
  auto* const written = static_cast<std::atomic<uint32_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(written), MAP_FAILED);
  std::mt19937_64 random(20261125);
  int cut = 0;
  for (int kill_nr = 0; kill_nr < kKills; ++kill_nr) {
    *written = 0;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      OutputFile file(path("k.trace"));
      uint64_t end = 0;
      TraceWriter writer(header, [&](std::span<const std::byte> bytes) {
        file.write(end, bytes);
        end += bytes.size();
      });
      int32_t ids[kTopK];
      float weights[kTopK] = {};
      for (uint32_t step = 0;; ++step) {
        const uint64_t before = end;
        for (int32_t layer = 0; layer < 2; ++layer) {
          for (int32_t i = 0; i < kTopK; ++i) ids[i] = static_cast<int32_t>(step + i) % 64;
          writer.add(step, layer, TracePhase::kDecode, ids, weights, 1);
        }
        if (end != before) *written = step;  // all steps before this one are in a block
      }
    }
    while (*written == 0) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    const RoutingTrace trace = load_trace(path("k.trace.part"));
    const auto steps = static_cast<uint32_t>(trace.events.back().step) + 1;
    EXPECT_GE(steps, *written);
    for (size_t i = 0; i < trace.events.size(); ++i) ASSERT_EQ(trace.events[i].step, i / 2);
    if (!trace.damage.empty()) {
      ++cut;
      EXPECT_THAT(trace.damage, HasSubstr("what comes before is sound"));
    }
  }
  munmap(written, 4096);
  RecordProperty("cut", cut);
}

TEST_F(TraceCliTest, AKilledRunLeavesATraceThatIsRead) {
  const std::string trace = path("killed.trace");
  const Result killed = hotset("bench -p 0 -n 64 -r 1000000 -m " + kDemo + " --trace " + trace +
                               " > /dev/null 2>&1 & pid=$!; until [ $(stat -c %s " + trace +
                               ".part 2>&- || echo 0) -gt 40000 ]; do sleep 0.05; " +
                               "done; kill -9 $pid; wait $pid");
  EXPECT_NE(killed.exit_code, 0);
  EXPECT_GT(hotset_json("trace info --json " + trace + ".part")["decode_tokens"], 10);
  EXPECT_EQ(hotset("simulate --slots 50% --policies lru --trace " + trace + ".part").exit_code, 0);
}

TEST_F(TraceCliTest, AFullDiskEndsTheTraceAndNotTheRun) {
#ifdef HOTSET_SANITIZES_thread
  GTEST_SKIP() << "takes a minute under ThreadSanitizer, and the limit is not met there";
#endif
  std::ofstream text(path("text"));
  for (int i = 0; i < 150; ++i) text << "The cat sat on the mat, and the dog. ";
  text.close();
  // Files may not grow beyond some 100 kB; the signal that says so is ignored: a full disk has
  // none. The ring is larger than that, so there is none.
  const Result run = hotset("eval --set profiler.ring=0 -m " + kDemo + " --file " + path("text") +
                                " --decode --json --trace " + path("full.trace"),
                            "trap '' XFSZ; ulimit -f 200;");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("the trace ends here, the run goes on"));
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_GT(hotset_json("trace info --json " + path("full.trace"))["decode_tokens"], 10);
}

}  // namespace
}  // namespace hotset
