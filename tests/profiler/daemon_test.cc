#include "profiler/daemon.h"

#include <gmock/gmock.h>
#include <httplib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "kernels/check.h"
#include "profiler/frame.h"
#include "profiler/http_server.h"
#include "profiler/report.h"
#include "tests/cache/fake_source.h"
#include "tests/profiler/exported.h"
#include "tests/profiler/rings.h"
#include "tests/support/engine.h"
#include "tools/now.h"

namespace hotset::test {
namespace {

class DaemonTest : public testing::Test {
 protected:
  std::unique_ptr<Ring> ring(int64_t records = 65536) const {
    RingHeader header = small_header();
    header.layers = 64;
    header.experts_per_layer = 512;
    return std::make_unique<Ring>(folder.path(), header, records, 16);
  }
  std::unique_ptr<Engine> demo(int64_t budget) const {
    EngineOptions options = small_options();
    options.expert_bytes = budget;
    return open_engine(data_path("demo/hotset-demo-q4_0.gguf"), options, ring());
  }
  static void decode(Engine& engine, int tokens) {
    Session session = engine.open_session();
    feed(engine, session, std::vector<int32_t>(20, 5));
    for (int32_t i = 0; i < tokens; ++i) feed(engine, session, {{i % 300}});
  }
  std::string log_path() const { return folder.path() + "/log.jsonl"; }

