// One picture of the daemon's findings for a terminal: `hotset top`.
#pragma once

#include <string>

#include "profiler/daemon.h"

namespace hotset {

// Lines of at most `width` columns (at least 20), at most `height` of them (0: as many as there
// are), each ended by a newline. ASCII; no escape sequences.
std::string frame_of(const Daemon& daemon, const Now& now, int width, int height);

}  // namespace hotset
