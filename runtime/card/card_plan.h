// Where the memory of a card goes: what every token needs lies there whole, experts get slots of
// what is left. Experts without a slot stay in the host's memory and are computed there.
#pragma once

#include <cstdint>

#include "cache/slot_plan.h"
#include "runtime/engine.h"

namespace hotset {

// Left free for the display, the driver and what it allocates for kernels.
inline constexpr int64_t kVramHeadroomBytes = 750'000'000;

struct CardPlan {
  int64_t vram = 0;  // what the card has, or what it may take
  int64_t headroom = 0;
  int64_t dense = 0, kv = 0, recurrent = 0, workspace = 0;  // as in MemoryPlan
  int64_t prompt_ring = 0;
  int64_t residency = 0;  // the table: u32 [layers][experts]
  SlotPlan experts;
  int64_t total() const {
    return headroom + dense + kv + recurrent + workspace + prompt_ring + residency +
           experts.slot_bytes_total;
  }
};

// `host`: the engine's plan without a card, whose slots are those of the card; `ring`: experts that
// a prompt's ring is to hold. All experts resident needs no ring; no slot at all is a plan, too:
// what decodes is then computed by the CPU. Throws Error with the numbers and what to do where not
// even the rest fits.
CardPlan plan_card(const MemoryPlan& host, int64_t vram_bytes, int32_t ring);

}  // namespace hotset
