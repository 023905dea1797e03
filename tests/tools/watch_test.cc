// The watchers as a user starts them: daemon, top, report, and a run's timeline.
#include "tests/tools/watch.h"

#include <httplib.h>

#include <cmath>
#include <map>

#include "tests/profiler/rings.h"
#include "tests/support/on_demand.h"
#include "tests/tools/terminal_process.h"

namespace hotset {
namespace {

using testing::HasSubstr;

TEST_F(WatchTest, ATimelineLoadsAndItsRangesNest) {
  const Result result =
      hotset("run -m " + kDemo + " -p Hi -n 6 --ram 50% --json --timeline " + path("timeline.json"),
             here());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json trace = json::parse(content(path("timeline.json")));
  std::map<int, std::vector<int64_t>> open;  // by thread: where those end that have begun
  std::map<std::string, int> count;
  for (const json& event : trace["traceEvents"]) {
    EXPECT_EQ(event["ph"], "X");
    // Whole ns: one range begins at the very moment at which the one before it ends.
    const int64_t begin = std::llround(event["ts"].get<double>() * 1000);
    const int64_t end = begin + std::llround(event["dur"].get<double>() * 1000);
    auto& stack = open[event["tid"].get<int>()];
    while (!stack.empty() && stack.back() <= begin) stack.pop_back();
    if (!stack.empty()) {
      EXPECT_LE(end, stack.back()) << event;
    }
    stack.push_back(end);
    ++count[event["name"].get<std::string>()];
  }
  const json run = json::parse(result.out);
  // The last token is fed only where the model then stops.
  EXPECT_EQ(count["token"],
            run["generated_tokens"].get<int>() - (run["finish_reason"] == "stop" ? 0 : 1));
  EXPECT_EQ(count["prompt"], 1);
  EXPECT_GT(count["read"], 0);
  EXPECT_EQ(count["router"], count["experts"]);
  EXPECT_EQ(count["head"], count["token"] + count["prompt"]);
}

TEST_F(WatchTest, ATimelineWithoutRecordsIsRefused) {
  expect_error("run -m " + kDemo + " -p Hi -n 1 --set profiler.ring=0 --timeline x", 2,
               "profiler.ring");
}

TEST_F(WatchTest, ARunWithoutAPlaceForItsRingAnswersAllTheSame) {
  std::ofstream(path("hotset")) << "no folder";
  const Result result = hotset("run -m " + kDemo + " -p Hi -n 2 --json", here());
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("cannot be watched"));
}

TEST_F(WatchTest, TopSaysWhereNothingRuns) {
  const Result result = hotset("top -1", here());
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "no engine runs\n");
}

// It looks once a second, and at once where its window has another size.
TEST_F(WatchTest, TopDrawsAResizedWindowAtOnceAndGivesTheScreenBack) {
  TerminalProcess top({HOTSET_BINARY, "top"}, folder_);
  top.read_until("no engine runs");
  const auto begin = std::chrono::steady_clock::now();
  for (int resize = 0; resize < 20; ++resize) {
    usleep(20000);
    kill(top.pid(), SIGWINCH);
    top.read_until("no engine runs");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  top.type("\x03");
  top.read_until("\x1b[?25h\x1b[?1049l");
  EXPECT_EQ(top.exit_code(), 0);
}

TEST_F(WatchTest, ADaemonWatchesServesAndEnds) {
  Process daemon_process(daemon("d"));
  Process engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); })) << said("d");
  EXPECT_THAT(said("d"), HasSubstr("serving http://127.0.0.1:"));
  const Result top = hotset("top -1", here());
  EXPECT_THAT(top.out, HasSubstr("hotset-demo-q4_0.gguf"));
  EXPECT_THAT(top.out, HasSubstr("layer   0"));
  EXPECT_TRUE(wait_for([&] {  // its first tick may come before its first token
    const json state = json::parse(hotset("top --json", here()).out);
    return state.at("engines").at(0).at("pid") == engine_process.pid() &&
           state["engines"].at(0)["tokens"] > 0;
  }));

  engine_process.kill(SIGTERM);
  EXPECT_TRUE(wait_for([&] { return has("d", "end of engine", engine_process); }));
  daemon_process.kill(SIGTERM);
  EXPECT_EQ(daemon_process.wait(), 0);

  const Result report = hotset("report " + path("d.jsonl") + " -o " + path("report.html"));
  EXPECT_EQ(report.exit_code, 0) << report.err;
  EXPECT_THAT(content(path("report.html")), HasSubstr("hotset-demo-q4_0.gguf"));
}

