#include "cache/card_tier.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {

CardTier::CardTier(SlotPlan plan, int32_t layers, int32_t experts_per_layer,
                   const PolicyFactory& policy, const CardTierOptions& options)
    : plan_(std::move(plan)),
      experts_per_layer_(experts_per_layer),
      options_(options),
      class_of_layer_(layers),
      table_(static_cast<size_t>(layers) * experts_per_layer, -1),
      is_coming_(table_.size()),
      is_picked_(table_.size()) {
  for (const SlotPlan::Class& planned : plan_.classes) {
    for (const int32_t layer : planned.layers) {
      class_of_layer_[layer] = static_cast<int32_t>(classes_.size());
    }
    SizeClass c{policy({layers, experts_per_layer, 0, planned.layers}),
                std::vector<Slot>(planned.slots),
                {},
                planned.layers};
    for (SlotId slot = planned.slots - 1; slot >= 0; --slot) c.free.push_back(slot);
    classes_.push_back(std::move(c));
  }
  picked_.reserve(table_.size());
  missing_.reserve(table_.size());
  for (auto* list : {&draining_, &queue_, &ready_}) list->reserve(options.copies_max);
  deltas_.reserve(deltas_max());
}

std::span<const CardResidencyDelta> CardTier::begin_step() {
  const std::lock_guard lock(mutex_);
  deltas_.clear();
  for (const CardCopy& copy : ready_) {
    SizeClass& c = size_class(copy.id.layer);
    Slot& slot = c.slots[copy.slot];
    slot = {SlotState::kResident, copy.id, {}};
    table_[index(copy.id)] = copy.slot;
    is_coming_[index(copy.id)] = 0;
    --coming_;
    c.policy->admit(copy.id);
    ++stats_.admissions;
    deltas_.push_back({copy.id.layer, copy.id.expert, static_cast<uint32_t>(copy.slot)});
  }
  ready_.clear();
  for (const CardCopy& copy : draining_) {
    Slot& slot = size_class(copy.id.layer).slots[copy.slot];
    table_[index(slot.holds)] = -1;
    deltas_.push_back({slot.holds.layer, slot.holds.expert, kCardAbsent});
    slot.state = SlotState::kLoading;
    queue_.push_back(copy);
  }
  if (!draining_.empty()) ordered_.notify_all();
  draining_.clear();
  return deltas_;
}

void CardTier::count(int32_t layer, std::span<const Pick> picks) {
  const std::lock_guard lock(mutex_);
  for (const Pick& pick : picks) {
    ++(table_[index({layer, pick.expert})] >= 0 ? stats_.hits : stats_.misses);
  }
}

void CardTier::note_use(int32_t layer, std::span<const Pick> picks, int64_t now) {
  const std::lock_guard lock(mutex_);
  size_class(layer).policy->use(layer, picks, now);
}

void CardTier::use(int32_t layer, std::span<const Pick> picks, int64_t now) {
  count(layer, picks);
  const std::lock_guard lock(mutex_);
  Policy& policy = *size_class(layer).policy;
  policy.use(layer, picks, now);
  for (const Pick& pick : picks) {
    const ExpertId id{layer, pick.expert};
    is_picked_[index(id)] = 1;
    picked_.push_back(static_cast<uint32_t>(index(id)));
    if (table_[index(id)] < 0 && !is_coming_[index(id)]) missing_.push_back({id, policy.score(id)});
  }
}

void CardTier::end_step() {
  const std::lock_guard lock(mutex_);
  // Scores of different policies are not comparable in general, those of one kind and time are.
  std::sort(missing_.begin(), missing_.end(), [&](const Missing& a, const Missing& b) {
    return a.score != b.score ? a.score > b.score : index(a.id) < index(b.id);
  });
  for (const Missing& missing : missing_) {
    if (coming_ >= options_.copies_max) break;
    choose(missing);
  }
  for (const uint32_t i : picked_) is_picked_[i] = 0;
  picked_.clear();
  missing_.clear();
}

