// The watcher of all of a user's engines. A tick finds them, reads what they recorded since the
// last one, and tells the log. It changes nothing of theirs, and they know nothing of it. No clock
// and no thread in here: time comes in. What it shows is put together when somebody asks, which
// most ticks nobody does: metrics() and state() may be called while another thread ticks.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "profiler/json_log.h"
#include "profiler/metrics.h"
#include "profiler/ring_finder.h"
#include "profiler/ring_reader.h"
#include "profiler/statistics.h"

namespace hotset {

struct Now {
  uint64_t monotonic_ns = 0;  // as the records' times
  int64_t unix_ms = 0;        // for people
};

// An engine, as seen through its ring.
struct WatchedEngine {
  explicit WatchedEngine(const std::string& path)
      : reader(path), statistics(reader.header()), metrics(reader.model()) {}

  RingReader reader;
  Statistics statistics;
  EngineMetrics metrics;
  std::vector<Record> records;     // of the tick, where Daemon::keep_records() asks for them
  std::vector<int64_t> latencies;  // ns of the last tokens, oldest overwritten
  size_t next_latency = 0;
  bool is_alive = true;
};

struct SlowToken {
  int64_t unix_ms = 0;
  int64_t pid = 0;
  std::string cause, text;
  double ms = 0;
};

class Daemon {
 public:
  // Watches the rings in `folders`, of those that are this user's own. A token is slow if it takes
  // `slow_factor` times the median of those before it.
  Daemon(const std::vector<std::string>& folders, double slow_factor);

  // `log` may be null.
  void tick(const Now& now, JsonLog* log);
  // Last lines of the engines that still run: the watcher goes.
  void finish(const Now& now, JsonLog* log);

  // As of the last tick:
  std::string metrics();      // Prometheus text format
  std::string state() const;  // JSON: what the page draws

  void set_slow_factor(double factor) { slow_factor_ = factor; }
  // Whether engines() have each tick's records. Without, these are gone once they are counted.
  void keep_records(bool keep) { keeps_records_ = keep; }
  const std::vector<std::unique_ptr<WatchedEngine>>& engines() const { return engines_; }
  const std::deque<SlowToken>& slow_tokens() const { return slow_; }
  const std::vector<std::string>& refused() const { return refused_; }  // why, of the last tick

 private:
  void find_engines();
  void watch(const std::string& path);
  void read(WatchedEngine& engine, const Now& now, JsonLog* log);
  bool is_slow(WatchedEngine& engine, const Token& token) const;

  std::vector<RingFinder> folders_;
  double slow_factor_;
  bool keeps_records_ = false;
  mutable std::mutex mutex_;  // the rest
  Now now_;                   // of the last tick
  uint64_t log_lines_lost_ = 0;
  std::vector<std::unique_ptr<WatchedEngine>> engines_;
  std::set<std::string> gone_;  // rings whose engine is dead, and was told of
  std::vector<std::string> refused_;
  std::deque<SlowToken> slow_;       // the last ones
  std::deque<std::string> history_;  // the last lines of ticks
  Metrics metrics_;
};

}  // namespace hotset