// This process as an engine, whose tokens take what the test says.
class OwnEngine {
 public:
  explicit OwnEngine(const std::string& folder) : ring_(folder, test::small_header(), 4096, 2) {
    ring_.take_step_lane();
  }

  void token(uint64_t ms) {
    script_.begin(position_++);
    script_.range(RangeName::kReadWait, 1, ms * test::kMs, 1);
    end();
  }
  // One that can be replayed.
  void whole_token() {
    script_.begin(position_++);
    for (uint16_t layer = 0; layer < 4; ++layer) {
      script_.picks(layer, {1, 2, 3, 4}, 2);
      script_.layer(layer, {{0, 0, test::kMs, 0}});
    }
    end();
  }

 private:
  void end() {
    script_.end();
    for (const Record& record : script_.records) ring_.write(record);
    script_.records.clear();
  }
  Ring ring_;
  test::Script script_;
  int64_t position_ = 0;
};

class ReloadTest : public WatchTest {
 protected:
  void configure(const std::string& settings) const { std::ofstream(path("d.yaml")) << settings; }
  // Of a daemon with this log and factor.
  std::string settings(const std::string& log, int slow_factor) const {
    return "daemon: {port: 0, log: " + path(log) +
           ".jsonl, slow_factor: " + std::to_string(slow_factor) + "}\n";
  }
  // Sends SIGHUP, and waits for the daemon's words.
  void reload(const Process& daemon, const std::string& words) const {
    daemon.kill(SIGHUP);
    EXPECT_TRUE(wait_for([&] { return said("d").find(words) != std::string::npos; }))
        << words << " expected: " << said("d");
  }
  int64_t slow(const std::string& log) const { return count(log, "slow token", getpid()); }
  // Once the log has a tick with so many tokens.
  bool has_tokens(const std::string& log, int64_t tokens) const {
    return wait_for([&] {
      const std::vector<json> all = lines(log);
      return !all.empty() && all.back().value("tokens", int64_t{0}) == tokens;
    });
  }
};

TEST_F(ReloadTest, ChangedSettingsAreInForceAndABadFileLeavesThemAsTheyWere) {
  configure(settings("a", 4));
  Process daemon_process(program("d", "daemon --config " + path("d.yaml")));
  OwnEngine engine(path("hotset"));
  for (int t = 0; t < 40; ++t) engine.token(10);
  engine.token(30);
  ASSERT_TRUE(has_tokens("a", 41)) << said("d");
  EXPECT_EQ(slow("a"), 0);

  configure(settings("b", 2));
  reload(daemon_process, "settings read again\n");
  engine.token(30);
  ASSERT_TRUE(has_tokens("b", 42)) << said("d");
  EXPECT_EQ(slow("b"), 1) << "another factor, another log";
  EXPECT_EQ(lines("a").back()["tokens"], 41);

  // A file that cannot be read, and one whose log cannot be written.
  configure("daemon: {slow_facter: 9}\n");
  reload(daemon_process, "settings were not read again: " + path("d.yaml") + ":1");
  engine.token(30);
  ASSERT_TRUE(has_tokens("b", 43)) << said("d");
  configure("daemon: {log: /proc/none/log, slow_factor: 9}\n");
  reload(daemon_process, "settings were not read again: /proc/none/log");
  engine.token(30);
  ASSERT_TRUE(has_tokens("b", 44)) << said("d");
  EXPECT_EQ(slow("b"), 3) << "the settings of the last good file";
  daemon_process.kill(SIGTERM);
  EXPECT_EQ(daemon_process.wait(), 0) << said("d");
}

