// What can happen to a watcher or to an engine, as processes: no watcher changes an answer, and
// none of them misses what an engine's death left to say.
#include <fcntl.h>
#include <fmt/format.h>

#include "tests/support/on_demand.h"
#include "tests/tools/watch.h"

namespace hotset {
namespace {

using testing::HasSubstr;

class WatchFailuresTest : public WatchTest {
 protected:
  // Words at random, so that they do not end soon.
  static std::string run(int tokens) {
    return "run -m " + kDemo + " -p 'Tell me about the sea.' -n " + std::to_string(tokens) +
           " --ram 30% --threads 1 --ctx 4096 --temp 5 --seed 1 --json";
  }
  // What is a hit depends on when a read ends; the answer does not.
  static void expect_same(const json& watched, const json& alone) {
    EXPECT_EQ(watched["text"], alone["text"]);
    EXPECT_EQ(watched["ids"], alone["ids"]);
    EXPECT_GT(watched["ids"].size(), 400U);
  }
};

TEST_F(WatchFailuresTest, NothingThatHappensToADaemonChangesAnAnswer) {
  const json alone = json::parse(hotset(run(600) + " --set profiler.ring=0").out);
  Process killed(daemon("killed")), stopped(daemon("stopped"));
  Process full(program("full", "daemon --port 0 --log /dev/full"));
  ASSERT_TRUE(wait_for([&] { return port("killed") && port("stopped") && port("full"); }));
  Process engine(program("engine", run(600) + " --set profiler.ring=262144"));
  ASSERT_TRUE(wait_for([&] { return !ring_of(engine).empty(); })) << said("engine");
  engine.kill(SIGSTOP);  // until everything has happened that is to happen while it runs
  ASSERT_TRUE(
      wait_for([&] { return has("killed", "tick", engine) && has("stopped", "tick", engine); }));
  killed.kill(SIGKILL);
  killed.wait();
  stopped.kill(SIGSTOP);
  engine.kill(SIGCONT);
  const pid_t engine_pid = engine.pid();
  Process restarted(daemon("killed"));  // into the same log
  EXPECT_EQ(engine.wait(), 0) << said("engine");
  const json watched = json::parse(content(path("engine.out")));
  expect_same(watched, alone);

  // The one that slept reads what the engine left in the ring.
  stopped.kill(SIGCONT);
  ASSERT_TRUE(wait_for([&] { return count("stopped", "end of engine", engine_pid) == 1; }));
  const json last = lines("stopped").back();
  EXPECT_EQ(last["records_lost"], 0);
  EXPECT_EQ(last["hits"], watched["expert_hits"]);
  EXPECT_EQ(last["misses"], watched["expert_misses"]);
  for (Process* process : {&full, &restarted, &stopped}) {
    process->kill(SIGTERM);
    EXPECT_EQ(process->wait(), 0) << said("full") << said("killed") << said("stopped");
  }
}

TEST_F(WatchFailuresTest, AKilledEngineIsMissedWithinTwoTicksAndTheNextIsPickedUp) {
  Process daemon_process(daemon("d")), other(engine("other"));
  Process victim(engine("victim"));
  const pid_t pid = victim.pid();
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", other) && hits("d", victim) > 0; }));
  victim.kill(SIGKILL);
  victim.wait();
  // The other engine's lines count the ticks.
  const int64_t before = count("d", "tick", other.pid());
  ASSERT_TRUE(wait_for([&] { return count("d", "end of engine", pid) == 1; }));
  int64_t ticks = 0;
  for (const json& line : lines("d")) {
    if (line["event"] == "end of engine") {
      EXPECT_GT(line["hits"], 0);
      EXPECT_EQ(line["heat"].size(), line["layers"].size());
      break;
    }
    ticks += line["event"] == "tick" && line["pid"] == other.pid() ? 1 : 0;
  }
  EXPECT_LE(ticks - before, 2);
  Process next(engine("next"));
  EXPECT_TRUE(wait_for([&] { return has("d", "tick", next); }));
  EXPECT_EQ(find_rings(path("hotset")).size(), 2U);  // what was left is gone
  EXPECT_EQ(count("d", "end of engine", pid), 1);
}

TEST_F(WatchFailuresTest, ADaemonOfAnotherVersionSaysSoAndLeavesTheEngineAlone) {
  Process engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return !ring_of(engine_process).empty(); })) << said("engine");
  const int ring = open(ring_of(engine_process).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(ring, 0);
  const auto set_version = [&](uint32_t version) {
    EXPECT_EQ(pwrite(ring, &version, sizeof version, offsetof(RingHeader, version)), 4);
  };
  set_version(kRingVersion + 1);
  Process daemon_process(daemon("d"));
  EXPECT_TRUE(wait_for([&] { return said("d").find("not watched") != std::string::npos; }));
  EXPECT_THAT(said("d"), HasSubstr(fmt::format("ring of version {}, this program reads version {}",
                                               kRingVersion + 1, kRingVersion)));
  EXPECT_TRUE(lines("d").empty());
  EXPECT_NE(process_start(engine_process.pid()), 0U);
  set_version(kRingVersion);
  close(ring);
  EXPECT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
}

