// The statistics in Prometheus' text format, by its conventions: base units, counters that only
// rise. Engines of the same model add up; what an engine that ended had counted stays counted, and
// its gauges go with it.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "profiler/histogram.h"
#include "profiler/ring_reader.h"
#include "profiler/statistics.h"

namespace hotset {

// What of one engine has been exported already: counters take differences.
class EngineMetrics {
 public:
  explicit EngineMetrics(std::string model) : model_(std::move(model)) {}
  void count_slow(const std::string& cause) { ++slow_[cause]; }

 private:
  friend class Metrics;
  const std::string model_;
  std::map<std::string, uint64_t> slow_;  // by cause
  std::map<const prometheus::Counter*, double> counted_;
  std::map<const prometheus::Histogram*, std::pair<std::vector<double>, double>> observed_;
};

class Metrics {
 public:
  Metrics();

  // A round: begin, add for each engine, text.
  void begin(uint64_t log_lines_lost);
  void add(EngineMetrics& engine, const Statistics& statistics, const RingReader& reader);
  std::string text() const;

 private:
  using Labels = std::map<std::string, std::string>;
  prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help);
  prometheus::Family<prometheus::Gauge>& gauge(const char* name, const char* help);
  void count(EngineMetrics& engine, prometheus::Family<prometheus::Counter>& family, Labels labels,
             double total);
  prometheus::Gauge& of_engine(const EngineMetrics& engine,
                               prometheus::Family<prometheus::Gauge>& family, Labels labels);
  void observe(EngineMetrics& engine, prometheus::Family<prometheus::Histogram>& family,
               const Histogram& values, double unit, int first_octave, int octaves);
  void add_picks(EngineMetrics& engine, const Statistics& s);
  void add_bytes(const EngineMetrics& engine, const char* tier, int64_t resident, int64_t budget);
  void add_card(EngineMetrics& engine, const Statistics::Card& card);
  void add_residency(EngineMetrics& engine, const Statistics& s, const RingReader& reader);

  prometheus::Registry registry_;
  prometheus::Gauge& engines_;
  prometheus::Counter& log_lines_lost_;
  prometheus::Family<prometheus::Counter>&tokens_, &prompt_tokens_, &picks_, &token_time_, &slow_,
      &read_bytes_, &copied_bytes_, &admissions_, &evictions_, &admissions_hit_, &evictions_unhit_,
      &card_picks_, &predictions_, &errors_, &records_lost_, &records_invalid_;
  prometheus::Family<prometheus::Gauge>&resident_, &budget_, &guard_on_;
  // Gauges of the round's engines: those that run. The next round begins without them.
  std::map<prometheus::Gauge*, prometheus::Family<prometheus::Gauge>*> of_engines_;
  prometheus::Family<prometheus::Histogram>&latency_, &read_duration_, &reuse_;
};

}  // namespace hotset
