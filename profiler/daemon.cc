#include "profiler/daemon.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "profiler/summary.h"

namespace hotset {
namespace {

constexpr size_t kSlowKept = 50, kTicksKept = 600, kLatenciesKept = 256;

}  // namespace

Daemon::Daemon(const std::vector<std::string>& folders, double slow_factor)
    : folders_(folders.begin(), folders.end()), slow_factor_(slow_factor) {}

void Daemon::tick(const Now& now, JsonLog* log) {
  const std::lock_guard lock(mutex_);
  const double seconds = static_cast<double>(now.monotonic_ns - now_.monotonic_ns) / 1e9;
  now_ = now;
  find_engines();
  for (const auto& engine : engines_) {
    engine->is_alive = engine->reader.writer_is_alive();  // before its last records are read
    engine->statistics.fade(seconds);
    read(*engine, now, log);
    const std::string line =
        tick_line(*engine, now, engine->is_alive ? "tick" : "end of engine").dump();
    if (log != nullptr) log->append(line);
    history_.push_back(line);
    if (history_.size() > kTicksKept) history_.pop_front();
    if (!engine->is_alive) {
      gone_.insert(engine->reader.path());
      metrics_.add(engine->metrics, engine->statistics, engine->reader);  // its last counts
    }
  }
  log_lines_lost_ = log == nullptr ? 0 : log->lost();
  std::erase_if(engines_, [](const auto& engine) { return !engine->is_alive; });
}

void Daemon::find_engines() {
  for (RingFinder& folder : folders_) folder.look();
  std::erase_if(gone_, [&](const std::string& path) {
    return std::none_of(folders_.begin(), folders_.end(), [&](const RingFinder& folder) {
      return std::binary_search(folder.rings().begin(), folder.rings().end(), path);
    });
  });
  refused_.clear();
  for (const RingFinder& folder : folders_) {
    for (const std::string& path : folder.rings()) watch(path);
  }
}

void Daemon::watch(const std::string& path) {
  const bool is_known = std::any_of(engines_.begin(), engines_.end(), [&](const auto& engine) {
    return engine->reader.path() == path;
  });
  if (is_known || gone_.contains(path)) return;
  try {
    auto engine = std::make_unique<WatchedEngine>(path);
    if (engine->reader.writer_is_alive()) engines_.push_back(std::move(engine));
  } catch (const Error& error) {
    refused_.push_back(error.what());
  }
}

void Daemon::read(WatchedEngine& engine, const Now& now, JsonLog* log) {
  const auto on_token = [&](const Token& token) {
    if (token.rows > 1 || token.failed || !is_slow(engine, token)) return;
    engine.metrics.count_slow(cause_of(token));
    slow_.push_back({now.unix_ms, engine.reader.header().pid, cause_of(token), explain(token),
                     static_cast<double>(token.latency_ns()) / 1e6});
    if (slow_.size() > kSlowKept) slow_.pop_front();
    if (log != nullptr) log->append(slow_line(slow_.back()).dump());
  };
  engine.records.clear();
  engine.reader.drain([&](std::span<const Record> records) {
    engine.statistics.absorb(records, on_token);
    if (keeps_records_) {
      engine.records.insert(engine.records.end(), records.begin(), records.end());
    }
  });
}

// Against the median of the tokens before it: what is usual differs a thousandfold by machine and
// model. A millisecond more than usual is never worth a line. The median itself is not needed: it
// is below a bound if more than half of the tokens are.
bool Daemon::is_slow(WatchedEngine& engine, const Token& token) const {
  constexpr size_t kLeast = 16;
  constexpr int64_t kLeastNs = 1000000;
  std::vector<int64_t>& known = engine.latencies;
  bool slow = false;
  if (known.size() >= kLeast) {
    const auto by_factor =
        static_cast<int64_t>(std::ceil(static_cast<double>(token.latency_ns()) / slow_factor_));
    const int64_t bound = std::min(by_factor, token.latency_ns() - kLeastNs);
    const auto is_below = [&](int64_t latency) { return latency < bound; };
    // Nothing takes less than no time: most tokens of a small model need no look at the others.
    slow = bound > 0 && std::count_if(known.begin(), known.end(), is_below) > std::ssize(known) / 2;
  }
  if (known.size() < kLatenciesKept) {
    known.push_back(token.latency_ns());
  } else {
    known[engine.next_latency++ % kLatenciesKept] = token.latency_ns();
  }
  return slow;
}

std::string Daemon::metrics() {
  const std::lock_guard lock(mutex_);
  metrics_.begin(log_lines_lost_);
  for (const auto& engine : engines_) {
    metrics_.add(engine->metrics, engine->statistics, engine->reader);
  }
  return metrics_.text();
}

std::string Daemon::state() const {
  const std::lock_guard lock(mutex_);
  nlohmann::ordered_json state = {{"unix_ms", now_.unix_ms},
                                  {"engines", nlohmann::ordered_json::array()},
                                  {"slow", nlohmann::ordered_json::array()}};
  for (const auto& engine : engines_) state["engines"].push_back(detail_of(*engine, now_));
  for (const SlowToken& slow : slow_) state["slow"].push_back(slow_line(slow));
  std::string text = state.dump();
  text.pop_back();  // the lines are JSON already
  text += ",\"history\":[";
  for (const std::string& line : history_) text += line + ",";
  if (!history_.empty()) text.pop_back();
  return text + "]}";
}

void Daemon::finish(const Now& now, JsonLog* log) {
  const std::lock_guard lock(mutex_);
  for (const auto& engine : engines_) {
    read(*engine, now, log);
    if (log != nullptr) log->append(tick_line(*engine, now, "end of watch").dump());
  }
}

}  // namespace hotset
