// What `hotset tune` compares settings on: a trace or a running engine, with the costs of misses.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "profiler/tune.h"
#include "tools/config.h"
#include "tools/engine_client.h"

namespace hotset {

struct TuneFrom {
  std::string trace, model;  // a file of each; "": none
  std::string config_file;
  std::vector<std::string> sets;
  std::optional<std::string> ram;
  std::optional<double> miss_ms;
  std::optional<int64_t> tokens;  // at most, the last ones

  bool is_live = false;
  std::optional<int> pid;
  double seconds = 60;  // to watch a running engine, at most
};

struct TuneSubject {
  Config present;
  RoutingTrace trace;
  std::vector<int64_t> expert_bytes;  // [layers]
  bool has_sizes = true;              // false: expert_bytes are all 1
  int64_t present_budget_bytes = 0;
  TuneCosts costs;
  std::string costs_from;  // for people

  int64_t all_bytes() const;
  int64_t budget_of(const std::string& size) const;  // throws ConfigError
};

// All throw Error or ConfigError, and Interrupted.
TuneSubject subject_of_trace(const TuneFrom& from);
TuneSubject subject_of_engine(const TuneFrom& from);
// Settings, sizes and budget out of an engine's answer to `stats`; no trace and no costs.
TuneSubject subject_of_stats(const nlohmann::ordered_json& stats);

// Gives an engine those of the tuned settings that differ: it keeps what is resident, and what it
// has learned. Returns the keys that it says have changed.
std::vector<std::string> change_engine(const EngineAddress& engine, const Config& present,
                                       const Config& wanted, int timeout_ms = 0);

}  // namespace hotset
