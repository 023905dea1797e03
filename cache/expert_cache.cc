#include "cache/expert_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <map>

#include "kernels/check.h"

namespace hotset {

namespace {
constexpr SlotId kAbsent = -1;
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
  std::unique_ptr<EvictionPolicy> policy;

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
    c->policy = policy(planned.slots);
    for (const int32_t layer : planned.layers) {
      class_of_layer_[layer] = static_cast<int32_t>(classes_.size());
    }
    classes_.push_back(std::move(c));
  }
  waiting_.reserve(experts_per_layer_);
  leases_.reserve(experts_per_layer_);
  leased_slots_.reserve(experts_per_layer_);
}

ExpertCache::~ExpertCache() = default;

ExpertCache::SizeClass& ExpertCache::size_class(int32_t layer) const {
  return *classes_[class_of_layer_[layer]];
}

bool ExpertCache::is_resident(ExpertId id) const {
  return table_[static_cast<size_t>(id.layer) * experts_per_layer_ + id.expert] != kAbsent;
}

void ExpertCache::begin(int32_t layer, std::span<const Pick> picks) {
  HOTSET_CHECK(layer_ < 0, "an event was begun before the last one ended");
  layer_ = layer;
  next_ = 0;
  // Residents first, so that loading the others cannot push out a pick before it was used.
  waiting_.clear();
  for (const bool resident : {true, false}) {
    for (const Pick& pick : picks) {
      if (is_resident({layer, pick.expert}) == resident) waiting_.push_back(pick);
    }
  }
}

std::span<const Lease> ExpertCache::next_wave(int32_t limit) {
  HOTSET_CHECK(layer_ >= 0, "next_wave outside an event");
  SizeClass& slots = size_class(layer_);
  for (const SlotId slot : leased_slots_) slots.leased[slot] = 0;
  leased_slots_.clear();
  leases_.clear();

  CacheStats& layer_stats = by_layer_[layer_];
  const SlotId* row = &table_[static_cast<size_t>(layer_) * experts_per_layer_];
  while (next_ < waiting_.size() && std::ssize(leases_) < limit) {
    const Pick& pick = waiting_[next_];
    const SlotId slot = row[pick.expert];
    if (slot == kAbsent) break;
    slots.policy->on_hit(slot, pick.rank);
    slots.leased[slot] = 1;
    leased_slots_.push_back(slot);
    leases_.push_back({pick.expert, slots.slot(slot).data()});
    ++next_;
    ++layer_stats.hits;
    ++total_.hits;
  }
  const auto room = static_cast<size_t>(limit) - leases_.size();
  const size_t count = std::min(room, waiting_.size() - next_);
  if (count > 0) load_wave(slots, std::span(waiting_).subspan(next_, count));
  return leases_;
}

// Gives up a slot for one newcomer: a free one, else the policy's victim that is not leased. -1 if
// every slot is leased.
SlotId ExpertCache::take_slot(SizeClass& slots) {
  if (!slots.free.empty()) {
    const SlotId slot = slots.free.back();
    slots.free.pop_back();
    return slot;
  }
  const SlotId victim =
      slots.policy->offer_victims([&](SlotId slot) { return !slots.leased[slot]; });
  if (victim < 0) return -1;
  const ExpertId loser = slots.expert_of[victim];
  slots.policy->on_evict(victim);
  table_[static_cast<size_t>(loser.layer) * experts_per_layer_ + loser.expert] = kAbsent;
  ++by_layer_[loser.layer].evictions;
  ++total_.evictions;
  return victim;
}

