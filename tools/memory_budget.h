// What of the memory a model may take, and what of that its experts get.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/engine.h"
#include "tools/config.h"
#include "tools/memory_room.h"

namespace hotset {

struct MemoryBudget {
  std::optional<MemoryRoom> room;  // nothing: not known, so nothing is refused
  int64_t headroom_bytes = 0;      // of it, that is to stay free (memory.headroom)

  int64_t most_bytes() const;  // that a plan may take
};
MemoryBudget memory_budget(const Config& config, const std::optional<MemoryRoom>& room);

// What `ram` comes to where everything but the experts takes `rest_bytes`. May be more than there
// is room for (check_fits), or than the experts are.
int64_t expert_bytes_of(const std::string& ram, int64_t expert_bytes_total, int64_t rest_bytes,
                        const MemoryBudget& budget);

// Throws Error with the numbers and what to do.
void check_fits(const MemoryPlan& plan, const MemoryBudget& budget);

// One line: where the memory goes, and of how much.
std::string describe_plan(const MemoryPlan& plan, const MemoryBudget& budget);

}  // namespace hotset
