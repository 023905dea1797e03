// The daemon's findings as JSON: the lines of its log, and what the page draws.
#pragma once

#include <nlohmann/json.hpp>

#include "profiler/daemon.h"

namespace hotset {

// One line a tick. `event`: "tick", "end of engine", "end of watch"; the last two
// have what detail_of has.
nlohmann::ordered_json tick_line(const WatchedEngine& engine, const Now& now, const char* event);
nlohmann::ordered_json slow_line(const SlowToken& slow);
// The tick's line, hit rates by layer, and the heat.
nlohmann::ordered_json detail_of(const WatchedEngine& engine, const Now& now);

}  // namespace hotset
