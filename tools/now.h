// The two clocks that watchers need.
#pragma once

#include <chrono>

#include "profiler/daemon.h"

namespace hotset {

inline Now now() {
  using std::chrono::duration_cast;
  return {
      static_cast<uint64_t>(
          std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count()),
      duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count()};
}

}  // namespace hotset
