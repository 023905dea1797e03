// Names of things the cache deals in.
#pragma once

#include <cstdint>

namespace hotset {

struct ExpertId {
  int32_t layer = 0, expert = 0;
  bool operator==(const ExpertId&) const = default;
};

using SlotId = int32_t;  // within one size class

// A distinct expert that a layer of a step picked.
struct Pick {
  int32_t expert = 0;
  int32_t rank = 0;  // the best router rank any row gave it: 0 is the heaviest
};

}  // namespace hotset
