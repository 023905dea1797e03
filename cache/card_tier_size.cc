// What changes a card's tier beside its steps: another number of slots, scores, another policy (see
// card_tier.h).
#include <algorithm>
#include <utility>

#include "cache/card_tier.h"
#include "kernels/check.h"

namespace hotset {

std::vector<CardMove> CardTier::resize(SlotPlan plan) {
  HOTSET_CHECK(plan.classes.size() == classes_.size(), "a plan of the same experts");
  std::unique_lock lock(mutex_);
  rest(lock);
  std::vector<CardMove> moves;
  for (size_t i = 0; i < classes_.size(); ++i) {
    HOTSET_CHECK(plan.classes[i].slot_bytes == classes_[i].slot_bytes,
                 "a plan of the same experts");
    set_slots(static_cast<int32_t>(i), plan.classes[i].slots, moves);
  }
  if (plan.slot_bytes_total > plan_.slot_bytes_total) order_fills(save_scores());
  plan_ = std::move(plan);
  is_resting_ = false;
  ordered_.notify_all();
  return moves;
}

// Nobody comes any more: what no copy writes yet is given up, what has been copied is resident.
void CardTier::rest(std::unique_lock<std::mutex>& lock) {
  is_resting_ = true;
  for (const CardCopy& copy : draining_) {
    forget(size_class(copy.id.layer).slots[copy.slot].holds);
    drop(copy);
  }
  for (const CardCopy& copy : queue_) drop(copy);
  draining_.clear();
  queue_.clear();
  settled_.wait(lock, [&] { return under_way_ == 0; });
  for (const CardCopy& copy : ready_) make_resident(copy);
  ready_.clear();
}

// As many residents as are too many go, the policy's candidates first, and those that stay move
// where a slot goes.
void CardTier::set_slots(int32_t size_class, int32_t slots, std::vector<CardMove>& moves) {
  SizeClass& c = classes_[size_class];
  const auto before = static_cast<int32_t>(c.slots.size());
  for (int32_t residents = before - static_cast<int32_t>(c.free.size()); residents > slots;
       --residents) {
    const std::optional<ExpertId> victim = c.policy->offer_victims([](ExpertId) { return true; });
    HOTSET_CHECK(victim, "a resident that no policy knows");
    c.policy->evict(*victim);
    ++stats_.evictions;
    c.slots[table_[index(*victim)]] = {};
    forget(*victim);
  }
  c.slots.resize(static_cast<size_t>(std::max(slots, before)));
  c.free.clear();
  for (SlotId slot = slots - 1; slot >= 0; --slot) {
    if (c.slots[slot].state == SlotState::kFree) c.free.push_back(slot);
  }
  for (SlotId from = slots; from < before; ++from) {
    if (c.slots[from].state == SlotState::kFree) continue;
    const SlotId to = c.free.back();
    c.free.pop_back();
    c.slots[to] = c.slots[from];
    table_[index(c.slots[to].holds)] = to;
    moves.push_back({size_class, from, to});
  }
  c.slots.resize(static_cast<size_t>(slots));
}

std::vector<uint32_t> CardTier::generations() const {
  const std::lock_guard lock(mutex_);
  std::vector<uint32_t> generations(table_.size());
  for (int32_t i = 0; i < std::ssize(classes_); ++i) {
    for (SlotId s = 0; s < std::ssize(classes_[i].slots); ++s) {
      generations[static_cast<size_t>(slot_index(i, s))] = classes_[i].slots[s].generation;
    }
  }
  return generations;
}

std::vector<float> CardTier::save_scores() const {
  std::vector<float> scores(table_.size());
  for (const SizeClass& c : classes_) c.policy->save(scores);
  return scores;
}

void CardTier::order_fills(std::span<const float> scores) {
  fill_order_ = best_first(scores);
  std::erase_if(fill_order_, [&](uint32_t i) { return !(scores[i] > 0); });
  fill_next_ = 0;
}

void CardTier::restore_scores(std::span<const float> scores) {
  HOTSET_CHECK(scores.size() == table_.size(), "a score for every expert");
  const std::lock_guard lock(mutex_);
  for (const SizeClass& c : classes_) c.policy->restore(scores);
  order_fills(scores);
  ordered_.notify_all();
}

void CardTier::replace_policy(const PolicyFactory& policy) {
  const std::lock_guard lock(mutex_);
  const std::vector<float> scores = save_scores();
  for (SizeClass& c : classes_) {
    c.policy = policy({layers_, experts_per_layer_, 0, c.layers});
    c.policy->restore(scores);
    // The best last, which is the latest for a policy that goes by recency.
    std::vector<ExpertId> residents;
    for (const Slot& slot : c.slots) {
      if (slot.state == SlotState::kResident) residents.push_back(slot.holds);
    }
    std::stable_sort(residents.begin(), residents.end(),
                     [&](ExpertId a, ExpertId b) { return scores[index(a)] < scores[index(b)]; });
    for (const ExpertId id : residents) c.policy->admit(id);
  }
}

}  // namespace hotset
