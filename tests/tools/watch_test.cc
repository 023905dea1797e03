// The watchers as a user starts them: daemon, top, report, and a run's timeline.
#include "tests/tools/watch.h"

#include <httplib.h>

#include <cmath>
#include <map>

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
}

TEST_F(WatchTest, ATimelineWithoutRecordsIsRefused) {
  expect_error("run -m " + kDemo + " -p Hi -n 1 --set profiler.ring=0 --timeline x", 2,
               "profiler.ring");
}

TEST_F(WatchTest, ARunWithoutAPlaceForItsRingAnswersAllTheSame) {
  const Result result = hotset("run -m " + kDemo + " -p Hi -n 2 --json", "XDG_RUNTIME_DIR=/proc");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("cannot be watched"));
}

TEST_F(WatchTest, TopSaysWhereNothingRuns) {
  const Result result = hotset("top -1", here());
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "no engine runs\n");
}

TEST_F(WatchTest, ADaemonWatchesServesReloadsAndEnds) {
  Process daemon_process(daemon("d"));
  Process engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); })) << said("d");
  EXPECT_THAT(said("d"), HasSubstr("serving http://127.0.0.1:"));
  const Result top = hotset("top -1", here());
  EXPECT_THAT(top.out, HasSubstr("hotset-demo-q4_0.gguf"));
  EXPECT_THAT(top.out, HasSubstr("layer   0"));

  daemon_process.kill(SIGHUP);
  EXPECT_TRUE(wait_for([&] { return said("d").find("read again") != std::string::npos; }));
  engine_process.kill(SIGTERM);
  EXPECT_TRUE(wait_for([&] { return has("d", "end of engine", engine_process); }));
  daemon_process.kill(SIGTERM);
  EXPECT_EQ(daemon_process.wait(), 0);

  const Result report = hotset("report " + path("d.jsonl") + " -o " + path("report.html"));
  EXPECT_EQ(report.exit_code, 0) << report.err;
  EXPECT_THAT(content(path("report.html")), HasSubstr("hotset-demo-q4_0.gguf"));
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

TEST_F(WatchTest, WrongSettingsOfADaemonAreNamed) {
  expect_error("daemon --set daemon.address=0.0.0.0 --port 0", 1, "daemon.key");
  expect_error("daemon --set daemon.log_size=big --port 0", 2, "daemon.log_size");
  expect_error("daemon --port 0 --log /proc/none/log", 1, "/proc/none/log");
  expect_error("report /dev/null -o " + path("page"), 1, "/dev/null");
}

}  // namespace
}  // namespace hotset
