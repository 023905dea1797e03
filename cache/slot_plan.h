// How many slots each size class gets for a budget.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/expert_source.h"

namespace hotset {

// In proportion to the classes' bytes, at least `least_slots` each (or all it has). Where not all
// experts have a slot, some slots are kept for passing through: what a step loads and does not keep
// (a prompt keeps next to nothing) evicts nobody.
struct SlotPlan {
  struct Class {
    int64_t slot_bytes = 0;
    int32_t experts = 0, slots = 0;
    int32_t passing = 0;  // of the slots; the others hold residents
    std::vector<int32_t> layers;
    int32_t residents_max() const { return slots - passing; }
  };
  std::vector<Class> classes;
  int64_t slot_bytes_total = 0, expert_bytes_total = 0, least_bytes = 0;
  bool all_resident() const { return slot_bytes_total == expert_bytes_total; }
};
// expert_bytes: [layers].
SlotPlan plan_slots(std::span<const int64_t> expert_bytes, int32_t experts_per_layer,
                    int64_t budget_bytes, int32_t least_slots);
SlotPlan plan_slots(const ExpertSource& source, int64_t budget_bytes, int32_t least_slots);

}  // namespace hotset
