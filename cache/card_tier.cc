#include "cache/card_tier.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "kernels/check.h"

namespace hotset {

CardTier::CardTier(SlotPlan plan, int32_t layers, int32_t experts_per_layer,
                   const PolicyFactory& policy, const CardTierOptions& options)
    : plan_(std::move(plan)),
      layers_(layers),
      experts_per_layer_(experts_per_layer),
      options_(options),
      class_of_layer_(layers),
      table_(static_cast<size_t>(layers) * experts_per_layer, -1),
      is_coming_(table_.size()),
      is_picked_(table_.size()) {
  int32_t first_index = 0;
  for (const SlotPlan::Class& planned : plan_.classes) {
    for (const int32_t layer : planned.layers) {
      class_of_layer_[layer] = static_cast<int32_t>(classes_.size());
    }
    SizeClass c{policy({layers, experts_per_layer, 0, planned.layers}),
                std::vector<Slot>(planned.slots),
                {},
                planned.layers,
                planned.slot_bytes,
                first_index};
    first_index += static_cast<int32_t>(planned.layers.size()) * experts_per_layer;
    for (SlotId slot = planned.slots - 1; slot >= 0; --slot) c.free.push_back(slot);
    classes_.push_back(std::move(c));
  }
  picked_.reserve(table_.size());
  missing_.reserve(table_.size());
  ready_.reserve(table_.size());  // of fills there may be many
  draining_.reserve(options.copies_max);
  queue_.reserve(options.copies_max + 1);  // and a fill
  deltas_.reserve(deltas_max());
}

SlotPlan CardTier::plan() const {
  const std::lock_guard lock(mutex_);
  return plan_;
}

std::span<const CardResidencyDelta> CardTier::begin_step() {
  const std::lock_guard lock(mutex_);
  deltas_.clear();
  size_t kept = 0;
  int32_t fills = 0;
  for (const CardCopy& copy : ready_) {
    if (copy.is_fill && ++fills > kFillsMax) {
      ready_[kept++] = copy;
      continue;
    }
    make_resident(copy);
    deltas_.push_back({copy.id.layer, copy.id.expert, static_cast<uint32_t>(copy.slot),
                       slot_index(copy), copy.generation});
  }
  ready_.resize(kept);
  for (const CardCopy& copy : draining_) {
    Slot& slot = size_class(copy.id.layer).slots[copy.slot];
    forget(slot.holds);
    deltas_.push_back({slot.holds.layer, slot.holds.expert, kCardAbsent, slot_index(copy), 0});
    slot.state = SlotState::kLoading;
    slot.generation = 0;
    queue_.push_back(copy);
  }
  if (!draining_.empty()) ordered_.notify_all();
  draining_.clear();
  if (std::exchange(is_fill_missed_, false)) {
    fill_next_ = 0;
    ordered_.notify_all();
  }
  return deltas_;
}

void CardTier::make_resident(const CardCopy& copy) {
  SizeClass& c = size_class(copy.id.layer);
  c.slots[copy.slot] = {SlotState::kResident, copy.id, {}, copy.generation};
  table_[index(copy.id)] = copy.slot;
  resident_bytes_ += c.slot_bytes;
  end_coming(copy);
  c.policy->admit(copy.id);
  if (!copy.is_fill) ++stats_.admissions;
}

void CardTier::forget(ExpertId id) {
  table_[index(id)] = -1;
  resident_bytes_ -= size_class(id.layer).slot_bytes;
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
    if (is_coming_[index(missing.id)]) continue;  // a fill has begun since the step picked it
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
    queue_.push_back(order(missing.id, false));
    ordered_.notify_all();
    return;
  }
  const std::optional<ExpertId> victim =
      c.policy->offer_victims([&](ExpertId id) { return !is_picked_[index(id)]; });
  if (!victim || !c.policy->admits(missing.id, *victim, price())) return;
  c.policy->evict(*victim);
  ++stats_.evictions;
  const SlotId slot = table_[index(*victim)];
  c.slots[slot].state = SlotState::kDraining;
  c.slots[slot].next = missing.id;
  is_coming_[index(missing.id)] = 1;
  ++coming_;
  draining_.push_back({missing.id, slot, false, ++generation_});
}

