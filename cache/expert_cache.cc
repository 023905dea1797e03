#include "cache/expert_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>

#include "kernels/check.h"

namespace hotset {

namespace {
constexpr SlotId kAbsent = -1, kLoading = -2;
}

SlotPlan plan_slots(const ExpertSource& source, int64_t budget_bytes, int32_t least_slots) {
  std::map<int64_t, SlotPlan::Class> by_bytes;
  for (int32_t layer = 0; layer < source.layer_count(); ++layer) {
    SlotPlan::Class& c = by_bytes[source.expert_bytes(layer)];
    c.slot_bytes = source.expert_bytes(layer);
    c.experts += source.experts_per_layer();
    c.layers.push_back(layer);
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
    plan.slot_bytes_total += c.slots * c.slot_bytes;
  }
  return plan;
}

struct ExpertCache::SizeClass {
  Memory memory;
  int64_t slot_bytes = 0;
  std::vector<ExpertId> expert_of;  // [slots], meaningful where occupied
  std::vector<uint8_t> leased;      // [slots]
  std::vector<SlotId> free;         // taken from the back
  std::unique_ptr<Policy> policy;

  std::span<std::byte> slot(SlotId id) const {
    return {memory.data() + id * slot_bytes, static_cast<size_t>(slot_bytes)};
  }
};

ExpertCache::ExpertCache(ExpertSource& source, SlotPlan plan, ThreadPool& pool,
                         const PolicyFactory& policy)
    : source_(source),
      plan_(std::move(plan)),
      pool_(pool),
      class_of_layer_(source.layer_count()),
      table_(static_cast<size_t>(source.layer_count()) * source.experts_per_layer(), kAbsent),
      experts_per_layer_(source.experts_per_layer()),
      by_layer_(source.layer_count()) {
  for (const SlotPlan::Class& planned : plan_.classes) {
    auto c = std::make_unique<SizeClass>();
    c->slot_bytes = planned.slot_bytes;
    c->memory = Memory(planned.slots * planned.slot_bytes, "expert slots");
    c->expert_of.resize(planned.slots);
    c->leased.resize(planned.slots);
    for (SlotId slot = planned.slots - 1; slot >= 0; --slot) c->free.push_back(slot);
    c->policy = policy({source.layer_count(), experts_per_layer_, 0, planned.layers});
    for (const int32_t layer : planned.layers) {
      class_of_layer_[layer] = static_cast<int32_t>(classes_.size());
    }
    classes_.push_back(std::move(c));
  }
  waiting_.reserve(experts_per_layer_);
  leases_.reserve(experts_per_layer_);
  leased_slots_.reserve(experts_per_layer_);
  loads_.reserve(experts_per_layer_);
  awaited_.reserve(experts_per_layer_);
}

ExpertCache::~ExpertCache() = default;

ExpertCache::SizeClass& ExpertCache::size_class(int32_t layer) const {
  return *classes_[class_of_layer_[layer]];
}

size_t ExpertCache::index(ExpertId id) const {
  return static_cast<size_t>(id.layer) * experts_per_layer_ + id.expert;
}

bool ExpertCache::is_resident(ExpertId id) const {
  const std::lock_guard lock(mutex_);
  return table_[index(id)] >= 0;
}

int64_t ExpertCache::resident_bytes() const {
  const std::lock_guard lock(mutex_);
  return resident_bytes_;
}

CacheStats ExpertCache::stats() const {
  const std::lock_guard lock(mutex_);
  return total_;
}

std::vector<CacheStats> ExpertCache::layer_stats() const {
  const std::lock_guard lock(mutex_);
  return by_layer_;
}

void ExpertCache::begin(int32_t layer, std::span<const Pick> picks, int64_t now) {
  HOTSET_CHECK(layer_ < 0, "an event was begun before the last one ended");
  const std::lock_guard lock(mutex_);
  layer_ = layer;
  next_ = 0;
  size_class(layer).policy->use(layer, picks, now);
  // Residents first, so that loading the others cannot push out a pick before it was used. Both
  // passes see the same table: fillers wait for the mutex.
  waiting_.clear();
  for (const bool resident : {true, false}) {
    for (const Pick& pick : picks) {
      if ((table_[index({layer, pick.expert})] >= 0) == resident) waiting_.push_back(pick);
    }
    if (resident) residents_ = waiting_.size();
  }
}

std::span<const Lease> ExpertCache::next_wave(int32_t limit) {
  HOTSET_CHECK(layer_ >= 0, "next_wave outside an event");
  std::unique_lock lock(mutex_);
  SizeClass& slots = size_class(layer_);
  end_leases();
  const size_t first = next_;
  while (next_ < waiting_.size() && static_cast<int32_t>(next_ - first) < limit &&
         lease_or_reserve(slots, waiting_[next_])) {
    ++next_;
  }
  load_reserved(lock);
  lease_awaited(lock, slots);
  const auto hits = static_cast<int64_t>(std::min(next_, std::max(first, residents_)) - first);
  const auto misses = static_cast<int64_t>(next_ - first) - hits;
  for (CacheStats* stats : {&total_, &by_layer_[layer_]}) {
    stats->hits += hits;
    stats->misses += misses;
  }
  return leases_;
}

// Leases a resident pick; reserves a slot for an absent one, which is leased to the event from then
// on; notes one that a filler is loading. False if no slot is to be had.
bool ExpertCache::lease_or_reserve(SizeClass& slots, const Pick& pick) {
  const ExpertId id{layer_, pick.expert};
  SlotId slot = table_[index(id)];
  if (slot == kLoading) {
    awaited_.push_back(pick);
    return true;
  }
  if (slot == kAbsent) {
    slot = take_slot(slots);
    if (slot < 0) return false;
    table_[index(id)] = kLoading;
    loads_.push_back({id, slot});
  }
  lease(slots, pick.expert, slot);
  return true;
}

void ExpertCache::lease(SizeClass& slots, int32_t expert, SlotId slot) {
  slots.leased[slot] = 1;
  leased_slots_.push_back(slot);
  leases_.push_back({expert, slots.slot(slot).data()});
}

// Gives up a slot for one newcomer: a free one, else the policy's victim that is not leased. -1 if
// every slot is leased.
SlotId ExpertCache::take_slot(SizeClass& slots) {
  if (!slots.free.empty()) {
    const SlotId slot = slots.free.back();
    slots.free.pop_back();
    return slot;
  }
  const std::optional<ExpertId> loser =
      slots.policy->offer_victims([&](ExpertId id) { return !slots.leased[table_[index(id)]]; });
  if (!loser) return -1;
  slots.policy->evict(*loser);
  const SlotId victim = std::exchange(table_[index(*loser)], kAbsent);
  resident_bytes_ -= slots.slot_bytes;
  ++by_layer_[loser->layer].evictions;
  ++total_.evictions;
  return victim;
}

// The event's own loads, on the pool and without the mutex.
void ExpertCache::load_reserved(std::unique_lock<std::mutex>& lock) {
  if (loads_.empty()) return;
  SizeClass& slots = size_class(layer_);
  std::atomic<int64_t> bytes = 0;
  lock.unlock();
  try {
    pool_.run(std::ssize(loads_), [&](int64_t i, int) {
      bytes += source_.load(loads_[i].id, slots.slot(loads_[i].slot));
    });
  } catch (...) {
    // What was half loaded is nobody's: its slots are free again, the residents keep theirs.
    lock.lock();
    for (const Load& load : loads_) abandon(load);
    end_leases();
    layer_ = -1;
    throw;
  }
  lock.lock();
  for (const Load& load : loads_) publish(load);
  loads_.clear();
  by_layer_[layer_].bytes_read += bytes;
  total_.bytes_read += bytes;
}

void ExpertCache::lease_awaited(std::unique_lock<std::mutex>& lock, SizeClass& slots) {
  for (const Pick& pick : awaited_) {
    const SlotId& entry = table_[index({layer_, pick.expert})];
    loaded_.wait(lock, [&] { return entry != kLoading; });
    // Absent: the filler failed. Its slot is free, so there is one, and if the load fails here as
    // well it is this step that hears of it.
    const bool has_slot = lease_or_reserve(slots, pick);
    HOTSET_CHECK(has_slot, "fillers run only where there is a slot for every expert");
    load_reserved(lock);
  }
  awaited_.clear();
}

void ExpertCache::publish(const Load& load) {
  SizeClass& slots = size_class(load.id.layer);
  slots.expert_of[load.slot] = load.id;
  slots.policy->admit(load.id);
  table_[index(load.id)] = load.slot;
  resident_bytes_ += slots.slot_bytes;
}

void ExpertCache::abandon(const Load& load) {
  SizeClass& slots = size_class(load.id.layer);
  slots.leased[load.slot] = 0;
  slots.free.push_back(load.slot);
  table_[index(load.id)] = kAbsent;
  fill_next_ = std::min(fill_next_, index(load.id));
}

void ExpertCache::end() {
  HOTSET_CHECK(layer_ >= 0, "end outside an event");
  const std::lock_guard lock(mutex_);
  end_leases();
  layer_ = -1;
}

void ExpertCache::end_leases() {
  SizeClass& slots = size_class(layer_);
  for (const SlotId slot : leased_slots_) slots.leased[slot] = 0;
  leased_slots_.clear();
  leases_.clear();
  loads_.clear();
  awaited_.clear();
}

std::optional<ExpertCache::Load> ExpertCache::reserve_next() {
  while (fill_next_ < table_.size() && table_[fill_next_] != kAbsent) ++fill_next_;
  if (fill_next_ == table_.size()) return std::nullopt;
  const auto layer = static_cast<int32_t>(fill_next_ / experts_per_layer_);
  SizeClass& slots = size_class(layer);
  HOTSET_CHECK(!slots.free.empty(), "an absent expert has a slot where there is one for each");
  const Load load{{layer, static_cast<int32_t>(fill_next_ % experts_per_layer_)},
                  slots.free.back()};
  slots.free.pop_back();
  table_[fill_next_] = kLoading;
  return load;
}

bool ExpertCache::fill_one() {
  HOTSET_CHECK(plan_.all_resident(), "fillers run only where there is a slot for every expert");
  // What comes after is asked for early: threads that read and pack in turn would leave the disk
  // idle. Not much earlier: a step's miss waits in the disk's queue behind it.
  constexpr size_t kAhead = 48;
  std::optional<Load> load;
  size_t expect_begin, expect_end;
  {
    const std::lock_guard lock(mutex_);
    load = reserve_next();
    if (!load) return false;
    expect_begin = fill_expected_;
    expect_end = std::min(fill_next_ + kAhead, table_.size());
    fill_expected_ = std::max(expect_begin, expect_end);
  }
  for (size_t i = expect_begin; i < expect_end; ++i) {
    source_.expect({static_cast<int32_t>(i / experts_per_layer_),
                    static_cast<int32_t>(i % experts_per_layer_)});
  }
  const auto finish = [&](const auto& with) {
    {
      const std::lock_guard lock(mutex_);
      with();
    }
    loaded_.notify_all();
  };
  int64_t bytes = 0;
  try {
    bytes = source_.load(load->id, size_class(load->id.layer).slot(load->slot));
  } catch (...) {
    finish([&] { abandon(*load); });
    throw;
  }
  finish([&] {
    publish(*load);
    by_layer_[load->id.layer].bytes_read += bytes;
    total_.bytes_read += bytes;
  });
  return true;
}

void ExpertCache::verify() const {
  const std::lock_guard lock(mutex_);
  int64_t occupied = 0, loading = 0, bytes = 0;
  for (size_t i = 0; i < table_.size(); ++i) {
    const SlotId slot = table_[i];
    HOTSET_CHECK(slot != kAbsent || i >= fill_next_, "the fillers have passed by an absent expert");
    if (slot == kLoading) ++loading;
    if (slot < 0) continue;
    const ExpertId id{static_cast<int32_t>(i / experts_per_layer_),
                      static_cast<int32_t>(i % experts_per_layer_)};
    HOTSET_CHECK(size_class(id.layer).expert_of[slot] == id,
                 "table and slot name different experts");
    bytes += size_class(id.layer).slot_bytes;
    ++occupied;
  }
  HOTSET_CHECK(bytes == resident_bytes_, "resident bytes do not add up");
  int64_t free = 0, slots = 0, leased = 0;
  for (const auto& c : classes_) {
    free += std::ssize(c->free);
    slots += std::ssize(c->expert_of);
    leased += std::count(c->leased.begin(), c->leased.end(), 1);
    c->policy->verify();
    for (const SlotId slot : c->free) HOTSET_CHECK(!c->leased[slot], "a free slot is leased");
  }
  HOTSET_CHECK(occupied + loading + free == slots,
               "a slot is neither free nor occupied nor being loaded");
  HOTSET_CHECK(leased == std::ssize(leased_slots_), "a lease outlived its event");
  CacheStats sum;
  for (const CacheStats& s : by_layer_) {
    sum.hits += s.hits;
    sum.misses += s.misses;
    sum.bytes_read += s.bytes_read;
  }
  HOTSET_CHECK(
      sum.hits == total_.hits && sum.misses == total_.misses && sum.bytes_read == total_.bytes_read,
      "counts do not add up");
}

}  // namespace hotset