  RingFolder folder;
  Daemon daemon{{folder.path()}, 2};
};

TEST_F(DaemonTest, CountsAreTheEnginesOwn) {
  for (const int64_t budget : {INT64_MAX, int64_t{2} << 20}) {
    const auto engine = demo(budget);
    decode(*engine, 40);
    Daemon fresh({folder.path()}, 2);
    fresh.tick(now(), nullptr);
    ASSERT_EQ(fresh.engines().size(), 1U);
    const Statistics& seen = fresh.engines()[0]->statistics;
    const CacheStats truth = engine->cache_stats();
    EXPECT_EQ(fresh.engines()[0]->reader.lost(), 0U);
    EXPECT_EQ(seen.picks().hits(), truth.hits);
    EXPECT_EQ(seen.picks().misses(), truth.misses);
    EXPECT_EQ(seen.evictions(), truth.evictions);
    EXPECT_EQ(seen.bytes_read(), truth.bytes_read);
    EXPECT_EQ(seen.time().tokens, 40U);
    EXPECT_EQ(fresh.engines()[0]->reader.resident_bytes(), engine->cache().resident_bytes());
    const std::vector<CacheStats> layers = engine->cache().layer_stats();
    for (size_t i = 0; i < layers.size(); ++i) {
      EXPECT_EQ(seen.layer_picks(static_cast<int32_t>(i)).hits(), layers[i].hits);
      EXPECT_EQ(seen.layer_picks(static_cast<int32_t>(i)).misses(), layers[i].misses);
    }
    const std::string text = fresh.metrics();
    EXPECT_EQ(metric(text, "hotset_tokens_total{model=\"model.gguf\"}"), 40);
    double read = 0;
    for (const char* cause : {"miss", "fill", "prefetch", "admission"}) {
      read += metric(text, std::string("hotset_read_bytes_total{cause=\"") + cause +
                               "\",model=\"model.gguf\"}");
    }
    EXPECT_EQ(read, static_cast<double>(truth.bytes_read));
  }
}

// A source that is slow in one layer.
TEST_F(DaemonTest, InjectedDelaysAreBlamedOnTheirLayer) {
  class SlowSource : public ExpertSource {
   public:
    int32_t layer_count() const override { return 4; }
    int32_t experts_per_layer() const override { return 64; }
    int64_t expert_bytes(int32_t) const override { return 256; }
    int64_t load(ExpertId, std::span<std::byte>) override { return 10; }
    int64_t landing_bytes() const override { return 256; }
    void pack(ExpertId, int32_t, const std::byte*, std::span<std::byte>) override {}
    int64_t read(ExpertId id, int32_t, std::byte*) override {
      if (id.layer == 2) std::this_thread::sleep_for(std::chrono::milliseconds(30));
      return 10;
    }
  };
  hotset::Recorder recorder(std::make_unique<Ring>(folder.path(), small_header(), 16384, 4));
  SlowSource source;
  ThreadPool pool(2);
  ExpertCache cache(source, plan_slots(source, 0, 4), pool, policy_of(PolicyKind::kLru),
                    {.recorder = &recorder});
  const auto event = [&](int32_t layer, int32_t expert) {
    const Pick pick{expert, 0};
    const auto experts = recorder.stage(RangeName::kExperts, layer);
    cache.begin(layer, {&pick, 1}, expert);
    while (!cache.next_wave(8).empty()) {
    }
    cache.end();
  };
  Statistics statistics(small_header());
  RingReader reader(find_rings(folder.path()).at(0));
  int blamed = 0, tokens = 0, held_up = 0;
  constexpr int kTokens = 100;
  for (int t = 0; tokens < kTokens && held_up < kTokens; ++t) {
    {
      auto step = recorder.step(t, 1);
      for (int32_t layer = 0; layer < 4; ++layer) event(layer, t % 64);
      step.done();
    }
    statistics.absorb(drain(reader), [&](const Token& token) {
      // Where the machine itself takes as long, that is the cause: such a token says nothing here.
      constexpr int64_t kHeldUpNs = 15000000;
      if (token.other_ns() > kHeldUpNs || token.compute_ns > kHeldUpNs) {
        ++held_up;
        return;
      }
      ++tokens;
      const std::string text = explain(token);
      blamed += cause_of(token) == std::string("reads") && !token.waits.empty() &&
                        std::max_element(
                            token.waits.begin(), token.waits.end(),
                            [](auto& a, auto& b) {
                              return a.ns < b.ns;
                            })->layer == 2
                    ? 1
                    : 0;
      EXPECT_THAT(text, testing::HasSubstr("waiting for 4 reads in layers 0, 1, 2, 3"));
      EXPECT_GE(token.read_wait_ns, 25000000);  // the read began before the wait
    });
  }
  EXPECT_EQ(blamed, kTokens);
}

TEST_F(DaemonTest, ASlowTokenGetsALineAndUsualOnesDoNot) {
  Script script;
  for (int t = 0; t < 60; ++t) {
    script.begin(t);
    // A third are fast: it is the median that a token is set beside.
    script.range(RangeName::kReadWait, 3, (t == 40 ? 50 : t % 3 == 0 ? 1 : 9) * kMs, 2);
    script.time_ns += kMs;
    script.end();
  }
  Ring ring(folder.path(), small_header(), 4096, 4);
  for (const Record& record : script.records) ring.write(record);
  {
    JsonLog log(log_path(), 1 << 20);
    daemon.tick(now(), &log);
  }
  const std::vector<json> lines = lines_of(log_path());
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["event"], "slow token");
  EXPECT_EQ(lines[0]["cause"], "reads");
  EXPECT_EQ(lines[0]["text"], "token 40: 51 ms, 50 ms waiting for 2 reads in layer 3");
  EXPECT_EQ(lines[1]["event"], "tick");
  EXPECT_EQ(lines[1]["tokens"], 60);
  EXPECT_EQ(
      metric(daemon.metrics(), "hotset_slow_tokens_total{cause=\"reads\",model=\"model.gguf\"}"),
      1);
}

TEST_F(DaemonTest, AKilledEngineIsNoticedAtTheNextTickAndTheNextOnePickedUp) {
  const auto recorder = [&] {
    return std::make_unique<hotset::Recorder>(
        std::make_unique<Ring>(folder.path(), small_header(), 1024, 4));
  };
  EngineProcess killed([&] {
    auto first = recorder();
    for (int t = 0; t < 5; ++t) first->step(t, 1).done();
    return first;
  });
  JsonLog log(log_path(), 1 << 20);
  daemon.tick(now(), &log);
  ASSERT_EQ(daemon.engines().size(), 1U);
  killed.kill();
  daemon.tick(now(), &log);
  EXPECT_TRUE(daemon.engines().empty());
  std::vector<json> lines = lines_of(log_path());
  EXPECT_EQ(lines.back()["event"], "end of engine");
  EXPECT_EQ(lines.back()["tokens"], 5);
  EXPECT_EQ(lines.back()["heat"].size(), 4U);
  daemon.tick(now(), &log);  // says it once
  EXPECT_EQ(lines_of(log_path()).size(), lines.size());

  const auto next = recorder();
  daemon.tick(now(), &log);
  ASSERT_EQ(daemon.engines().size(), 1U);
  EXPECT_EQ(daemon.engines()[0]->reader.header().pid, getpid());
}

TEST_F(DaemonTest, AnEngineThatEndsIsReadToItsEnd) {
  auto engine = demo(2 << 20);
  daemon.tick(now(), nullptr);
  decode(*engine, 10);
  const CacheStats truth = engine->cache_stats();
  engine.reset();
  JsonLog log(log_path(), 1 << 20);
  daemon.tick(now(), &log);
  const json last = lines_of(log_path()).back();
  EXPECT_EQ(last["event"], "end of engine");
  EXPECT_EQ(last["hits"], truth.hits);
  EXPECT_EQ(last["misses"], truth.misses);
  // Nobody has asked for metrics while it lived, and they are as whole.
  EXPECT_EQ(metric(daemon.metrics(), "hotset_tokens_total{model=\"model.gguf\"}"), 10);
  EXPECT_EQ(metric(daemon.metrics(), "hotset_engines"), 0);
}

TEST_F(DaemonTest, ARingThatWasCutOffIsToldOfOnceAsAnEnd) {
  const Ring ring(folder.path(), small_header(), 256, 2);
  daemon.tick(now(), nullptr);
  ASSERT_EQ(daemon.engines().size(), 1U);
  ASSERT_EQ(truncate(ring.path().c_str(), 100), 0);
  for (int tick = 0; tick < 3; ++tick) {
    daemon.tick(now(), nullptr);
    EXPECT_TRUE(daemon.engines().empty());
    EXPECT_TRUE(daemon.refused().empty());
  }
  ASSERT_EQ(truncate(ring.path().c_str(), ring.bytes()), 0);  // its owner's, still
}

TEST_F(DaemonTest, AForeignRingIsRefusedAndNamedAndTheOthersAreWatched) {
  const Ring good(folder.path(), small_header(), 256, 2);
  std::ofstream(folder.path() + "/1-0.ring") << std::string(10000, 'x');
  std::ofstream(folder.path() + "/" + std::to_string(getppid()) + "-0.ring") << "short";
  daemon.tick(now(), nullptr);
  EXPECT_EQ(daemon.engines().size(), 1U);
  EXPECT_EQ(daemon.refused().size(), 2U);
}

// Started within a session, and without one.
TEST_F(DaemonTest, EnginesInSeveralFoldersAreWatchedAndNobodyElses) {
  ASSERT_TRUE(std::filesystem::create_directory(folder.path()));
  const auto place = [&](const char* name) { return folder.path() + "/" + name; };
  auto within = std::make_unique<Ring>(place("within"), small_header(), 256, 2);
  const Ring without(place("without"), small_header(), 256, 2);
  const Ring open(place("open"), small_header(), 256, 2);
  std::filesystem::permissions(place("open"), std::filesystem::perms::all);
  Daemon both({place("within"), place("missing"), place("without"), place("open")}, 2);
  const auto paths = [&] {
    both.tick(now(), nullptr);
    std::vector<std::string> found;
    for (const auto& engine : both.engines()) found.push_back(engine->reader.path());
    return found;
  };
  EXPECT_THAT(paths(), testing::ElementsAre(within->path(), without.path()));
  within.reset();
  EXPECT_THAT(paths(), testing::ElementsAre(without.path()));
}

TEST_F(DaemonTest, AFullDiskCostsLinesAndNothingElse) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "needs /dev/full";
  JsonLog log("/dev/full", 1 << 20);
  const hotset::Recorder recorder(std::make_unique<Ring>(folder.path(), small_header(), 256, 2));
  daemon.tick(now(), &log);
  daemon.tick(now(), &log);
  EXPECT_EQ(log.lost(), 2U);
  daemon.tick(now(), &log);
  EXPECT_EQ(metric(daemon.metrics(), "hotset_daemon_log_lines_lost_total"), 3);
}