TEST_F(WatchFailuresTest, ARingThatIsCutOffEndsTheWatchAndNotTheDaemon) {
  Process daemon_process(daemon("d")), engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
  engine_process.kill(SIGSTOP);  // it would not survive this
  ASSERT_EQ(truncate(ring_of(engine_process).c_str(), 100), 0);
  EXPECT_TRUE(wait_for([&] { return has("d", "end of engine", engine_process); }));
  daemon_process.kill(SIGTERM);
  EXPECT_EQ(daemon_process.wait(), 0) << said("d");
}

TEST_F(WatchFailuresTest, ALogWhoseFolderHasGoneEndsTheLogAndNotTheDaemon) {
  const std::string folder = path("logs");
  std::filesystem::create_directory(folder);
  Process daemon_process(program("d", "daemon --port 0 --log " + folder + "/a.jsonl"));
  ASSERT_TRUE(wait_for([&] { return port("d") != 0; })) << said("d");
  const auto reload = [&](const char* words) {
    daemon_process.kill(SIGHUP);
    return wait_for([&] { return said("d").find(words) != std::string::npos; });
  };
  std::filesystem::remove_all(folder);
  EXPECT_TRUE(reload("nothing is logged until SIGHUP comes again")) << said("d");
  std::filesystem::create_directory(folder);
  EXPECT_TRUE(reload("settings read again")) << said("d");
  Process engine_process(engine());
  EXPECT_TRUE(wait_for([&] { return has("logs/a", "tick", engine_process); })) << said("d");
  daemon_process.kill(SIGTERM);
  EXPECT_EQ(daemon_process.wait(), 0) << said("d");
}

class WatchFailuresLongTest : public WatchFailuresTest {
 protected:
  void SetUp() override {
    HOTSET_ON_DEMAND("HOTSET_LONG");
    WatchFailuresTest::SetUp();
  }
};

// While the engine's ring goes round many times.
TEST_F(WatchFailuresLongTest, AMinuteAsleepCostsTheDaemonRecordsAndTheEngineNothing) {
  Process daemon_process(daemon("d")), engine_process(engine());
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); }));
  daemon_process.kill(SIGSTOP);
  // Pace: decoding with the sleeping daemon's ring against decoding without one, in turns.
  std::vector<double> ratios;
  const auto asleep_since = std::chrono::steady_clock::now();
  while (ratios.size() < 7 ||
         std::chrono::steady_clock::now() - asleep_since < std::chrono::minutes(1)) {
    const json watched = json::parse(hotset(run(1000), here()).out);
    const json alone = json::parse(hotset(run(1000) + " --set profiler.ring=0", here()).out);
    expect_same(watched, alone);
    ratios.push_back(alone["decode_tps"].get<double>() / watched["decode_tps"].get<double>());
  }
  std::sort(ratios.begin(), ratios.end());
  // tools/bench/watch_overhead.py measures; beside other programs this is all that can be said.
  EXPECT_LT(ratios[ratios.size() / 2], 1.2);
  const int64_t ticks = count("d", "tick", engine_process.pid());
  daemon_process.kill(SIGCONT);
  ASSERT_TRUE(wait_for([&] { return count("d", "tick", engine_process.pid()) > ticks + 1; }));
  EXPECT_GT(lines("d").back()["records_lost"], 0);
  EXPECT_EQ(lines("d").back()["records_invalid"], 0);
}

}  // namespace
}  // namespace hotset