// Loads as many of `misses` as there are slots to be had and leases them. The table names a slot
// only after its load has ended.
void ExpertCache::load_wave(SizeClass& slots, std::span<const Pick> misses) {
  const size_t first = leased_slots_.size();
  for (size_t i = 0; i < misses.size(); ++i) {
    const SlotId slot = take_slot(slots);
    if (slot < 0) break;
    slots.leased[slot] = 1;
    leased_slots_.push_back(slot);
  }
  const auto count = static_cast<int64_t>(leased_slots_.size() - first);
  std::atomic<int64_t> bytes = 0;
  try {
    pool_.run(count, [&](int64_t i, int) {
      bytes += source_.load({layer_, misses[i].expert}, slots.slot(leased_slots_[first + i]));
    });
  } catch (...) {
    // What was half loaded is nobody's: its slots are free again, the residents keep theirs.
    for (size_t i = first; i < leased_slots_.size(); ++i) {
      slots.leased[leased_slots_[i]] = 0;
      slots.free.push_back(leased_slots_[i]);
    }
    leased_slots_.resize(first);
    end();
    throw;
  }
  for (int64_t i = 0; i < count; ++i) {
    const SlotId slot = leased_slots_[first + i];
    const ExpertId id{layer_, misses[i].expert};
    slots.expert_of[slot] = id;
    slots.policy->on_admit(slot, id, misses[i].rank);
    table_[static_cast<size_t>(layer_) * experts_per_layer_ + id.expert] = slot;
    leases_.push_back({id.expert, slots.slot(slot).data()});
  }
  next_ += count;
  by_layer_[layer_].misses += count;
  by_layer_[layer_].bytes_read += bytes;
  total_.misses += count;
  total_.bytes_read += bytes;
}

void ExpertCache::end() {
  HOTSET_CHECK(layer_ >= 0, "end outside an event");
  SizeClass& slots = size_class(layer_);
  for (const SlotId slot : leased_slots_) slots.leased[slot] = 0;
  leased_slots_.clear();
  leases_.clear();
  layer_ = -1;
}

void ExpertCache::fill(const std::function<void(int64_t, int64_t)>& progress) {
  HOTSET_CHECK(layer_ < 0, "fill inside an event");
  int64_t done = 0;
  const CacheStats before = total_;
  std::vector<Pick> picks;
  for (int32_t layer = 0; layer < source_.layer_count(); ++layer) {
    SizeClass& slots = size_class(layer);
    picks.clear();
    for (int32_t e = 0; e < experts_per_layer_ && std::ssize(picks) < std::ssize(slots.free); ++e) {
      if (!is_resident({layer, e})) picks.push_back({e, 0});
    }
    // Small batches keep the progress line moving and a stop prompt. What comes after is asked for
    // early: two threads that read and pack in turn would leave the disk idle.
    constexpr size_t kAhead = 48;
    size_t expected = 0;
    for (size_t i = 0; i < picks.size();) {
      for (; expected < std::min(i + kAhead, picks.size()); ++expected) {
        source_.expect({layer, picks[expected].expert});
      }
      const size_t count =
          std::min<size_t>(picks.size() - i, 4 * static_cast<size_t>(pool_.size()));
      begin(layer, std::span(picks).subspan(i, count));
      next_wave(static_cast<int32_t>(count));
      end();
      i += count;
      done += static_cast<int64_t>(count) * slots.slot_bytes;
      progress(done, plan_.slot_bytes_total);
    }
  }
  // Filling is not use: the counts are those of steps.
  const int64_t read = total_.bytes_read;
  total_ = before;
  total_.bytes_read = read;
  for (CacheStats& s : by_layer_) s = {};
}

void ExpertCache::verify() const {
  int64_t occupied = 0;
  for (size_t i = 0; i < table_.size(); ++i) {
    const SlotId slot = table_[i];
    if (slot == kAbsent) continue;
    const ExpertId id{static_cast<int32_t>(i / experts_per_layer_),
                      static_cast<int32_t>(i % experts_per_layer_)};
    HOTSET_CHECK(size_class(id.layer).expert_of[slot] == id,
                 "table and slot name different experts");
    ++occupied;
  }
  int64_t free = 0, slots = 0, leased = 0;
  for (const auto& c : classes_) {
    free += std::ssize(c->free);
    slots += std::ssize(c->expert_of);
    leased += std::count(c->leased.begin(), c->leased.end(), 1);
    for (const SlotId slot : c->free) HOTSET_CHECK(!c->leased[slot], "a free slot is leased");
  }
  HOTSET_CHECK(occupied + free == slots, "a slot is neither free nor occupied");
  HOTSET_CHECK(leased == std::ssize(leased_slots_), "a lease outlived its event");
  CacheStats sum;
  for (const CacheStats& s : by_layer_) {
    sum.hits += s.hits;
    sum.misses += s.misses;
  }
  HOTSET_CHECK(sum.hits == total_.hits && sum.misses == total_.misses, "counts do not add up");
}

}  // namespace hotset