TEST_F(DaemonTest, ThePageTheStateAndTheMetricsAreServedToThisMachineOnly) {
  const auto engine = demo(2 << 20);
  decode(*engine, 5);
  daemon.tick(now(), nullptr);
  HttpOptions options;
  options.port = 0;
  const HttpServer server(daemon, options);
  httplib::Client client("127.0.0.1", server.port());
  EXPECT_THAT(client.Get("/")->body, testing::HasSubstr("<canvas id=\"heat\""));
  EXPECT_THAT(client.Get("/")->get_header_value("Content-Security-Policy"),
              testing::HasSubstr("default-src 'none'; script-src 'self'"));
  EXPECT_THAT(client.Get("/page.js")->body, testing::HasSubstr("state.json"));
  EXPECT_THAT(client.Get("/chart.js")->body, testing::HasSubstr("Chart.js v3"));
  EXPECT_EQ(client.Get("/page.css")->status, 200);
  EXPECT_THAT(client.Get("/metrics")->body, testing::HasSubstr("hotset_tokens_total"));
  const json state = json::parse(client.Get("/state.json")->body);
  EXPECT_EQ(state["engines"][0]["tokens"], 5);
  EXPECT_EQ(state["engines"][0]["layers"].size(), 64U);
  EXPECT_EQ(state["engines"][0]["heat"][0].get<std::string>().size(), 512U);
  EXPECT_EQ(state["history"].size(), 1U);
  for (const char* host : {"evil.example:9477", "127.0.0.1.evil.example", "128.0.0.1", ""}) {
    EXPECT_EQ(client.Get("/state.json", {{"Host", host}})->status, 403) << host;
  }
  for (const char* host : {"localhost:9477", "127.0.0.2", "[::1]:9477"}) {
    EXPECT_EQ(client.Get("/state.json", {{"Host", host}})->status, 200) << host;
  }
  EXPECT_EQ(client.Get("/nothing")->status, 404);
}

