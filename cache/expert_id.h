// Names of things the cache deals in.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hotset {

struct ExpertId {
  int32_t layer = 0, expert = 0;
  bool operator==(const ExpertId&) const = default;
};

// Whose entry `i` of a table [layer][expert] is.
inline ExpertId expert_of_entry(size_t i, int32_t experts_per_layer) {
  const auto per_layer = static_cast<size_t>(experts_per_layer);
  return {static_cast<int32_t>(i / per_layer), static_cast<int32_t>(i % per_layer)};
}

using SlotId = int32_t;  // within one size class

// A distinct expert that a layer of a step picked.
struct Pick {
  int32_t expert = 0;
  int32_t rank = 0;  // the best router rank any row gave it: 0 is the heaviest
};

}  // namespace hotset
