// What each exporter says of one engine whose every record is known: names, labels, units.
#include <gmock/gmock.h>
#include <unistd.h>

#include "kernels/check.h"
#include "profiler/daemon.h"
#include "profiler/frame.h"
#include "profiler/report.h"
#include "tests/profiler/exported.h"
#include "tests/profiler/rings.h"

namespace hotset::test {
namespace {

using testing::HasSubstr;

class ExportersTest : public testing::Test {
 protected:
  std::unique_ptr<Ring> ring() const {
    auto made = std::make_unique<Ring>(folder.path(), small_header(), 1024, 2);
    made->take_step_lane();
    return made;
  }
  static void write(Ring& ring, Script& script) {
    for (const Record& record : script.records) ring.write(record);
    script.records.clear();
  }
  // A prompt of 5 rows, then a token of 36 ms.
  static void play(Ring& ring) {
    ring.gauges().budget_bytes = 2000;
    ring.gauges().resident_bytes = 600;
    Script script;
    const auto slot = [&](RecordType type, int32_t expert) {
      script.add(type, 0, 0, SlotRecord{expert, 0, 100});
    };
    const auto transfer = [&](TransferCause cause, int64_t bytes, int64_t ns, int32_t to_card) {
      script.add(
          RecordType::kTransfer, static_cast<uint8_t>(cause), 0,
          TransferRecord{.duration_ns = ns, .bytes = bytes, .expert = 1, .to_card = to_card});
    };
    for (const int32_t expert : {1, 2, 3}) slot(RecordType::kAdmit, expert);
    script.begin(0, 5);
    script.end();
    script.begin(5);
    script.picks(0, {1, 2, 4, 5}, 2);
    script.range(RangeName::kReadWait, 0, 20 * kMs, 2);
    script.layer(0, {{kMs, kMs, 22 * kMs, kMs}}, 20 * kMs);
    script.range(RangeName::kCardWait, 0xffff, 3 * kMs);
    script.records.back().set(RangeRecord{.duration_ns = 23 * kMs});  // with the reads
    script.layer(1, {{0, 0, 5 * kMs, 0}}, 3 * kMs);
    script.time_ns += 2 * kMs;
    script.end(4 * kMs);
    for (const int32_t expert : {1, 3}) slot(RecordType::kEvict, expert);
    transfer(TransferCause::kMiss, 100, (1 << 13) - 1, 0);
    transfer(TransferCause::kMiss, 100, 1 << 13, 0);
    transfer(TransferCause::kFill, 300, 1 << 20, 0);
    transfer(TransferCause::kAdmission, 700, 1 << 20, 1);
    script.add(RecordType::kPrediction, 0, 1, PredictionRecord{8, 3, 4});
    script.add(RecordType::kGuard, static_cast<uint8_t>(GuardLane::kPrefetch), 0,
               GuardRecord{0, -2.5});
    script.add(RecordType::kError, 0, 0, ErrorRecord{"disk\x01 failed"});
    script.add(RecordType::kAdmit, 0, 9, SlotRecord{});  // there is no such layer
    write(ring, script);
  }
  Now at(double seconds) const {  // after the script began
    return {static_cast<uint64_t>((5 + seconds) * 1e9), 1000};
  }
  json line_of_tick() {
    JsonLog log(folder.path() + "/log", 1 << 20);
    daemon.tick(at(1), &log);
    return lines_of(folder.path() + "/log").back();
  }
  RingFolder folder;
  Daemon daemon{{folder.path()}, 2};
};

TEST_F(ExportersTest, EveryMetricIsWhatItsRecordsSay) {
  const auto engine = ring();
  play(*engine);
  daemon.tick(at(1), nullptr);
  const std::string text = daemon.metrics();
  const auto value = [&](const std::string& name, const std::string& label = "") {
    return metric(text, "hotset_" + name + "{" + label + (label.empty() ? "" : ",") +
                            "model=\"model.gguf\"}");
  };
  EXPECT_EQ(metric(text, "hotset_engines"), 1);
  EXPECT_EQ(value("tokens_total"), 1);
  EXPECT_EQ(value("prompt_tokens_total"), 5);
  EXPECT_EQ(
      metric(text,
             "hotset_expert_picks_total{layer=\"0\",model=\"model.gguf\",source=\"resident\"}"),
      2);
  EXPECT_EQ(
      metric(text, "hotset_expert_picks_total{layer=\"0\",model=\"model.gguf\",source=\"read\"}"),
      2);
  for (const auto& [part, seconds] :
       {std::pair{"compute", 0.011}, {"reads", 0.020}, {"card", 0.003}, {"other", 0.002}}) {
    const std::string name =
        std::string("hotset_token_time_seconds_total{model=\"model.gguf\",part=\"");
    EXPECT_NEAR(metric(text, name + part + "\"}"), seconds, 1e-9) << part;
  }
  EXPECT_EQ(value("read_bytes_total", "cause=\"miss\""), 200);
  EXPECT_EQ(value("read_bytes_total", "cause=\"fill\""), 300);
  EXPECT_EQ(value("read_bytes_total", "cause=\"admission\""), 0);
  EXPECT_EQ(value("copied_bytes_total", "cause=\"admission\""), 700);
  EXPECT_EQ(value("copied_bytes_total", "cause=\"miss\""), -1) << "a host has no copies";
  EXPECT_EQ(value("admissions_total"), 3);
  EXPECT_EQ(value("admissions_hit_total"), 2);
  EXPECT_EQ(value("evictions_total"), 2);
  EXPECT_EQ(value("evictions_unhit_total"), 1);
  const std::string predictions = "hotset_predictions_total{model=\"model.gguf\",result=\"";
  EXPECT_EQ(metric(text, predictions + "right\"}"), 3);
  EXPECT_EQ(metric(text, predictions + "wrong\"}"), 5);
  EXPECT_EQ(metric(text, "hotset_guard_on{lane=\"prefetch\",model=\"model.gguf\"}"), 0);
  EXPECT_EQ(metric(text, "hotset_guard_on{lane=\"copies\",model=\"model.gguf\"}"), -1);
  EXPECT_EQ(value("errors_total"), 1);
  EXPECT_EQ(value("records_lost_total"), 0);
  EXPECT_EQ(value("records_invalid_total"), 1);
  const std::string ram = "{model=\"model.gguf\",tier=\"ram\"}";
  EXPECT_EQ(metric(text, "hotset_expert_resident_bytes" + ram), 600);
  EXPECT_EQ(metric(text, "hotset_expert_budget_bytes" + ram), 2000);
  EXPECT_THAT(text, testing::Not(HasSubstr("tier=\"card\""))) << "there is none";
  EXPECT_EQ(value("token_latency_seconds_count"), 1);
  EXPECT_NEAR(value("token_latency_seconds_sum"), 0.036, 1e-9);
  EXPECT_EQ(value("read_duration_seconds_count"), 3);
  EXPECT_EQ(bucket_up_to(text, "hotset_read_duration_seconds", (1 << 13) - 1, 1e-9), 1);
  EXPECT_EQ(bucket_up_to(text, "hotset_read_duration_seconds", (1 << 14) - 1, 1e-9), 2);
}

// A value that is the largest of a bucket is in it, the next one is not.
TEST_F(ExportersTest, BucketsEndWhereTheySayTheyDo) {
  const auto engine = ring();
  Script script;
  for (int64_t position = 0; const uint64_t ns : {1ULL, (1ULL << 20) - 1, 1ULL << 20, 1ULL << 21}) {
    script.begin(position++);
    // 7 is used again at once, and then after one other.
    script.picks(0, {position < 3 ? uint16_t{7} : position == 3 ? uint16_t{8} : uint16_t{7}}, 0);
    script.time_ns += ns;
    script.end();
  }
  write(*engine, script);
  daemon.tick(at(1), nullptr);
  const std::string text = daemon.metrics();
  const std::string latency = "hotset_token_latency_seconds",
                    reuse = "hotset_reuse_distance_experts";
  EXPECT_EQ(bucket_up_to(text, latency, (1 << 19) - 1, 1e-9), 0) << "the first has no latency";
  EXPECT_EQ(bucket_up_to(text, latency, (1 << 20) - 1, 1e-9), 1);
  EXPECT_EQ(bucket_up_to(text, latency, (1 << 21) - 1, 1e-9), 2);
  EXPECT_EQ(bucket_up_to(text, latency, (1 << 22) - 1, 1e-9), 3);
  EXPECT_EQ(bucket_up_to(text, reuse, 0, 1), 1);
  EXPECT_EQ(bucket_up_to(text, reuse, 1, 1), 2);
}

TEST_F(ExportersTest, RoundsAddWhatIsNewAndEnginesOfAModelAddUp) {
  auto first = ring();
  play(*first);
  daemon.tick(at(1), nullptr);
  daemon.metrics();
  Script script;
  script.begin(6);
  script.picks(0, {1, 2, 4, 5}, 4);
  script.end();
  write(*first, script);
  const auto second = ring();
  play(*second);
  for (Ring* ring : {first.get(), second.get()}) {
    script.add(RecordType::kGuard, static_cast<uint8_t>(GuardLane::kPrefetch), 0,
               GuardRecord{1, 2});
    write(*ring, script);
  }
  daemon.tick(at(2), nullptr);
  std::string text = daemon.metrics();
  const auto value = [&](const std::string& name) {
    return metric(text, "hotset_" + name + "{model=\"model.gguf\"}");
  };
  const std::string resident = "hotset_expert_resident_bytes{model=\"model.gguf\",tier=\"ram\"}";
  EXPECT_EQ(text, daemon.metrics());
  EXPECT_EQ(metric(text, "hotset_engines"), 2);
  EXPECT_EQ(value("tokens_total"), 3);
  EXPECT_EQ(value("token_latency_seconds_count"), 2);
  EXPECT_NEAR(value("token_latency_seconds_sum"), 0.072, 1e-9);
  EXPECT_EQ(metric(text, resident), 1200);
  const std::string guard = "hotset_guard_on{lane=\"prefetch\",model=\"model.gguf\"}";
  EXPECT_EQ(metric(text, guard), 2);
  first.reset();
  daemon.tick(at(3), nullptr);
  text = daemon.metrics();
  EXPECT_EQ(metric(text, "hotset_engines"), 1);
  EXPECT_EQ(value("tokens_total"), 3);
  EXPECT_EQ(metric(text, resident), 600) << "of those that run";
  EXPECT_EQ(metric(text, guard), 1);
}

TEST_F(ExportersTest, GaugesGoWithTheirEngineAndCountersStay) {
  auto engine = ring();
  play(*engine);
  daemon.tick(at(1), nullptr);
  const std::string guard = "hotset_guard_on{lane=\"prefetch\",model=\"model.gguf\"}",
                    ram = "{model=\"model.gguf\",tier=\"ram\"}";
  EXPECT_EQ(metric(daemon.metrics(), guard), 0);
  engine.reset();
  daemon.tick(at(2), nullptr);
  const std::string text = daemon.metrics();
  for (const std::string& gauge :
       {guard, "hotset_expert_resident_bytes" + ram, "hotset_expert_budget_bytes" + ram}) {
    EXPECT_EQ(metric(text, gauge), -1) << "there is none any more: " << gauge;
  }
  EXPECT_EQ(metric(text, "hotset_tokens_total{model=\"model.gguf\"}"), 1);
}

// A token of 40 ms on a card, which waited for it, and it for the host's 4 ms of reads.
TEST_F(ExportersTest, ACardIsATierOfItsOwnAndIsWaitedFor) {
  const auto engine = ring();
  Script script;
  script.begin(0, 3);
  script.add(RecordType::kCard, 0, 0, CardRecord{0, 4, 5000, 0});
  script.end();
  script.begin(3);
  script.picks(1, {5, 6}, 1);
  script.range(RangeName::kReadWait, 1, 4 * kMs, 1);
  script.time_ns += 25 * kMs;
  script.range(RangeName::kCardWait, 0xffff, kMs);
  script.records.back().set(RangeRecord{.duration_ns = 30 * kMs});
  script.add(RecordType::kCard, 0, 0, CardRecord{6, 2, 5000, 3000});
  script.time_ns += 10 * kMs;
  script.end();
  write(*engine, script);
  std::vector<Token> tokens;
  Statistics statistics(small_header());
  RingReader reader(engine->path());
  statistics.absorb(drain(reader), [&](const Token& token) { tokens.push_back(token); });
  EXPECT_EQ(explain(tokens.at(1)), "token 3: 40 ms, 26 ms waiting for the card");
  const json line = line_of_tick();
  EXPECT_EQ(line["split_ms"],
            json({{"compute", 0.0}, {"reads", 4.0}, {"card", 26.0}, {"other", 10.0}}));
  EXPECT_EQ(line["card"], json({{"hits", 6},
                                {"misses", 6},
                                {"hit_rate", 0.5},
                                {"hit_rate_10s", 0.5},
                                {"hit_rate_60s", 0.5},
                                {"slot_bytes", 5000},
                                {"resident_bytes", 3000}}));
  daemon.tick(at(12), nullptr);
  const json later = json::parse(daemon.state())["engines"][0]["card"];
  EXPECT_EQ(later["hit_rate_10s"], 0.0);
  EXPECT_EQ(later["hit_rate_60s"], 0.5);
  const std::string text = daemon.metrics(), of = "{model=\"model.gguf\",";
  EXPECT_EQ(metric(text, "hotset_expert_resident_bytes" + of + "tier=\"card\"}"), 3000);
  EXPECT_EQ(metric(text, "hotset_expert_budget_bytes" + of + "tier=\"card\"}"), 5000);
  EXPECT_EQ(metric(text, "hotset_card_expert_picks_total" + of + "result=\"hit\"}"), 6);
  EXPECT_EQ(metric(text, "hotset_card_expert_picks_total" + of + "result=\"miss\"}"), 6);
  EXPECT_EQ(metric(text, "hotset_expert_picks_total{layer=\"1\"," + of.substr(1) +
                             "source=\"resident\"}"),
            1);
  EXPECT_THAT(
      frame_of(daemon, at(1), 100, 0),
      HasSubstr("on the card 10 s  50.0 %   1 min  50.0 %   all  50.0 %   3.0 KB of 5.0 KB\n"));
}

TEST_F(ExportersTest, ALineOfTheLogSaysItAll) {
  const auto engine = ring();
  play(*engine);
  json line = line_of_tick();
  EXPECT_EQ(line["event"], "tick");
  EXPECT_EQ(line["pid"], getpid());
  EXPECT_EQ(line["split_ms"],
            json({{"compute", 11.0}, {"reads", 20.0}, {"card", 3.0}, {"other", 2.0}}));
  // A sixteenth above the truth, at most.
  EXPECT_GE(line["token_ms"]["p50"], 36.0);
  EXPECT_LE(line["token_ms"]["p50"], 38.3);
  EXPECT_NEAR(line["read_ms"]["p50"].get<double>(), 0.0082, 0.0006);
  EXPECT_EQ(line["hit_rate"], 0.5);
  EXPECT_EQ(line["tokens_per_s"], 1.0);
  for (const auto& [key, number] : {std::pair<std::string, int>{"tokens", 1},
                                    {"prompt_tokens", 5},
                                    {"hits", 2},
                                    {"misses", 2},
                                    {"bytes_read", 500},
                                    {"resident_bytes", 600},
                                    {"budget_bytes", 2000},
                                    {"admissions", 3},
                                    {"evictions", 2},
                                    {"admissions_hit", 2},
                                    {"evictions_unhit", 1},
                                    {"predicted", 8},
                                    {"predicted_right", 3},
                                    {"errors", 1},
                                    {"records_lost", 0},
                                    {"records_invalid", 1}}) {
    EXPECT_EQ(line[key], number) << key;
  }
  EXPECT_EQ(line["guards"],
            json({{"prefetch", {{"on", false}, {"gain_ms", -2.5}, {"changes", 1}}}}));
  EXPECT_EQ(line["last_error"], "disk? failed");
  EXPECT_FALSE(line.contains("heat"));
}

TEST_F(ExportersTest, WindowsAreTenSecondsAndAMinute) {
  const auto engine = ring();
  Script script;
  for (const size_t hits : {0, 4, 2}) {  // half a minute apart
    script.begin(1);
    script.picks(1, {1, 2, 3, 4}, hits);
    script.end();
    script.time_ns += 28000 * kMs;
  }
  write(*engine, script);
  daemon.tick(at(59), nullptr);
  const json detail = json::parse(daemon.state())["engines"][0];
  EXPECT_EQ(detail["hit_rate_10s"], 0.5);
  EXPECT_EQ(detail["hit_rate_60s"], 0.5);
  EXPECT_EQ(detail["hit_rate"], 0.5);
  daemon.tick(at(63), nullptr);
  const json later = json::parse(daemon.state())["engines"][0];
  EXPECT_EQ(later["hit_rate_60s"], 0.75);
  EXPECT_EQ(later["layers"][1]["hit_rate_60s"], 0.75);
  EXPECT_EQ(later["layers"][1]["hit_rate"], 0.5);
  EXPECT_EQ(later["layers"][0]["hit_rate"], 0.0);
}

// In steps of two: the hottest is 9.
TEST_F(ExportersTest, HeatIsADigitAnExpertAndHalfOfItGoesInAMinute) {
  const auto engine = ring();
  Script script;
  script.begin(0);
  for (int i = 0; i < 8; ++i) script.picks(0, {5}, 1);
  for (int i = 0; i < 4; ++i) script.picks(1, {6}, 1);
  script.picks(3, {63}, 1);
  script.end();
  write(*engine, script);
  daemon.tick(at(1), nullptr);
  const auto heat = [&] { return json::parse(daemon.state())["engines"][0]["heat"]; };
  const std::string cold(64, '0');
  const auto row = [&](size_t expert, char digit) {
    std::string text = cold;
    text[expert] = digit;
    return text;
  };
  EXPECT_EQ(heat(), json({row(5, '9'), row(6, '8'), cold, row(63, '6')}));
  daemon.tick(at(61), nullptr);
  EXPECT_FLOAT_EQ(daemon.engines()[0]->statistics.heat(0, 5), 4);
  script.begin(1);
  for (int i = 0; i < 8; ++i) script.picks(2, {7}, 1);
  script.end();
  write(*engine, script);
  daemon.tick(at(61), nullptr);
  EXPECT_EQ(heat(), json({row(5, '8'), row(6, '7'), row(7, '9'), row(63, '5')}));
}

TEST_F(ExportersTest, AFrameSaysItInMillisecondsAndBars) {
  const auto engine = ring();
  play(*engine);
  std::ofstream(folder.path() + "/1-0.ring") << std::string(10000, 'x');
  daemon.tick(at(1), nullptr);
  const std::string frame = frame_of(daemon, at(1), 100, 0);
  EXPECT_THAT(frame, testing::StartsWith("refused: " + folder.path() + "/1-0.ring: "));
  for (const char* line :
       {"model.gguf  pid ", "  1 tokens, 1.0/s  errors 1  lost 0\n",
        "hit rate    10 s  50.0 %   1 min  50.0 %   all  50.0 %\n",
        "token       p50 37.75 ms   p90 37.75 ms   p99 37.75 ms\n",
        "spent on    compute 11.00 ms   reads 20.00 ms   card 3.00 ms   other 2.00 ms\n",
        "experts     600 B of 2.0 KB   read 500 B   admitted 3 (2 hit)   evicted 2\n"}) {
    EXPECT_THAT(frame, HasSubstr(line));
  }
  EXPECT_THAT(
      frame_of(daemon, at(1), 42, 0),
      HasSubstr(
          "layer   0  ##########..........  50.0 %\nlayer   1  ....................   0.0 %\n"));
}

// Of two engines each shows its own, however many the other has.
TEST_F(ExportersTest, AFrameShowsTheLastSlowTokensOfEachEngine) {
  const auto play_from = [&](int64_t position) {
    auto made = ring();
    Script script;
    for (int t = 0; t < 30; ++t) {
      script.begin(position + t);
      script.range(RangeName::kReadWait, 1, (t < 20 ? 10 : 50) * kMs, 1);
      script.end();
    }
    write(*made, script);
    return made;
  };
  const EngineProcess other([&] { return play_from(100); });
  const auto engine = play_from(0);
  daemon.tick(at(2), nullptr);
  const std::string frame = frame_of(daemon, at(2), 100, 0);
  const std::string slow = ": 50 ms, 50 ms waiting for 1 read in layer 1\n";
  for (const auto& [pid, first] : {std::pair{getpid(), 27}, {other.pid(), 127}}) {
    size_t at_line = frame.find("pid " + std::to_string(pid));
    for (int token = first; token < first + 3; ++token) {
      at_line = frame.find("slow        token " + std::to_string(token) + slow, at_line);
      ASSERT_NE(at_line, std::string::npos) << token << "\n" << frame;
    }
    EXPECT_EQ(frame.find("layer   0", at_line) < frame.find("pid ", at_line), true) << frame;
  }
  EXPECT_EQ(frame.find("token 26"), std::string::npos);
  EXPECT_EQ(frame.find("token 27"), frame.rfind("token 27"));
}

TEST_F(ExportersTest, AReportHasTheSlowTokensAndEndsNoScriptEarly) {
  const auto engine = ring();
  play(*engine);
  json line = line_of_tick();
  line["model"] = "</script><b>";
  line["heat"] = {"09"};
  line["layers"] = json::array();
  const json slow = {{"event", "slow token"}, {"unix_ms", 1}, {"text", "token 7: </script>"}};
  const std::string page = report_of(line.dump() + "\n" + slow.dump() + "\n", "log");
  const std::string opening = "<script id=\"data\" type=\"application/json\">";
  const size_t begin = page.find(opening) + opening.size();
  const json state = json::parse(page.substr(begin, page.find("</script", begin) - begin));
  EXPECT_EQ(state["slow"], json::array({slow}));
  EXPECT_EQ(state["engines"][0], line);
  EXPECT_FALSE(state["history"][0].contains("heat")) << "once is enough";
  EXPECT_FALSE(state["history"][0].contains("layers"));
  for (const char* elsewhere : {"<link", "<script src"}) {
    EXPECT_EQ(page.find(elsewhere), std::string::npos) << elsewhere;
  }
}

}  // namespace
}  // namespace hotset::test
