#include "runtime/card/card_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "runtime/card/prompt_ring.h"

namespace hotset {

CardPlan plan_card(const MemoryPlan& host, int64_t vram_bytes, int32_t ring) {
  int32_t experts = 0, layers = 0;
  for (const SlotPlan::Class& c : host.experts.classes) {
    experts += c.experts;
    layers += static_cast<int32_t>(c.layers.size());
  }
  std::vector<int64_t> slot_bytes(layers);
  for (const SlotPlan::Class& c : host.experts.classes) {
    for (const int32_t layer : c.layers) slot_bytes[layer] = c.slot_bytes;
  }
  const int32_t experts_per_layer = experts / layers;
  CardPlan plan;
  plan.vram = vram_bytes;
  plan.headroom = kVramHeadroomBytes;
  plan.dense = host.dense;
  plan.kv = host.kv;
  plan.recurrent = host.recurrent;
  plan.workspace = host.workspace;
  plan.residency = experts * INT64_C(4);
  const int64_t rest = vram_bytes - plan.total();
  plan.experts = plan_slots(slot_bytes, experts_per_layer, rest, 0);
  if (!plan.experts.all_resident()) {
    plan.prompt_ring = PromptRing::slots_of(ring, experts_per_layer) *
                       *std::max_element(slot_bytes.begin(), slot_bytes.end());
    plan.experts = plan_slots(slot_bytes, experts_per_layer, rest - plan.prompt_ring, 0);
  }
  if (plan.total() <= vram_bytes) return plan;
  const auto gb = [](int64_t bytes) { return static_cast<double>(bytes) * 1e-9; };
  throw Error(fmt::format(
      "the card's memory is too small: what every token needs takes {:.2f} GB (dense {:.2f}, kv "
      "{:.2f}, recurrent {:.2f}, workspace {:.2f}, prompts {:.2f}, kept free {:.2f}), but found "
      "{:.2f} GB; lower ctx, which kv and workspace grow with, or go without the card",
      gb(plan.total()), gb(plan.dense), gb(plan.kv), gb(plan.recurrent), gb(plan.workspace),
      gb(plan.prompt_ring), gb(plan.headroom), gb(vram_bytes)));
}

}  // namespace hotset
