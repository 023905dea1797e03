// How much memory the experts keep while the machine is short of it.
#pragma once

#include <cstdint>

#include "tools/memory_room.h"

namespace hotset {

// Gives an eighth back while tasks wait for memory, and takes an eighth of the budget again when
// nobody has waited for a minute. Pressure is an average over ten seconds and what was given back
// shows late, so at most one step in that time. Pure: time and pressure are told.
class PressureGovernor {
 public:
  // What the experts should have, who have `now_bytes`, may have `budget_bytes` and work with
  // `least_bytes`.
  int64_t next(const MemoryPressure& pressure, double now_s, int64_t now_bytes,
               int64_t budget_bytes, int64_t least_bytes);

 private:
  double last_shrink_s_ = -1e9, last_growth_s_ = -1e9;
};

}  // namespace hotset
