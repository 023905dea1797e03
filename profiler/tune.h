// Which cache settings would have served a recorded routing best, and how sure that is. Each
// setting replays the whole trace through the policies of the running cache (simulator.h) from an
// empty one; what comes before kWarmUpShare of the decoded tokens only warms it up. The rest is cut
// into kBlocks blocks of tokens, and a setting's gain is the mean of the blocks' differences to the
// present setting in the same tokens, priced by what a miss costs. Its interval holds at 95 % for
// all settings of a comparison at once (Bonferroni), so that the best of many is not one by luck.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "profiler/interval.h"
#include "profiler/simulator.h"

namespace hotset {

struct TuneSetting {
  PolicyOptions policy;
  int64_t budget_bytes = 0;       // for experts
  std::vector<ReplayPool> pools;  // that come of it
};

// On this machine, in ms. A token takes `rest_ms` beside its misses; 0: not known.
struct TuneCosts {
  double miss_ms = 0, rest_ms = 0;
};

struct TuneRow {
  TuneSetting setting;
  double hit_rate = 0, misses_per_token = 0, ms_per_token = 0;
  Interval gain_ms;  // a token, against the first row: positive is faster
};

inline constexpr double kTuneConfidence = 0.95;
inline constexpr double kWarmUpShare = 0.25;
inline constexpr int kTuneBlocks = 32;
inline constexpr int64_t kTuneTokensLeast = 256;

// Steps of decoded tokens that a trace has.
int64_t decode_steps(const RoutingTrace& trace);
// The events of the last `steps` decode steps, and of the prompts among them.
RoutingTrace last_steps(const RoutingTrace& trace, int64_t steps);

// A row for each setting, of which the first is the present one. `on_replay` is called before each
// replay, with its number, and may throw. The trace has at least kTuneTokensLeast decode steps.
std::vector<TuneRow> tune(const RoutingTrace& trace, std::span<const TuneSetting> settings,
                          const TuneCosts& costs, const std::function<void(size_t)>& on_replay);

// The row of the largest gain that is surely one, or, if a smaller budget gains as much as far as
// anybody can tell, that. 0 where none is: the present setting stays.
size_t best_row(std::span<const TuneRow> rows);

}  // namespace hotset