// Who tunes asks the engine once it has seen tokens enough, and this one does not answer: it is
// asked again after a minute, or by a tuner that has just begun.
TEST_F(ReloadTest, TuningIsTurnedOnAndOff) {
  configure("daemon: {port: 0}\n");
  Process daemon_process(program("d", "daemon --config " + path("d.yaml")));
  OwnEngine engine(path("hotset"));
  ASSERT_TRUE(wait_for([&] { return port("d") != 0; }));
  const auto has_said = [&](const std::string& words, int times) {
    return wait_for(
        [&] {
          const std::string text = said("d");
          int found = 0;
          for (size_t at = 0; (at = text.find(words, at)) != std::string::npos; ++at) ++found;
          return found == times;
        },
        30);
  };
  for (int reloads = 1; reloads <= 3; ++reloads) {  // on, off, on
    configure(settings("a", 2) + "tune: {auto: " + (reloads == 2 ? "false" : "true") + "}\n");
    daemon_process.kill(SIGHUP);
    ASSERT_TRUE(has_said("settings read again\n", reloads)) << said("d");
    for (int t = 0; t < 300; ++t) engine.whole_token();
    EXPECT_TRUE(has_said("hotset: tune: ", (reloads + 1) / 2)) << said("d");
    if (reloads != 1) continue;
    const int64_t ticks = count("a", "tick", getpid());
    ASSERT_TRUE(wait_for([&] { return count("a", "tick", getpid()) > ticks + 1; }));
    EXPECT_TRUE(has_said("hotset: tune: ", 1)) << said("d");
  }
}

TEST_F(ReloadTest, ALogThatWasMovedAwayIsBegunAnewAndWhatStaysIsNamed) {
  configure(settings("a", 2));
  Process daemon_process(program("d", "daemon --config " + path("d.yaml")));
  OwnEngine engine(path("hotset"));
  engine.token(10);
  ASSERT_TRUE(has_tokens("a", 1)) << said("d");
  std::filesystem::rename(path("a.jsonl"), path("moved.jsonl"));
  engine.token(10);
  ASSERT_TRUE(has_tokens("moved", 2)) << "until it is told";
  configure(settings("a", 2) + "tune: {auto: true}\n");
  reload(daemon_process, "settings read again\n");
  engine.token(10);
  EXPECT_TRUE(has_tokens("a", 3)) << said("d");
  EXPECT_EQ(lines("moved").back()["tokens"], 2);
  configure("daemon: {port: 9, key: secret, log: " + path("a.jsonl") + "}\n");
  reload(daemon_process, "read again; from the next start on: daemon.port, daemon.key\n");
  httplib::Client client("127.0.0.1", port("d"));
  EXPECT_EQ(client.Get("/metrics")->status, 200);
}

// The sum of a metric's values over those label sets that hold `label`.
double sum_of(const std::string& metrics, const std::string& name, const std::string& label = "") {
  double sum = 0;
  std::istringstream text(metrics);
  for (std::string line; std::getline(text, line);) {
    const bool is_it = line.starts_with(name + "{") && line.find(label) != std::string::npos;
    if (is_it) sum += std::stod(line.substr(line.rfind(' ')));
  }
  return sum;
}

// Steps in a timeline, in order: name and end, in ns.
std::vector<std::pair<std::string, int64_t>> steps_of(const json& timeline) {
  std::vector<std::pair<std::string, int64_t>> steps;
  for (const json& event : timeline["traceEvents"]) {
    if (event["name"] != "token" && event["name"] != "prompt") continue;
    const double end_us = event["ts"].get<double>() + event["dur"].get<double>();
    steps.emplace_back(event["name"], std::llround(end_us * 1000));
  }
  return steps;
}