TEST_F(DaemonTest, AnAddressThatOthersReachNeedsAKey) {
  HttpOptions options;
  options.port = 0;
  options.address = "0.0.0.0";
  EXPECT_THROW(HttpServer(daemon, options), Error);
  options.address = "127.example";
  EXPECT_THROW(HttpServer(daemon, options), Error);
  options.address = "0.0.0.0";
  options.key = "secret";
  const HttpServer server(daemon, options);
  httplib::Client client("127.0.0.1", server.port());
  EXPECT_EQ(client.Get("/metrics")->status, 401);
  EXPECT_EQ(client.Get("/metrics", {{"Authorization", "Bearer secreT"}})->status, 401);
  EXPECT_EQ(client.Get("/metrics", {{"Authorization", "Bearer secret"}})->status, 200);
  EXPECT_EQ(client.Get("/?key=secret")->status, 200);
  EXPECT_EQ(client.Get("/?key=")->status, 401);
}

// Else the system would hand out its requests to both.
TEST_F(DaemonTest, APortIsOneDaemons) {
  HttpOptions options;
  options.port = 0;
  const HttpServer server(daemon, options);
  options.port = server.port();
  try {
    const HttpServer second(daemon, options);
    ADD_FAILURE() << "two listen on port " << options.port;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("is another daemon running?"));
  }
}

TEST_F(DaemonTest, AFrameFitsItsTerminal) {
  const auto engine = demo(2 << 20);
  decode(*engine, 5);
  daemon.tick(now(), nullptr);
  const std::string frame = frame_of(daemon, now(), 60, 10);
  EXPECT_EQ(std::count(frame.begin(), frame.end(), '\n'), 10);
  std::istringstream lines(frame);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 60U);
  EXPECT_THAT(frame, testing::HasSubstr("hit rate    10 s"));
  EXPECT_THAT(frame, testing::HasSubstr("5 tokens"));
}

TEST_F(DaemonTest, AReportHoldsTheLogAndToleratesABrokenEnd) {
  {
    const auto engine = demo(2 << 20);
    decode(*engine, 5);
    JsonLog log(log_path(), 1 << 20);
    daemon.tick(now(), &log);
    daemon.finish(now(), &log);
  }
  std::ifstream file(log_path());
  std::string log{std::istreambuf_iterator<char>(file), {}};
  log += "{\"event\":\"tick\",\"mod";
  const std::string page = report_of(log, "log");
  const size_t begin = page.find("application/json\">") + 18;
  const json state = json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  EXPECT_EQ(state["history"].size(), 2U);
  EXPECT_EQ(state["engines"][0]["heat"].size(), 64U);
  EXPECT_THAT(page, testing::Not(testing::HasSubstr("src=")));
  EXPECT_THROW(report_of("{}\nnothing\n", "log"), Error);
}

}  // namespace
}  // namespace hotset::test
