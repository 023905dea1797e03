#include "profiler/tune.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {
namespace {

struct StepCounts {  // one decode step
  int32_t rows = 0;
  int64_t accesses = 0, hits = 0;
};

struct Counted {
  std::vector<double> misses;  // a token, of each block
  double hit_rate = 0, misses_per_token = 0;
};

Counted count_blocks(std::span<const StepCounts> steps) {
  const auto first = static_cast<size_t>(kWarmUpShare * static_cast<double>(steps.size()));
  const std::span<const StepCounts> counted = steps.subspan(first);
  Counted out;
  double accesses = 0, misses = 0, tokens = 0;
  for (size_t block = 0; block < kTuneBlocks; ++block) {
    const size_t begin = counted.size() * block / kTuneBlocks;
    const size_t end = counted.size() * (block + 1) / kTuneBlocks;
    double block_misses = 0, block_tokens = 0;
    for (const StepCounts& step : counted.subspan(begin, end - begin)) {
      accesses += static_cast<double>(step.accesses);
      block_misses += static_cast<double>(step.accesses - step.hits);
      block_tokens += step.rows;
    }
    out.misses.push_back(block_misses / block_tokens);
    misses += block_misses;
    tokens += block_tokens;
  }
  out.hit_rate = accesses == 0 ? 0.0 : 1 - misses / accesses;
  out.misses_per_token = misses / tokens;
  return out;
}

Counted replay_setting(const RoutingTrace& trace, const TuneSetting& setting) {
  const MakePolicy make = [&](PolicyShape shape) {
    auto policy = make_policy(setting.policy, std::move(shape));
    // It lives by what it knew before: at best, this very use.
    if (setting.policy.kind == PolicyKind::kStatic) policy->restore(count_uses(trace));
    return policy;
  };
  std::vector<StepCounts> steps;
  // A miss had to be read anyway: no price.
  replay(trace, setting.pools, make, 0, [&](const EventCounts& event) {
    if (event.is_new_step) steps.push_back({event.rows});
    steps.back().accesses += event.accesses;
    steps.back().hits += event.hits;
  });
  return count_blocks(steps);
}

bool is_decode_step(const RoutingTrace& trace, size_t event) {
  const std::vector<RoutingTrace::Event>& events = trace.events;
  return events[event].phase == TracePhase::kDecode &&
         (event == 0 || events[event].step != events[event - 1].step);
}

}  // namespace

int64_t decode_steps(const RoutingTrace& trace) {
  int64_t steps = 0;
  for (size_t i = 0; i < trace.events.size(); ++i) steps += is_decode_step(trace, i);
  return steps;
}

RoutingTrace last_steps(const RoutingTrace& trace, int64_t steps) {
  int64_t found = 0;
  size_t first = trace.events.size();
  while (first > 0 && found < steps) found += is_decode_step(trace, --first);
  RoutingTrace out = {trace.header, {}, {}, {}, trace.damage};
  if (first == trace.events.size()) return out;
  const size_t ids = trace.events[first].first;
  out.events.assign(trace.events.begin() + static_cast<std::ptrdiff_t>(first), trace.events.end());
  for (RoutingTrace::Event& event : out.events) event.first -= ids;
  out.ids.assign(trace.ids.begin() + static_cast<std::ptrdiff_t>(ids), trace.ids.end());
  out.weights.assign(trace.weights.begin() + static_cast<std::ptrdiff_t>(ids), trace.weights.end());
  return out;
}

std::vector<TuneRow> tune(const RoutingTrace& trace, std::span<const TuneSetting> settings,
                          const TuneCosts& costs, const std::function<void(size_t)>& on_replay) {
  HOTSET_CHECK(decode_steps(trace) >= kTuneTokensLeast, "blocks need tokens");
  const double candidates = static_cast<double>(std::max<size_t>(settings.size(), 2) - 1);
  const double confidence = 1 - (1 - kTuneConfidence) / candidates;
  std::vector<TuneRow> rows;
  std::vector<double> present;
  for (const TuneSetting& setting : settings) {
    on_replay(rows.size());
    const Counted counted = replay_setting(trace, setting);
    if (rows.empty()) present = counted.misses;
    std::vector<double> gains;
    for (size_t i = 0; i < present.size(); ++i) {
      gains.push_back((present[i] - counted.misses[i]) * costs.miss_ms);
    }
    rows.push_back({setting, counted.hit_rate, counted.misses_per_token,
                    costs.rest_ms + counted.misses_per_token * costs.miss_ms,
                    mean_interval(gains, confidence)});
  }
  return rows;
}

size_t best_row(std::span<const TuneRow> rows) {
  size_t best = 0;
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].gain_ms.low() > 0 && rows[i].gain_ms.mean > rows[best].gain_ms.mean) best = i;
  }
  if (best == 0) return 0;
  const double enough = rows[best].gain_ms.low();
  size_t chosen = best;
  for (size_t i = 1; i < rows.size(); ++i) {
    const Interval& gain = rows[i].gain_ms;
    const bool is_smaller = rows[i].setting.budget_bytes < rows[chosen].setting.budget_bytes;
    if (is_smaller && gain.low() > 0 && gain.mean >= enough) chosen = i;
  }
  return chosen;
}

}  // namespace hotset
