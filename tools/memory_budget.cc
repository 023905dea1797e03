#include "tools/memory_budget.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/size.h"

namespace hotset {

int64_t MemoryBudget::most_bytes() const {
  return room ? std::max<int64_t>(0, room->bytes - headroom_bytes) : INT64_MAX;
}

MemoryBudget memory_budget(const Config& config, const std::optional<MemoryRoom>& room) {
  if (!room) return {};
  return {room, Size::parse(config.memory.headroom)->bytes_of(room->limit_bytes)};
}

int64_t expert_bytes_of(const std::string& ram, int64_t expert_bytes_total, int64_t rest_bytes,
                        const MemoryBudget& budget) {
  if (ram == "auto") {
    return std::clamp<int64_t>(budget.most_bytes() - rest_bytes, 0, expert_bytes_total);
  }
  return Size::parse(ram)->bytes_of(expert_bytes_total);  // check_config has seen it
}

void check_fits(const MemoryPlan& plan, const MemoryBudget& budget) {
  const int64_t most = budget.most_bytes();
  if (plan.total() <= most) return;
  const int64_t rest = plan.total() - plan.experts.slot_bytes_total;
  const bool least_fits = rest + plan.experts.least_bytes <= most;
  throw Error(fmt::format(
      "the model does not fit into memory: it takes {} (experts {}, kv {}, workspace {}, all else "
      "{}), but {} has room for {}, of which memory.headroom keeps {} free; {}",
      human_bytes(plan.total()), human_bytes(plan.experts.slot_bytes_total), human_bytes(plan.kv),
      human_bytes(plan.workspace), human_bytes(rest - plan.kv - plan.workspace), budget.room->whose,
      human_bytes(budget.room->bytes), human_bytes(budget.headroom_bytes),
      least_fits ? fmt::format("lower ram (up to {}MB fits; auto takes that), or ctx",
                               (most - rest) / 1'000'000)
                 : "lower ctx, which kv and workspace grow with, or give it more memory"));
}

std::string describe_plan(const MemoryPlan& plan, const MemoryBudget& budget) {
  std::string room;
  if (budget.room) {
    room = fmt::format(" of {} ({}; headroom {})", human_bytes(budget.room->bytes),
                       budget.room->whose, human_bytes(budget.headroom_bytes));
  }
  if (plan.card) {
    const CardMemoryPlan& card = *plan.card;
    return fmt::format(
        "memory: embedding {}, experts {} of {}{}, workspace {}, pinned {}, reads {}, ring {}; "
        "total {}{}\n"
        "card: dense {}, experts {}, kv up to {}, both together at most {}, recurrent {}, "
        "workspace {}, prompts {}; total {}",
        human_bytes(plan.embedding), human_bytes(plan.experts.slot_bytes_total),
        human_bytes(plan.experts.expert_bytes_total),
        plan.experts.all_resident() ? " (all resident)" : "", human_bytes(plan.workspace),
        human_bytes(plan.pinned), human_bytes(plan.landing), human_bytes(plan.ring),
        human_bytes(plan.total()), room, human_bytes(card.dense), human_bytes(card.slot_bytes),
        human_bytes(card.kv), human_bytes(card.shared), human_bytes(card.recurrent),
        human_bytes(card.workspace), human_bytes(card.prompts), human_bytes(card.total()));
  }
  return fmt::format(
      "memory: dense {}, embedding {}, experts {} of {}{}, kv {}, recurrent {}, workspace {}, "
      "reads {}, ring {}; total {}{}",
      human_bytes(plan.dense), human_bytes(plan.embedding),
      human_bytes(plan.experts.slot_bytes_total), human_bytes(plan.experts.expert_bytes_total),
      plan.experts.all_resident() ? " (all resident)" : "", human_bytes(plan.kv),
      human_bytes(plan.recurrent), human_bytes(plan.workspace), human_bytes(plan.landing),
      human_bytes(plan.ring), human_bytes(plan.total()), room);
}

}  // namespace hotset
