#include "runtime/card/card_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace hotset {

CardPlan plan_card(const MemoryPlan& host, std::span<const int64_t> expert_bytes,
                   int32_t experts_per_layer, int64_t vram_bytes) {
  CardPlan plan;
  plan.vram = vram_bytes;
  plan.headroom = kVramHeadroomBytes;
  plan.dense = host.dense;
  plan.kv = host.kv;
  plan.recurrent = host.recurrent;
  plan.workspace = host.workspace;
  plan.residency = std::ssize(expert_bytes) * experts_per_layer * INT64_C(4);
  const int64_t rest = vram_bytes - plan.total();
  plan.experts = plan_slots(expert_bytes, experts_per_layer, rest, 0);
  if (!plan.experts.all_resident()) {
    const int32_t ring = std::min(kPromptRingExperts, experts_per_layer);
    plan.prompt_ring = ring * *std::max_element(expert_bytes.begin(), expert_bytes.end());
    plan.experts = plan_slots(expert_bytes, experts_per_layer, rest - plan.prompt_ring, 0);
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