// A copy into the last free slot.
CardCopy CardTier::order(ExpertId id, bool is_fill) {
  SizeClass& c = size_class(id.layer);
  const CardCopy copy{id, c.free.back(), is_fill, ++generation_};
  c.free.pop_back();
  c.slots[copy.slot] = {SlotState::kLoading, {}, id, 0};
  is_coming_[index(id)] = 1;
  ++(is_fill ? filling_ : coming_);
  return copy;
}

void CardTier::end_coming(const CardCopy& copy) {
  is_coming_[index(copy.id)] = 0;
  --(copy.is_fill ? filling_ : coming_);
}

void CardTier::drop(const CardCopy& copy) {
  SizeClass& c = size_class(copy.id.layer);
  c.slots[copy.slot] = {};
  c.free.push_back(copy.slot);
  end_coming(copy);
}

// What steps have chosen comes before fills; a fill is chosen here, when it can begin.
bool CardTier::has_copy() {
  if (is_resting_) return false;
  if (!queue_.empty()) return true;
  while (fill_next_ < fill_order_.size()) {
    const uint32_t i = fill_order_[fill_next_++];
    const ExpertId id = expert_of_entry(i, experts_per_layer_);
    if (table_[i] >= 0 || is_coming_[i] || size_class(id.layer).free.empty()) continue;
    queue_.push_back(order(id, true));
    return true;
  }
  return false;
}

std::optional<CardCopy> CardTier::next_copy(const std::stop_token& stop,
                                            std::chrono::nanoseconds retry) {
  std::unique_lock lock(mutex_);
  const auto has_one = [&] { return has_copy(); };
  if (!has_one() && is_fill_missed_) {
    if (ordered_.wait_for(lock, stop, retry, has_one)) return take_first();
    is_fill_missed_ = false;
    fill_next_ = 0;
    return std::nullopt;
  }
  if (!ordered_.wait(lock, stop, has_one)) return std::nullopt;
  return take_first();
}

std::optional<CardCopy> CardTier::take_copy() {
  const std::lock_guard lock(mutex_);
  if (!has_copy()) return std::nullopt;
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
  stats_.bytes_read += c.slot_bytes;
  ready_.push_back(copy);
  if (--under_way_ == 0) settled_.notify_all();
}

void CardTier::abandoned(const CardCopy& copy) {
  const std::lock_guard lock(mutex_);
  HOTSET_CHECK(size_class(copy.id.layer).slots[copy.slot].state == SlotState::kLoading,
               "a copy into a slot not its own");
  drop(copy);
  is_fill_missed_ |= copy.is_fill;
  if (--under_way_ == 0) settled_.notify_all();
}

void CardTier::add_copies(int64_t count, double seconds) {
  const std::lock_guard lock(mutex_);
  price_.add_copies(count, seconds);
}

void CardTier::add_misses(int64_t count, double seconds) {
  const std::lock_guard lock(mutex_);
  price_.add_misses(count, seconds);
}

double CardTier::lambda() const {
  const std::lock_guard lock(mutex_);
  return price();
}

CacheStats CardTier::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

CardTier::Bytes CardTier::bytes() const {
  const std::lock_guard lock(mutex_);
  return {plan_.slot_bytes_total, resident_bytes_};
}

void CardTier::verify() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  size_t named = 0, states[5] = {}, free = 0, coming = 0;
  std::unordered_set<uint32_t> generations;
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
        HOTSET_CHECK(generations.insert(slot.generation).second && slot.generation > 0,
                     "two copies of one generation");
        ++named;
        bytes += c.slot_bytes;
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
  HOTSET_CHECK(bytes == resident_bytes_, "resident bytes do not add up");
  HOTSET_CHECK(coming == static_cast<size_t>(coming_ + filling_) && coming_ <= options_.copies_max,
               "copies do not add up");
  HOTSET_CHECK(std::count(is_coming_.begin(), is_coming_.end(), 1) == coming_ + filling_,
               "somebody comes without a slot");
  HOTSET_CHECK(states[static_cast<int>(SlotState::kFree)] == free, "free slots do not add up");
  HOTSET_CHECK(states[static_cast<int>(SlotState::kDraining)] == draining_.size() &&
                   states[static_cast<int>(SlotState::kReady)] == ready_.size() &&
                   states[static_cast<int>(SlotState::kLoading)] ==
                       queue_.size() + static_cast<size_t>(under_way_),
               "a slot is in no list");
}

}  // namespace hotset