TEST_F(WatchTest, MetricsAreTheRunsOwnCountsAndTheTimesOfItsTimeline) {
  Process daemon_process(daemon("d"));
  ASSERT_TRUE(wait_for([&] { return port("d") != 0; })) << said("d");
  Process engine_process(program("run", "run -m " + kDemo +
                                            " -p 'What is 2+2?' -n 300 --ram 30% --threads 2 "
                                            "--temp 5 --seed 1 --json --timeline " +
                                            path("timeline.json")));
  ASSERT_TRUE(wait_for([&] { return !ring_of(engine_process).empty(); })) << said("run");
  engine_process.kill(SIGSTOP);  // it might end before the next tick
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
  engine_process.kill(SIGCONT);
  const pid_t pid = engine_process.pid();
  ASSERT_EQ(engine_process.wait(), 0) << said("run");
  ASSERT_TRUE(wait_for([&] { return count("d", "end of engine", pid) == 1; }));

  const json run = json::parse(content(path("run.out")));
  const json timeline = json::parse(content(path("timeline.json")));
  httplib::Client client("127.0.0.1", port("d"));
  std::string metrics;
  ASSERT_TRUE(wait_for([&] {
    metrics = client.Get("/metrics")->body;
    return metrics.find("hotset_engines 0") != std::string::npos;
  }));
  const double decoded =
      run["generated_tokens"].get<double>() - (run["finish_reason"] == "stop" ? 0 : 1);
  EXPECT_EQ(sum_of(metrics, "hotset_records_lost_total"), 0);
  EXPECT_EQ(sum_of(metrics, "hotset_tokens_total"), decoded);
  EXPECT_EQ(sum_of(metrics, "hotset_prompt_tokens_total"), run["prompt_tokens"]);
  const double picks = sum_of(metrics, "hotset_expert_picks_total");
  const double hits = sum_of(metrics, "hotset_expert_picks_total", "source=\"resident\"");
  EXPECT_EQ(hits, run["expert_hits"]);
  EXPECT_EQ(picks - hits, run["expert_misses"]);
  EXPECT_EQ(sum_of(metrics, "hotset_read_bytes_total"), run["bytes_read"]);

  std::vector<int64_t> latencies;
  int64_t before = 0;
  for (const auto& [name, end] : steps_of(timeline)) {
    if (name == "token") latencies.push_back(end - before);
    before = end;
  }
  EXPECT_EQ(latencies.size(), decoded);
  EXPECT_EQ(sum_of(metrics, "hotset_token_latency_seconds_count"), decoded);
  int buckets = 0;
  std::istringstream text(metrics);
  for (std::string line; std::getline(text, line);) {
    const size_t at = line.find("le=\"");
    if (!line.starts_with("hotset_token_latency_seconds_bucket") ||
        line.find("+Inf") != std::string::npos)
      continue;
    const double most_ns = std::round(std::stod(line.substr(at + 4)) * 1e9);
    EXPECT_EQ(std::stoll(line.substr(line.rfind(' '))),
              std::count_if(latencies.begin(), latencies.end(),
                            [&](int64_t ns) { return static_cast<double>(ns) <= most_ns; }))
        << line;
    ++buckets;
  }
  EXPECT_GT(buckets, 10);
}

TEST_F(WatchTest, OfAnEngineOnACardItSeesTheCardsCountsAndItsWaits) {
  HOTSET_NOT_UNDER_TSAN();
  Process daemon_process(daemon("d"));
  ASSERT_TRUE(wait_for([&] { return port("d") != 0; })) << said("d");
  Process engine_process(program("run", "run -m " + kDemo +
                                            " -p 'What is 2+2?' -n 40 --device emulated --vram 50% "
                                            "--threads 1 --temp 5 --seed 1 --json"));
  const pid_t pid = engine_process.pid();
  ASSERT_TRUE(wait_for([&] { return !ring_of(engine_process).empty(); })) << said("run");
  engine_process.kill(SIGSTOP);  // it might end before the next tick
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
  engine_process.kill(SIGCONT);
  ASSERT_EQ(engine_process.wait(), 0) << said("run");
  ASSERT_TRUE(wait_for([&] { return count("d", "end of engine", pid) == 1; }));
  const json card = json::parse(content(path("run.out")))["card"], last = lines("d").back();
  EXPECT_EQ(last["card"]["hits"], card["expert_hits"]);
  EXPECT_EQ(last["card"]["misses"], card["expert_misses"]);
  EXPECT_EQ(last["card"]["slot_bytes"], card["slot_bytes"]);
  EXPECT_GT(last["card"]["resident_bytes"], 0);
  EXPECT_LE(last["card"]["resident_bytes"], card["slot_bytes"]);
  EXPECT_GT(last["split_ms"]["card"], last["split_ms"]["other"]) << last["split_ms"];
}

TEST_F(WatchTest, ADaemonWithAKeyAsksForIt) {
  Process daemon_process(program("d", "daemon --port 0 --set daemon.key=secret"));
  ASSERT_TRUE(wait_for([&] { return port("d") != 0; })) << said("d");
  httplib::Client client("127.0.0.1", port("d"));
  EXPECT_EQ(client.Get("/metrics")->status, 401);
  EXPECT_EQ(client.Get("/metrics", {{"Authorization", "Bearer secret"}})->status, 200);
}

TEST_F(WatchTest, WrongSettingsOfADaemonAreNamed) {
  expect_error("daemon --set daemon.address=0.0.0.0 --port 0", 1, "daemon.key");
  expect_error("daemon --set daemon.log_size=big --port 0", 2, "daemon.log_size");
  expect_error("daemon --port 0 --log /proc/none/log", 1, "/proc/none/log");
  expect_error("report /dev/null -o " + path("page"), 1, "/dev/null");
}

}  // namespace
}  // namespace hotset
