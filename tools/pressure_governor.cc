#include "tools/pressure_governor.h"

#include <algorithm>

namespace hotset {
namespace {

// In percent of time in which every task waited. Machines that swap are far above the first;
// above it, tokens wait as well.
constexpr double kHigh = 10, kCalm = 0.5;
constexpr double kShrinkPeriod = 10, kGrowthPeriod = 60;
constexpr int64_t kParts = 8;

}  // namespace

int64_t PressureGovernor::next(const MemoryPressure& pressure, double now_s, int64_t now_bytes,
                               int64_t budget_bytes, int64_t least_bytes) {
  const int64_t part = budget_bytes / kParts;
  if (pressure.avg10 >= kHigh && now_s >= last_shrink_s_ + kShrinkPeriod) {
    const int64_t less = std::max(now_bytes - part, least_bytes);
    if (less >= now_bytes) return now_bytes;
    last_shrink_s_ = now_s;
    return less;
  }
  const bool is_calm = pressure.avg10 < kCalm && pressure.avg60 < kCalm;
  if (is_calm && now_bytes < budget_bytes && now_s >= last_shrink_s_ + kGrowthPeriod &&
      now_s >= last_growth_s_ + kGrowthPeriod) {
    last_growth_s_ = now_s;
    return std::min(now_bytes + part, budget_bytes);
  }
  return now_bytes;
}

}  // namespace hotset
