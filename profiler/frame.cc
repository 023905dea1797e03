#include "profiler/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace hotset {
namespace {

std::string bar(double part, int width) {
  const int full = std::clamp(static_cast<int>(part * width + 0.5), 0, width);
  return std::string(static_cast<size_t>(full), '#') +
         std::string(static_cast<size_t>(width - full), '.');
}

std::string bytes(int64_t n) {
  constexpr const char* kUnits[] = {"B", "KB", "MB", "GB", "TB"};
  auto value = static_cast<double>(n);
  int unit = 0;
  for (; value >= 1000 && unit < 4; ++unit) value /= 1000;
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

void add_engine(std::vector<std::string>& lines, const WatchedEngine& engine, const Now& now) {
  const Statistics& s = engine.statistics;
  const RingReader& reader = engine.reader;
  const TimeCounts recent = s.recent_time(now.monotonic_ns, 10);
  const auto ms = [](uint64_t ns) { return static_cast<double>(ns) / 1e6; };
  const auto mean_ms = [&](uint64_t ns) {
    return recent.tokens == 0 ? 0.0 : ms(ns) / static_cast<double>(recent.tokens);
  };
  lines.push_back(fmt::format("{}  pid {}  {} tokens, {:.1f}/s  errors {}  lost {}", reader.model(),
                              reader.header().pid, s.time().tokens,
                              s.recent_rate(now.monotonic_ns, 10), s.errors(), reader.lost()));
  lines.push_back(fmt::format("hit rate    10 s {:5.1f} %   1 min {:5.1f} %   all {:5.1f} %",
                              100 * s.recent_picks(now.monotonic_ns, 10).hit_rate(),
                              100 * s.recent_picks(now.monotonic_ns, 60).hit_rate(),
                              100 * s.picks().hit_rate()));
  lines.push_back(fmt::format("token       p50 {:.2f} ms   p90 {:.2f} ms   p99 {:.2f} ms",
                              ms(s.token_ns().quantile(0.5)), ms(s.token_ns().quantile(0.9)),
                              ms(s.token_ns().quantile(0.99))));
  lines.push_back(fmt::format(
      "spent on    compute {:.2f} ms   reads {:.2f} ms   card {:.2f} ms   other {:.2f} ms",
      mean_ms(recent.compute_ns), mean_ms(recent.read_wait_ns), mean_ms(recent.card_wait_ns),
      mean_ms(recent.other_ns)));
  if (s.card().is_known) {
    lines.push_back(fmt::format(
        "on the card 10 s {:5.1f} %   1 min {:5.1f} %   all {:5.1f} %   {} of {}",
        100 * s.recent_card_picks(now.monotonic_ns, 10).hit_rate(),
        100 * s.recent_card_picks(now.monotonic_ns, 60).hit_rate(), 100 * s.card().picks.hit_rate(),
        bytes(s.card().resident_bytes), bytes(s.card().slot_bytes)));
  }
  lines.push_back(fmt::format("experts     {} of {}   read {}   admitted {} ({} hit)   evicted {}",
                              bytes(reader.resident_bytes()), bytes(reader.budget_bytes()),
                              bytes(static_cast<int64_t>(s.bytes_read())), s.admissions(),
                              s.admissions_hit(), s.evictions()));
}

void add_layers(std::vector<std::string>& lines, const WatchedEngine& engine, const Now& now,
                int width) {
  const Statistics& s = engine.statistics;
  const int bar_width = std::max(10, width - 22);
  for (int32_t layer = 0; layer < s.layers(); ++layer) {
    const double rate = s.recent_picks(now.monotonic_ns, 60, layer).hit_rate();
    lines.push_back(
        fmt::format("layer {:>3}  {} {:5.1f} %", layer, bar(rate, bar_width), 100 * rate));
  }
}

// The last ones of the engine, oldest first.
void add_slow(std::vector<std::string>& lines, const Daemon& daemon, int64_t pid) {
  constexpr int kMost = 3;
  std::vector<std::string> found;
  const auto& slow = daemon.slow_tokens();
  for (auto it = slow.rbegin(); it != slow.rend() && std::ssize(found) < kMost; ++it) {
    if (it->pid == pid) found.push_back("slow        " + it->text);
  }
  lines.insert(lines.end(), found.rbegin(), found.rend());
}

}  // namespace

std::string frame_of(const Daemon& daemon, const Now& now, int width, int height) {
  width = std::max(width, 20);
  std::vector<std::string> lines;
  if (daemon.engines().empty()) lines.push_back("no engine runs");
  for (const std::string& why : daemon.refused()) lines.push_back("refused: " + why);
  // What explains goes first: layers are many, and a low terminal cuts the end off.
  for (const auto& engine : daemon.engines()) {
    add_engine(lines, *engine, now);
    add_slow(lines, daemon, engine->reader.header().pid);
    add_layers(lines, *engine, now, width);
  }
  std::string text;
  for (size_t i = 0; i < lines.size() && (height == 0 || std::cmp_less(i, height)); ++i) {
    text += lines[i].substr(0, static_cast<size_t>(width)) + "\n";
  }
  return text;
}

}  // namespace hotset
