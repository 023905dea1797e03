#include "profiler/summary.h"

#include <algorithm>
#include <cmath>

namespace hotset {
namespace {

using nlohmann::ordered_json;

// Three digits are enough for people and keep a line short.
double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return 0;
  const double scale = std::pow(10.0, 3 - std::ceil(std::log10(std::fabs(value))));
  return std::round(value * scale) / scale;
}

double ms(double ns) {
  return rounded(ns / 1e6);
}

ordered_json quantiles(const Histogram& h, double unit) {
  const auto at = [&](double q) { return rounded(static_cast<double>(h.quantile(q)) / unit); };
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}};
}

// Mean of a token, by what it was spent on.
ordered_json split(const TimeCounts& time) {
  const auto mean = [&](uint64_t ns) {
    return time.tokens == 0 ? 0.0 : ms(static_cast<double>(ns) / static_cast<double>(time.tokens));
  };
  return {{"compute", mean(time.compute_ns)},
          {"reads", mean(time.read_wait_ns)},
          {"card", mean(time.card_wait_ns)},
          {"other", mean(time.other_ns)}};
}

// A digit for each expert, 0 (cold) to 9 (the hottest of all), in steps of factor 2; a text a
// layer.
ordered_json heat(const Statistics& s) {
  float hottest = 0;
  for (int32_t l = 0; l < s.layers(); ++l) {
    for (int32_t e = 0; e < s.experts(); ++e) hottest = std::max(hottest, s.heat(l, e));
  }
  ordered_json rows = ordered_json::array();
  for (int32_t l = 0; l < s.layers(); ++l) {
    std::string row(static_cast<size_t>(s.experts()), '0');
    for (int32_t e = 0; e < s.experts(); ++e) {
      const float h = s.heat(l, e);
      if (h <= 0) continue;
      const auto below = static_cast<int>(std::log2(hottest / h));
      row[static_cast<size_t>(e)] = static_cast<char>('0' + std::max(0, 9 - below));
    }
    rows.push_back(row);
  }
  return rows;
}

void add_detail(ordered_json& line, const Statistics& s, const Now& now) {
  for (int32_t l = 0; l < s.layers(); ++l) {
    line["layers"].push_back(
        {{"hit_rate", rounded(s.layer_picks(l).hit_rate())},
         {"hit_rate_10s", rounded(s.recent_picks(now.monotonic_ns, 10, l).hit_rate())},
         {"hit_rate_60s", rounded(s.recent_picks(now.monotonic_ns, 60, l).hit_rate())}});
  }
  line["heat"] = heat(s);
}

}  // namespace

ordered_json tick_line(const WatchedEngine& engine, const Now& now, const char* event) {
  const Statistics& s = engine.statistics;
  const RingReader& reader = engine.reader;
  const TimeCounts recent = s.recent_time(now.monotonic_ns, 10);
  ordered_json line = {{"event", event},
                       {"unix_ms", now.unix_ms},
                       {"pid", reader.header().pid},
                       {"model", reader.model()},
                       {"tokens", s.time().tokens},
                       {"prompt_tokens", s.time().prompt_rows},
                       {"tokens_per_s", rounded(s.recent_rate(now.monotonic_ns, 10))},
                       {"hits", s.picks().hits()},
                       {"misses", s.picks().misses()},
                       {"hit_rate", rounded(s.picks().hit_rate())},
                       {"hit_rate_10s", rounded(s.recent_picks(now.monotonic_ns, 10).hit_rate())},
                       {"hit_rate_60s", rounded(s.recent_picks(now.monotonic_ns, 60).hit_rate())},
                       {"token_ms", quantiles(s.token_ns(), 1e6)},
                       {"split_ms", split(recent)},
                       {"reuse_distance", quantiles(s.reuse_distance(), 1)},
                       {"bytes_read", s.bytes_read()},
                       {"read_ms", quantiles(s.read_ns(), 1e6)},
                       {"resident_bytes", reader.resident_bytes()},
                       {"budget_bytes", reader.budget_bytes()},
                       {"admissions", s.admissions()},
                       {"evictions", s.evictions()},
                       {"admissions_hit", s.admissions_hit()},
                       {"evictions_unhit", s.evictions_unhit()},
                       {"predicted", s.predicted()},
                       {"predicted_right", s.predicted_right()},
                       {"errors", s.errors()},
                       {"records", reader.reported()},
                       {"records_lost", reader.lost()},
                       {"records_invalid", reader.invalid()}};
  if (s.card().is_known) {
    const auto rate = [&](int seconds) {
      return rounded(s.recent_card_picks(now.monotonic_ns, seconds).hit_rate());
    };
    line["card"] = {{"hits", s.card().picks.hits()},
                    {"misses", s.card().picks.misses()},
                    {"hit_rate", rounded(s.card().picks.hit_rate())},
                    {"hit_rate_10s", rate(10)},
                    {"hit_rate_60s", rate(60)},
                    {"slot_bytes", s.card().slot_bytes},
                    {"resident_bytes", s.card().resident_bytes}};
  }
  for (int i = 0; i < kGuardLanes; ++i) {
    const auto lane = static_cast<GuardLane>(i);
    if (!s.guard(lane).is_known) continue;
    line["guards"][guard_lane_name(lane)] = {{"on", s.guard(lane).is_on},
                                             {"gain_ms", rounded(s.guard(lane).gain_ms)},
                                             {"changes", s.guard(lane).changes}};
  }
  if (!s.last_error().empty()) line["last_error"] = s.last_error();
  if (event != std::string("tick")) add_detail(line, s, now);
  return line;
}

ordered_json slow_line(const SlowToken& slow) {
  return {{"event", "slow token"},  {"unix_ms", slow.unix_ms}, {"pid", slow.pid},
          {"ms", rounded(slow.ms)}, {"cause", slow.cause},     {"text", slow.text}};
}

ordered_json detail_of(const WatchedEngine& engine, const Now& now) {
  ordered_json detail = tick_line(engine, now, "tick");
  add_detail(detail, engine.statistics, now);
  return detail;
}

}  // namespace hotset
