// hotset tune as a user runs it, on traces of the demo model and on made ones.
#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <utility>

#include "tests/support/on_demand.h"
#include "tests/tools/cli.h"
#include "tests/tools/process.h"
#include "tests/tools/terminal_process.h"
#include "tools/config.h"

namespace hotset {
namespace {

using testing::HasSubstr;

class TuneCliTest : public CliTest {
 protected:
  // 2 layers of 32 experts, top-2: one popular half, and now and then four passers-by, which LRU
  // lets drive the popular out.
  std::string popular_trace(int tokens) const {
    std::ofstream out(path("ids.i16"), std::ios::binary);
    uint32_t random = 1;
    const auto draw = [&](uint32_t below) {
      random = random * 1664525 + 1013904223;
      return static_cast<int16_t>((random >> 16) % below);
    };
    for (int t = 0; t < tokens; ++t) {
      for (int layer = 0; layer < 2; ++layer) {
        const int16_t popular = draw(6);
        const auto passing = static_cast<int16_t>(6 + draw(26));
        for (const int16_t id : {popular, passing}) {
          out.write(reinterpret_cast<const char*>(&id), 2);
        }
      }
    }
    out.close();
    const Result result =
        hotset("trace import " + path("ids.i16") +
               " --layers 2 --experts 32 --top-k 2 --expert-bytes 1MB -o " + path("t.trace"));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return path("t.trace");
  }
};

TEST_F(TuneCliTest, ABetterPolicyIsFoundAndWrittenAsSettings) {
  const std::string common = "tune --trace " + popular_trace(2000) + " --miss-ms 2 --ram 25% " +
                             "--set cache.policy=lru --set cpu.threads=3 -o " + path("p.yaml");
  const json out = hotset_json(common + " --json");
  EXPECT_EQ(out["tokens"], 2000);
  const json &present = out["results"][0], &best = out["results"][out["best"].get<size_t>()];
  EXPECT_EQ(present["policy"], "lru");
  EXPECT_EQ(present["gain_ms"], 0);
  EXPECT_NE(best["policy"], "lru");
  EXPECT_GT(best["gain_ms_low"], 0);
  EXPECT_LT(best["misses_per_token"], present["misses_per_token"]);
  EXPECT_NEAR(best["ms_per_token"], 2 * best["misses_per_token"].get<double>(), 1e-9);
  Config written;
  load_config(written, path("p.yaml"));
  EXPECT_EQ(written.cache.policy, best["policy"]);
  EXPECT_EQ(written.cache.half_life, best["half_life"]);
  EXPECT_EQ(written.ram, "25%");
  EXPECT_EQ(written.cpu.threads, 3) << "what was there before stays";
  EXPECT_EQ(hotset("config --config " + path("p.yaml")).exit_code, 0);
  const Result table = hotset(common);
  EXPECT_THAT(table.out, HasSubstr("best: "));
  EXPECT_THAT(table.out, HasSubstr("a miss costs 2 ms (given)"));
  EXPECT_THAT(table.out, HasSubstr("an interval that holds at 95 % for all rows together"));
  EXPECT_THAT(table.out,
              testing::ContainsRegex("best: .* ms a token less \\([0-9.]+ to [0-9.]+\\)"));
  EXPECT_THAT(table.out, HasSubstr("present"));
  EXPECT_THAT(table.err, HasSubstr("wrote " + path("p.yaml")));
}

TEST_F(TuneCliTest, TheBestSettingIsKeptAndABudgetThatPaysIsNamed) {
  const std::string trace = popular_trace(2000);
  json out = hotset_json("tune --json --miss-ms 2 --ram 25% --set cache.policy=lru --trace " +
                         trace + " --policies lru -o " + path("p.yaml"));
  EXPECT_EQ(out["best"], 0);
  Config written;
  load_config(written, path("p.yaml"));
  EXPECT_EQ(written.cache.policy, "lru");
  EXPECT_THAT(
      hotset("tune --miss-ms 2 --ram 25% --policies score --half-life 0 --trace " + trace).out,
      HasSubstr("nothing is clearly better than the present setting, which stays"));
  // 12.5 MB more are worth nothing here, all of it is worth all misses.
  out = hotset_json("tune --json --miss-ms 2 --ram 16MB --policies lru --set cache.policy=lru " +
                    ("--trace " + trace) + " --budget 100%,32MB -o " + path("p.yaml"));
  ASSERT_EQ(out["results"].size(), 3u);
  EXPECT_EQ(out["best"], 1);
  EXPECT_EQ(out["results"][1]["misses_per_token"], 0);
  EXPECT_GT(out["results"][2]["gain_ms_low"], 0);
  EXPECT_EQ(out["results"][2]["budget_bytes"], 32000000);
  load_config(written, path("p.yaml"));
  EXPECT_EQ(written.ram, "100%");
}

TEST_F(TuneCliTest, ATraceOfTheDemoModelIsPricedByItsOwnFile) {
  const Result run = hotset("bench -m " + kDemo + " --ram 30% --ctx 512 -p 0 -n 300 -r 1 --trace " +
                            path("demo.trace"));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const json out = hotset_json("tune --json -m " + kDemo + " --ram 30% --trace " +
                               path("demo.trace") + " -o " + path("p.yaml"));
  EXPECT_GT(out["miss_ms"], 1e-4);
  EXPECT_LT(out["miss_ms"], 1e3);
  EXPECT_THAT(out["costs_from"], testing::StartsWith("measured"));
  EXPECT_GE(out["tokens"], 256);
  EXPECT_EQ(hotset("config --config " + path("p.yaml")).exit_code, 0);
}

// Against engines of the demo model's shape, whose picks move on to other experts every 64 tokens:
// what was popular long ago (lfu) is of no use.
class TuneEngineTest : public TuneCliTest {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::path(testing::TempDir()) / "tuneXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;  // a short one: a socket's path has little room
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string moving_trace(int tokens) const {
    std::ofstream out(path("moving.i16"), std::ios::binary);
    for (int t = 0; t < tokens; ++t) {
      for (int layer = 0; layer < 6; ++layer) {
        for (int i = 0; i < 8; ++i) {
          const auto id = static_cast<int16_t>((t / 64 * 29 + (t * 5 + i * 3) % 24 + layer) % 128);
          out.write(reinterpret_cast<const char*>(&id), 2);
        }
      }
    }
    out.close();
    const Result result = hotset("trace import " + path("moving.i16") +
                                 " --layers 6 --experts 128 --top-k 8 -o " + path("moving.trace"));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return path("moving.trace");
  }
  TerminalProcess start(const std::vector<std::string>& arguments) const {
    std::vector<std::string> all = {HOTSET_BINARY, arguments[0], "-m",    kDemo,
                                    "--ram",       "30%",        "--set", "cache.policy=lfu"};
    all.insert(all.end(), arguments.begin() + 1, arguments.end());
    return TerminalProcess(all, folder_);
  }
  Result near(const std::string& arguments) const {
    return hotset(arguments, "XDG_RUNTIME_DIR=" + folder_.string());
  }
  json stats() const { return json::parse(near("ctl --json stats").out); }
};

TEST_F(TuneEngineTest, AnEngineTakesABetterSettingWithoutGoingCold) {
  TerminalProcess chat = start({"run"});
  chat.read_until("> ");
  chat.type("What is 2+2?\n");
  EXPECT_THAT(chat.read_until("> "), HasSubstr("\n4\r\n"));
  json before = stats();  // when nothing is filled any more
  for (json last; last != before; usleep(20000)) last = std::exchange(before, stats());
  EXPECT_GT(before["experts"]["resident_bytes"],
            before["experts"]["slot_bytes"].get<int64_t>() / 2);
  const Result tuned = near("tune --json --miss-ms 1 --ram 30% --set cache.policy=lfu --apply " +
                            ("--trace " + moving_trace(1024)) + " -o " + path("p.yaml"));
  ASSERT_EQ(tuned.exit_code, 0) << tuned.err;
  const json out = json::parse(tuned.out);
  EXPECT_EQ(out["applied"][0], "cache.policy");
  const json after = stats();
  EXPECT_EQ(after["settings"]["cache"]["policy"],
            out["results"][out["best"].get<size_t>()]["policy"]);
  EXPECT_NE(after["settings"]["cache"]["policy"], "lfu");
  EXPECT_EQ(after["experts"], before["experts"])
      << "residents, hits and evictions are as they were";
  chat.type("What is 2+2?\n");
  EXPECT_THAT(chat.read_until("> "), HasSubstr("\n4\r\n"));
  EXPECT_GT(stats()["experts"]["hits"], after["experts"]["hits"]);
}

TEST_F(TuneEngineTest, AHalfLifeAloneIsChanged) {
  const std::string settings = "--set cache.policy=score --set cache.half_life=64 ";
  TerminalProcess chat =
      start({"run", "--set", "cache.policy=score", "--set", "cache.half_life=64"});
  chat.read_until("> ");
  const Result tuned = near("tune --json --miss-ms 1 --ram 30% --apply --policies score " +
                            settings + "--half-life 4 --trace " + moving_trace(1024));
  ASSERT_EQ(tuned.exit_code, 0) << tuned.err;
  EXPECT_EQ(json::parse(tuned.out)["applied"], json::array({"cache.half_life"})) << tuned.out;
  EXPECT_EQ(stats()["settings"]["cache"]["half_life"], 4);
}

TEST_F(TuneEngineTest, ARunningEngineIsWatchedPricedAndChanged) {
  TerminalProcess bench =
      start({"bench", "-p", "0", "-n", "4096", "-r", "50", "--routing", moving_trace(4096)});
  for (int i = 0; i < 100 && near("ctl stats").exit_code != 0; ++i) usleep(100000);
  const Result tuned = near("tune --live --json --apply --tokens 320 --half-life 0,8");
  ASSERT_EQ(tuned.exit_code, 0) << tuned.err;
  const json out = json::parse(tuned.out);
  EXPECT_GE(out["tokens"], 256);
  EXPECT_LE(out["tokens"], 320);
  EXPECT_GT(out["miss_ms"], 0);
  EXPECT_GT(out["rest_ms"], 0);
  EXPECT_THAT(out["costs_from"], HasSubstr("this engine"));
  EXPECT_EQ(out["results"][0]["policy"], "lfu");
  EXPECT_GT(out["results"][0]["misses_per_token"], 0);
  ASSERT_NE(out["best"], 0) << out;
  EXPECT_NE(stats()["settings"]["cache"]["policy"], "lfu");
  // The engine goes by it from here on: 48 picks a token, of five spans of the trace's topics.
  const json before = stats()["experts"];
  double hits = 0, misses = 0;
  ASSERT_TRUE(wait_for([&] {
    const json after = stats()["experts"];
    hits = after["hits"].get<double>() - before["hits"].get<double>();
    misses = after["misses"].get<double>() - before["misses"].get<double>();
    return hits + misses > 48 * 320;
  }));
  const json &present = out["results"][0], &best = out["results"][out["best"].get<size_t>()];
  EXPECT_GT(hits / (hits + misses),
            (present["hit_rate"].get<double>() + best["hit_rate"].get<double>()) / 2)
      << present << best;
}

// Of two engines that it could try something on, one at a time.
TEST_F(TuneEngineTest, TheDaemonTriesOneThingWatchesAndJudges) {
  const std::vector<std::string> arguments = {
      "bench", "-p", "0", "-n", "4096", "-r", "50", "--routing", moving_trace(4096)};
  TerminalProcess first = start(arguments), second = start(arguments);
  TerminalProcess daemon(
      {HOTSET_BINARY, "daemon", "--port", "0", "--set", "tune.auto=true", "--log", path("d.jsonl")},
      folder_);
  const std::string shown = daemon.read_until("measured");
  EXPECT_THAT(shown, HasSubstr(": try: cache.policy=lfu cache.half_life=0 -> "));
  kill(daemon.pid(), SIGTERM);
  EXPECT_EQ(daemon.exit_code(), 0);
  // Each act follows from the one before, and one thing changes at a time.
  std::ifstream log(path("d.jsonl"));
  std::map<int, json> engines = {{first.pid(), {{"policy", "lfu"}, {"half_life", 0}}},
                                 {second.pid(), {{"policy", "lfu"}, {"half_life", 0}}}};
  bool is_trying = false;
  int acts = 0;
  for (std::string text; std::getline(log, text);) {
    const json line = json::parse(text);
    if (line["event"] != "tune") continue;
    ++acts;
    ASSERT_TRUE(engines.contains(line["pid"].get<int>())) << text;
    json& has = engines[line["pid"].get<int>()];
    EXPECT_EQ(line["act"] == "try", !is_trying) << text;
    is_trying = line["act"] == "try";
    EXPECT_NE(line["from"]["policy"] == line["to"]["policy"],
              line["from"]["half_life"] == line["to"]["half_life"]);
    EXPECT_EQ(line["act"] == "keep" ? line["to"] : line["from"], has) << text;
    has = line["to"];
  }
  EXPECT_GE(acts, 2);
  EXPECT_FALSE(is_trying) << "what was still being tried was taken back";
  for (const auto& [pid, has] : engines) {
    const json cache =
        json::parse(near(fmt::format("ctl --json --pid {} stats", pid)).out)["settings"]["cache"];
    EXPECT_EQ(cache["policy"], has["policy"]);
    EXPECT_EQ(cache["half_life"], has["half_life"]);
  }
}

TEST_F(TuneEngineTest, ADaemonThatEndsTakesBackWhatItTries) {
  TerminalProcess bench =
      start({"bench", "-p", "0", "-n", "4096", "-r", "50", "--routing", moving_trace(4096)});
  TerminalProcess daemon(
      {HOTSET_BINARY, "daemon", "--port", "0", "--set", "tune.auto=true", "--log", path("d.jsonl")},
      folder_);
  daemon.read_until(": try: ");
  kill(daemon.pid(), SIGTERM);  // it would judge at its next tick
  daemon.read_until("; not watched to its end");
  EXPECT_EQ(daemon.exit_code(), 0);
  EXPECT_EQ(stats()["settings"]["cache"]["policy"], "lfu");
}

TEST_F(TuneEngineTest, WhatAUserSetsDuringATrialIsTheirs) {
  TerminalProcess bench =
      start({"bench", "-p", "0", "-n", "4096", "-r", "50", "--routing", moving_trace(4096)});
  TerminalProcess daemon({HOTSET_BINARY, "daemon", "--port", "0", "--set", "tune.auto=true"},
                         folder_);
  daemon.read_until(": try: ");
  EXPECT_EQ(near("ctl set cache.policy=static").out, "changed: cache.policy\n");
  kill(daemon.pid(), SIGTERM);
  EXPECT_EQ(daemon.exit_code(), 0);
  EXPECT_EQ(stats()["settings"]["cache"]["policy"], "static");
}

TEST_F(TuneEngineTest, WithoutAnEngineOrWithSettingsOfItsOwnItSaysSo) {
  EXPECT_THAT(near("tune --live").err, HasSubstr("no engine is listening"));
  EXPECT_THAT(near("tune --live --ram 10%").err, HasSubstr("the engine has its own"));
  EXPECT_THAT(near("tune --live --trace x").err, HasSubstr("expected one of --trace F, --live"));
  TerminalProcess chat = start({"run"});
  chat.read_until("> ");
  EXPECT_THAT(near("tune --live --seconds 0.1").err, HasSubstr("found 0 decoded tokens"));
  const std::vector<std::string> unwatched = {"run", "--set", "profiler.ring=0"};
  TerminalProcess other = start(unwatched);
  other.read_until("> ");
  EXPECT_THAT(near(fmt::format("tune --live --pid {}", other.pid())).err, HasSubstr("has no ring"));
}

// What is recorded there is not enough, and waiting would not make it more.
TEST_F(TuneEngineTest, OfAnEngineOnACardItSaysWhyNotAndWhatInstead) {
  TerminalProcess chat = start({"run", "--device", "emulated"});
  chat.read_until("> ");
  const Result live = near("tune --live --seconds 0.1");
  EXPECT_EQ(live.exit_code, 1);
  EXPECT_THAT(live.err, HasSubstr(fmt::format("process {} computes on a card", chat.pid())));
  EXPECT_THAT(live.err, HasSubstr("hotset run --trace F, then hotset simulate --trace F"));
}

TEST_F(TuneEngineTest, TheDaemonSaysWhomItDoesNotTune) {
  HOTSET_NOT_UNDER_TSAN();
  TerminalProcess chat = start({"run", "--device", "emulated"});
  chat.read_until("> ");
  TerminalProcess daemon({HOTSET_BINARY, "daemon", "--port", "0", "--set", "tune.auto=true"},
                         folder_);
  chat.type("What is 2+2?\n");
  daemon.read_until(fmt::format("(process {}) computes on a card", chat.pid()));
}

TEST_F(TuneCliTest, WhatIsMissingOrWrongIsNamed) {
  const std::string trace = popular_trace(300), few = "tune --trace " + trace;
  expect_error(few, 2, "expected -m MODEL, to measure it, or --miss-ms");
  expect_error(few + " --miss-ms 1", 2, "ram: auto depends on the model");
  expect_error(few + " --miss-ms 1 --ram 20% --policies clock", 2, "score, lru, lfu");
  expect_error(few + " --miss-ms 1 --ram 20% --budget lots", 2, "--budget: found \"lots\"");
  expect_error(few + " -m " + kDemo, 1, "layers of 32 experts, top-2, expected");
  expect_error("tune --miss-ms 1 --ram 20% --trace " + path("none"), 1, "cannot be read");
  expect_error("tune --miss-ms 1 --ram 20% --trace " + popular_trace(200), 1,
               "found 200 decoded tokens, expected at least 256");
  EXPECT_THAT(hotset("tune --help").out, HasSubstr("Example:"));
}

}  // namespace
}  // namespace hotset
