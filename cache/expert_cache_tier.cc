// What changes a cache beside its events: filling, another size, another policy; and the check of
// all totals (see expert_cache.h).
#include <algorithm>
#include <chrono>
#include <numeric>

#include "cache/expert_cache.h"
#include "kernels/check.h"

namespace hotset {

namespace {
constexpr SlotId kAbsent = -1, kLoading = -2;
}

ExpertCache::AtRest::AtRest(ExpertCache& cache) : cache_(cache), lock_(cache.mutex_) {
  ++cache_.rests_waiting_;
  cache_.turn_.wait(lock_, [&] {
    return !cache_.is_at_rest_ && cache_.layer_ < 0 && !cache_.is_events_turn_ &&
           cache_.readers_ == 0;
  });
  --cache_.rests_waiting_;
  cache_.is_at_rest_ = true;
}

ExpertCache::AtRest::~AtRest() {
  cache_.is_at_rest_ = false;
  cache_.is_events_turn_ = cache_.is_event_waiting_.load();
  cache_.turn_.notify_all();
}

// Where not all have a slot only what was used is worth reading before somebody asks for it.
std::optional<ExpertId> ExpertCache::next_to_fill() {
  const size_t end = plan_.all_resident() ? table_.size() : fill_scored_;
  for (; fill_next_ < end; ++fill_next_) {
    const uint32_t i = fill_order_[fill_next_];
    const ExpertId id = expert_of_entry(i, experts_per_layer_);
    if (table_[i] == kAbsent && has_room_to_fill(id.layer)) return id;
  }
  return std::nullopt;
}

void ExpertCache::order_fill(std::span<const float> scores) {
  fill_order_ = best_first(scores);
  for (uint32_t place = 0; place < fill_order_.size(); ++place) {
    fill_place_[fill_order_[place]] = place;
  }
  fill_scored_ = static_cast<size_t>(
      std::count_if(scores.begin(), scores.end(), [](float s) { return s > 0; }));
  fill_next_ = fill_expected_ = 0;
}

bool ExpertCache::fill_one() {
  // What comes after is asked for early: threads that read and pack in turn would leave the disk
  // idle. Not much earlier: a step's miss waits in the disk's queue behind it.
  constexpr size_t kAhead = 48;
  ExpertId id;
  SlotId slot;
  std::vector<uint32_t> expected;
  {
    const std::lock_guard lock(mutex_);
    const std::optional<ExpertId> next = next_to_fill();
    if (!next) return false;
    id = *next;
    SizeClass& c = size_class(id.layer);
    slot = c.slots.take(id);
    if (slot < 0) return false;
    ++c.filling;
    table_[index(id)] = kLoading;
    const size_t end = std::min(fill_next_ + kAhead, table_.size());
    for (; fill_expected_ < end; ++fill_expected_) {
      expected.push_back(fill_order_[fill_expected_]);
    }
  }
  for (const uint32_t i : expected) {
    source_.expect(expert_of_entry(i, experts_per_layer_));
  }
  SizeClass& c = size_class(id.layer);
  const auto finish = [&](const auto& with) {
    {
      const std::lock_guard lock(mutex_);
      --c.filling;
      with();
    }
    loaded_.notify_all();
  };
  int64_t bytes = 0;
  const auto start = std::chrono::steady_clock::now();
  try {
    const auto range = recorder_.range(RangeName::kRead, id.layer, 1, c.slots.slot_bytes());
    bytes = source_.load(id, c.slots.bytes(slot));
  } catch (...) {
    finish([&] {
      c.slots.give_back(slot);
      table_[index(id)] = kAbsent;
      fill_next_ = std::min<size_t>(fill_next_, fill_place_[index(id)]);
    });
    throw;
  }
  recorder_.read(TransferCause::kFill, id, bytes,
                 (std::chrono::steady_clock::now() - start) / std::chrono::nanoseconds(1));
  finish([&] {
    publish(id, slot);
    by_layer_[id.layer].bytes_read += bytes;
    total_.bytes_read += bytes;
  });
  return true;
}

const std::byte* ExpertCache::hold_resident(ExpertId id) {
  std::unique_lock lock(mutex_);
  turn_.wait(lock, [&] { return !is_at_rest_; });
  const SlotId slot = table_[index(id)];
  if (slot < 0) return nullptr;
  SlotPool& slots = size_class(id.layer).slots;
  slots.begin_reading(slot);
  ++readers_;
  return slots.bytes(slot).data();
}

void ExpertCache::release_resident(ExpertId id) {
  const std::lock_guard lock(mutex_);
  const SlotId slot = table_[index(id)];  // who is held has not moved
  SlotPool& slots = size_class(id.layer).slots;
  slots.end_reading(slot);
  if (--readers_ == 0) turn_.notify_all();
}

void ExpertCache::resize(SlotPlan plan) {
  HOTSET_CHECK(plan.classes.size() == classes_.size(), "a plan of the same source");
  AtRest rest(*this);
  for (size_t i = 0; i < classes_.size(); ++i) {
    SizeClass& c = *classes_[i];
    HOTSET_CHECK(plan.classes[i].slot_bytes == c.slots.slot_bytes(), "a plan of the same source");
    c.residents_max = plan.classes[i].residents_max();
    const int32_t before = c.slots.slots();
    c.slots.set_slots(plan.classes[i].slots);
    if (c.slots.slots() < before) shrink(c, rest.lock());
  }
  recorder_.budget(plan_.slot_bytes_total, plan.slot_bytes_total);
  plan_ = std::move(plan);
  std::vector<float> scores(table_.size());
  for (const auto& c : classes_) c->policy->save(scores);
  order_fill(scores);
}

// Slots beyond the new number are emptied: as many residents as are too many go, the policy's
// candidates first, and those that stay move. Fillers finish what they write.
void ExpertCache::shrink(SizeClass& c, std::unique_lock<std::mutex>& lock) {
  while (c.slots.residents() + c.filling > c.residents_max) {
    std::optional<ExpertId> victim =
        c.policy->offer_victims([&](ExpertId id) { return may_evict(id); });
    if (!victim) victim = c.policy->offer_victims([](ExpertId) { return true; });
    if (!victim) break;  // all are being filled; they are looked at below
    evict(*victim);
  }
  for (SlotId slot = c.slots.slots(); slot < c.slots.most(); ++slot) {
    loaded_.wait(lock, [&] { return c.slots.use(slot) != SlotPool::Use::kHeld; });
    if (c.slots.use(slot) != SlotPool::Use::kResident) continue;
    const ExpertId id = c.slots.expert_of(slot);
    if (c.slots.residents() + c.filling > c.residents_max) {
      evict(id);
    } else {
      table_[index(id)] = c.slots.move(slot);
    }
  }
  c.slots.return_memory();
}

std::unique_ptr<Policy> ExpertCache::new_policy(const PolicyFactory& policy,
                                                const SizeClass& c) const {
  return policy({source_.layer_count(), experts_per_layer_, 0, c.layers});
}

void ExpertCache::replace_policy(const PolicyFactory& policy) {
  AtRest rest(*this);
  std::vector<float> scores(table_.size());
  for (const auto& c : classes_) c->policy->save(scores);
  // The best last, which is the latest for a policy that goes by recency.
  std::vector<size_t> order(table_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  for (const auto& c : classes_) {
    c->policy = new_policy(policy, *c);
    c->policy->restore(scores);
  }
  for (const size_t i : order) {
    const ExpertId id = expert_of_entry(i, experts_per_layer_);
    if (table_[i] >= 0) size_class(id.layer).policy->admit(id);
  }
}

void ExpertCache::save_scores(std::span<float> scores) const {
  HOTSET_CHECK(scores.size() == table_.size(), "a score for every expert");
  const std::lock_guard lock(mutex_);
  for (const auto& c : classes_) c->policy->save(scores);
}

void ExpertCache::restore_scores(std::span<const float> scores) {
  HOTSET_CHECK(scores.size() == table_.size(), "a score for every expert");
  const std::lock_guard lock(mutex_);
  for (const auto& c : classes_) c->policy->restore(scores);
  order_fill(scores);
}

void ExpertCache::verify() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  std::vector<int32_t> of_layer(residents_of_layer_.size());
  for (size_t i = 0; i < table_.size(); ++i) {
    const SlotId slot = table_[i];
    HOTSET_CHECK(fill_order_[fill_place_[i]] == i, "the fillers' order does not hold everyone");
    HOTSET_CHECK(slot != kAbsent || fill_place_[i] >= fill_next_ || !plan_.all_resident(),
                 "the fillers have passed by an absent expert");
    if (slot < 0) continue;
    const ExpertId id = expert_of_entry(i, experts_per_layer_);
    const SlotPool& slots = size_class(id.layer).slots;
    HOTSET_CHECK(slots.expert_of(slot) == id, "table and slot name different experts");
    HOTSET_CHECK(slots.use(slot) == SlotPool::Use::kResident, "the table names an empty slot");
    bytes += slots.slot_bytes();
    ++of_layer[id.layer];
  }
  HOTSET_CHECK(bytes == resident_bytes_, "resident bytes do not add up");
  HOTSET_CHECK(of_layer == residents_of_layer_, "residents of a layer do not add up");
  int32_t residents = 0, held = 0, passing = 0, leased = 0;
  for (const auto& c : classes_) {
    c->slots.verify();
    c->policy->verify();
    residents += c->slots.residents();
    held += c->slots.slots() - c->slots.free_slots() - c->slots.residents() - c->filling;
    HOTSET_CHECK(c->slots.residents() + c->filling <= c->residents_max,
                 "residents take the slots of those who pass through");
    for (SlotId slot = 0; slot < c->slots.most(); ++slot) leased += c->slots.is_leased(slot);
  }
  HOTSET_CHECK(residents == std::accumulate(of_layer.begin(), of_layer.end(), 0),
               "a resident is not in the table");
  for (const Leased& l : leased_) passing += l.is_passing;
  for (const auto* loads : {&reading_, &landed_}) {
    for (const Load& load : *loads) passing += load.slot >= 0;
  }
  HOTSET_CHECK(held == passing, "a slot is held by nobody");
  HOTSET_CHECK(leased == std::ssize(leased_), "a lease outlived its event");
  reader_.verify();
  CacheStats sum;
  for (const CacheStats& s : by_layer_) {
    sum.hits += s.hits;
    sum.misses += s.misses;
    sum.admissions += s.admissions;
    sum.evictions += s.evictions;
    sum.bytes_read += s.bytes_read;
  }
  HOTSET_CHECK(sum.hits == total_.hits && sum.misses == total_.misses &&
                   sum.admissions == total_.admissions && sum.evictions == total_.evictions &&
                   sum.bytes_read == total_.bytes_read,
               "counts do not add up");
}

}  // namespace hotset
