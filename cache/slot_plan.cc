#include "cache/slot_plan.h"

#include <algorithm>
#include <map>

namespace hotset {

namespace {

// An eighth costs a small cache little; more than 32 would not make a prompt faster, whose next
// experts are read while these are computed.
int32_t passing_slots(const SlotPlan::Class& c) {
  constexpr int32_t kMost = 32;
  return c.slots == c.experts ? 0 : std::clamp(c.slots / 8, 1, kMost);
}

}  // namespace

SlotPlan plan_slots(const ExpertSource& source, int64_t budget_bytes, int32_t least_slots) {
  std::vector<int64_t> expert_bytes;
  for (int32_t layer = 0; layer < source.layer_count(); ++layer) {
    expert_bytes.push_back(source.expert_bytes(layer));
  }
  return plan_slots(expert_bytes, source.experts_per_layer(), budget_bytes, least_slots);
}

SlotPlan plan_slots(std::span<const int64_t> expert_bytes, int32_t experts_per_layer,
                    int64_t budget_bytes, int32_t least_slots) {
  std::map<int64_t, SlotPlan::Class> by_bytes;
  for (size_t layer = 0; layer < expert_bytes.size(); ++layer) {
    SlotPlan::Class& c = by_bytes[expert_bytes[layer]];
    c.slot_bytes = expert_bytes[layer];
    c.experts += experts_per_layer;
    c.layers.push_back(static_cast<int32_t>(layer));
  }
  SlotPlan plan;
  for (auto& [bytes, c] : by_bytes) {
    c.slots = std::min(least_slots, c.experts);
    plan.least_bytes += c.slots * c.slot_bytes;
    plan.expert_bytes_total += c.experts * c.slot_bytes;
    plan.classes.push_back(std::move(c));
  }
  const int64_t rest = plan.expert_bytes_total - plan.least_bytes;
  const double share = rest == 0 ? 0.0
                                 : std::clamp(static_cast<double>(budget_bytes - plan.least_bytes) /
                                                  static_cast<double>(rest),
                                              0.0, 1.0);
  for (SlotPlan::Class& c : plan.classes) {
    c.slots += static_cast<int32_t>(share * (c.experts - c.slots));
    c.passing = passing_slots(c);
    plan.slot_bytes_total += c.slots * c.slot_bytes;
  }
  return plan;
}

}  // namespace hotset