// A free slot, or that of somebody who is worth less and was not picked in this step.
void CardTier::choose(const Missing& missing) {
  SizeClass& c = size_class(missing.id.layer);
  if (!c.free.empty()) {
    const SlotId slot = c.free.back();
    c.free.pop_back();
    c.slots[slot] = {SlotState::kLoading, {}, missing.id};
    mark_coming(missing.id);
    queue_.push_back({missing.id, slot});
    ordered_.notify_all();
    return;
  }
  const std::optional<ExpertId> victim =
      c.policy->offer_victims([&](ExpertId id) { return !is_picked_[index(id)]; });
  if (!victim || !c.policy->admits(missing.id, *victim, options_.lambda)) return;
  c.policy->evict(*victim);
  ++stats_.evictions;
  const SlotId slot = table_[index(*victim)];
  c.slots[slot].state = SlotState::kDraining;
  c.slots[slot].next = missing.id;
  mark_coming(missing.id);
  draining_.push_back({missing.id, slot});
}

void CardTier::mark_coming(ExpertId id) {
  is_coming_[index(id)] = 1;
  ++coming_;
}

std::optional<CardCopy> CardTier::next_copy(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  if (!ordered_.wait(lock, stop, [&] { return !queue_.empty(); })) return std::nullopt;
  return take_first();
}

std::optional<CardCopy> CardTier::take_copy() {
  const std::lock_guard lock(mutex_);
  if (queue_.empty()) return std::nullopt;
  return take_first();
}

CardCopy CardTier::take_first() {
  const CardCopy copy = queue_.front();
  queue_.erase(queue_.begin());
  ++under_way_;
  return copy;
}

void CardTier::copied(const CardCopy& copy) {
  const std::lock_guard lock(mutex_);
  SizeClass& c = size_class(copy.id.layer);
  HOTSET_CHECK(c.slots[copy.slot].state == SlotState::kLoading, "a copy into a slot not its own");
  c.slots[copy.slot].state = SlotState::kReady;
  --under_way_;
  stats_.bytes_read += plan_.classes[class_of(copy.id.layer)].slot_bytes;
  ready_.push_back(copy);
}

void CardTier::abandoned(const CardCopy& copy) {
  const std::lock_guard lock(mutex_);
  SizeClass& c = size_class(copy.id.layer);
  HOTSET_CHECK(c.slots[copy.slot].state == SlotState::kLoading, "a copy into a slot not its own");
  c.slots[copy.slot] = {};
  c.free.push_back(copy.slot);
  is_coming_[index(copy.id)] = 0;
  --coming_;
  --under_way_;
}

CacheStats CardTier::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void CardTier::verify() const {
  const std::lock_guard lock(mutex_);
  size_t named = 0, states[5] = {}, free = 0, coming = 0;
  for (size_t i = 0; i < classes_.size(); ++i) {
    const SizeClass& c = classes_[i];
    c.policy->verify();
    free += c.free.size();
    HOTSET_CHECK(std::ssize(c.slots) == plan_.classes[i].slots, "slots came or went");
    for (SlotId s = 0; s < std::ssize(c.slots); ++s) {
      const Slot& slot = c.slots[s];
      ++states[static_cast<int>(slot.state)];
      const bool is_named =
          slot.state == SlotState::kResident || slot.state == SlotState::kDraining;
      if (is_named) {
        HOTSET_CHECK(table_[index(slot.holds)] == s, "the table does not name a slot's expert");
        HOTSET_CHECK(class_of(slot.holds.layer) == static_cast<int32_t>(i),
                     "an expert of another size");
        ++named;
      }
      if (slot.state != SlotState::kFree && slot.state != SlotState::kResident) {
        HOTSET_CHECK(is_coming_[index(slot.next)] == 1, "who comes is not marked so");
        HOTSET_CHECK(table_[index(slot.next)] < 0, "who comes is there already");
        ++coming;
      }
    }
  }
  const auto in_table =
      std::count_if(table_.begin(), table_.end(), [](SlotId s) { return s >= 0; });
  HOTSET_CHECK(named == static_cast<size_t>(in_table), "the table names a slot of nobody");
  HOTSET_CHECK(coming == static_cast<size_t>(coming_) && coming_ <= options_.copies_max,
               "copies do not add up");
  HOTSET_CHECK(std::count(is_coming_.begin(), is_coming_.end(), 1) == coming_,
               "somebody comes without a slot");
  HOTSET_CHECK(states[static_cast<int>(SlotState::kFree)] == free, "free slots do not add up");
  HOTSET_CHECK(states[static_cast<int>(SlotState::kDraining)] == draining_.size() &&
                   states[static_cast<int>(SlotState::kReady)] == ready_.size() &&
                   states[static_cast<int>(SlotState::kLoading)] ==
                       queue_.size() + static_cast<size_t>(under_way_),
               "a slot is in no list");
}

}  // namespace hotset
