// Events: leases, reads, packing, admission (see expert_cache.h).
#include "cache/expert_cache.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {

namespace {
constexpr SlotId kAbsent = -1, kLoading = -2;
}

ExpertCache::ExpertCache(ExpertSource& source, SlotPlan plan, ThreadPool& pool,
                         const PolicyFactory& policy, const CacheOptions& options)
    : source_(source),
      pool_(pool),
      recorder_(options.recorder != nullptr ? *options.recorder : silent_),
      options_(options),
      experts_per_layer_(source.experts_per_layer()),
      plan_(std::move(plan)),
      class_of_layer_(source.layer_count()),
      table_(static_cast<size_t>(source.layer_count()) * experts_per_layer_, kAbsent),
      residents_of_layer_(source.layer_count()),
      by_layer_(source.layer_count()),
      is_picked_(experts_per_layer_),
      is_kept_(experts_per_layer_),
      taken_(options.reads),
      is_guessed_(experts_per_layer_),
      reader_(source, recorder_, options.reading_threads, options.reads) {
  recorder_.budget(0, plan_.slot_bytes_total);
  if (!plan_.all_resident()) reader_.touch_landings();
  for (const SlotPlan::Class& planned : plan_.classes) {
    auto c = std::make_unique<SizeClass>(planned);
    c->policy = new_policy(policy, *c);
    for (const int32_t layer : planned.layers) {
      class_of_layer_[layer] = static_cast<int32_t>(classes_.size());
    }
    classes_.push_back(std::move(c));
  }
  fill_place_.resize(table_.size());
  order_fill(std::vector<float>(table_.size()));
  residents_.reserve(experts_per_layer_);
  absent_.reserve(2 * experts_per_layer_);  // once more, where a filler has failed
  reading_.reserve(experts_per_layer_);
  landed_.reserve(experts_per_layer_);
  awaited_.reserve(experts_per_layer_);
  leases_.reserve(experts_per_layer_);
  leased_.reserve(experts_per_layer_);
}

ExpertCache::~ExpertCache() = default;

Residency ExpertCache::residency(ExpertId id) const {
  const std::lock_guard lock(mutex_);
  const SlotId slot = table_[index(id)];
  return slot >= 0          ? Residency::kResident
         : slot == kLoading ? Residency::kLoading
                            : Residency::kAbsent;
}

int64_t ExpertCache::resident_bytes() const {
  const std::lock_guard lock(mutex_);
  return resident_bytes_;
}

SlotPlan ExpertCache::plan() const {
  const std::lock_guard lock(mutex_);
  return plan_;
}

bool ExpertCache::has_all_slots() const {
  const std::lock_guard lock(mutex_);
  return plan_.all_resident();
}

CacheStats ExpertCache::stats() const {
  const std::lock_guard lock(mutex_);
  return total_;
}

std::vector<CacheStats> ExpertCache::layer_stats() const {
  const std::lock_guard lock(mutex_);
  return by_layer_;
}

PrefetchStats ExpertCache::prefetch_stats() const {
  const std::lock_guard lock(mutex_);
  PrefetchStats stats = prefetch_;
  stats.reads = reader_.stats();
  return stats;
}

void ExpertCache::begin(int32_t layer, std::span<const Pick> picks, int64_t now, EventKind kind,
                        std::span<const int32_t> keep) {
  HOTSET_CHECK(layer_ < 0, "an event was begun before the last one ended");
  is_event_waiting_ = true;
  std::unique_lock lock(mutex_);
  turn_.wait(lock, [&] { return !is_at_rest_ && (rests_waiting_ == 0 || is_events_turn_); });
  is_event_waiting_ = false;
  is_events_turn_ = false;
  layer_ = layer;
  kind_ = kind;
  kept_ = 0;
  std::fill(is_kept_.begin(), is_kept_.end(), uint8_t{0});
  for (const int32_t expert : keep) is_kept_[expert] = 1;
  if (kind == EventKind::kDecode) size_class(layer).policy->use(layer, picks, now);
  sort_picks(picks);
  if (guessed_layer_ >= 0 && guessed_layer_ != layer) reader_.drop_expected(guessed_layer_);
  start_reads();
  reader_.drop_expected(layer);  // those that start_reads did not ask for
  guessed_layer_ = -1;
}

// Residents first, so that nothing has to be waited for before they are used. Fillers wait for the
// mutex: all of this sees one table.
void ExpertCache::sort_picks(std::span<const Pick> picks) {
  std::fill(is_picked_.begin(), is_picked_.end(), uint8_t{0});
  residents_.clear();
  absent_.clear();
  next_resident_ = next_absent_ = 0;
  int32_t right = 0;
  for (const Pick& pick : picks) {
    const bool is_resident = table_[index({layer_, pick.expert})] >= 0;
    (is_resident ? residents_ : absent_).push_back(pick.expert);
    is_picked_[pick.expert] = 1;
    if (guessed_layer_ == layer_) right += is_guessed_[pick.expert];
  }
  if (guessed_layer_ != layer_) return;
  prefetch_.right += right;
  prefetch_.picked += std::ssize(picks);
  recorder_.prediction(layer_,
                       static_cast<int32_t>(std::count(is_guessed_.begin(), is_guessed_.end(), 1)),
                       right, static_cast<int32_t>(picks.size()));
}

// Asks for as many of the absent as the reader takes: all that a step of one token needs.
void ExpertCache::start_reads() {
  SlotPool& slots = size_class(layer_).slots;
  for (; next_absent_ < absent_.size(); ++next_absent_) {
    const ExpertId id{layer_, absent_[next_absent_]};
    SlotId& entry = table_[index(id)];
    if (entry != kAbsent) {  // a filler has been here
      awaited_.push_back(id.expert);
      continue;
    }
    const SlotId slot = source_.lands_packed() ? slots.take(id) : -1;
    if (!reader_.need(id, slot < 0 ? nullptr : slots.bytes(slot).data())) {
      if (slot >= 0) slots.give_back(slot);
      return;
    }
    entry = kLoading;
    reading_.push_back({.landed = {.id = id}, .slot = slot});
  }
}

std::span<const Lease> ExpertCache::next_wave(int32_t limit) {
  HOTSET_CHECK(layer_ >= 0 && limit > 0, "next_wave outside an event");
  std::unique_lock lock(mutex_);
  end_leases();
  start_reads();
  if (next_resident_ < residents_.size()) {
    lease_residents(limit);
    return leases_;
  }
  PickSource source = PickSource::kRead;
  while (leases_.empty()) {
    if (!reading_.empty() || !landed_.empty()) {
      source = PickSource::kRead;
      load_landed(lock, limit);
    } else if (!awaited_.empty()) {
      source = PickSource::kAwaited;
      settle_awaited(lock);
    } else {
      break;
    }
  }
  for (CacheStats* stats : {&total_, &by_layer_[layer_]}) stats->misses += std::ssize(leases_);
  recorder_.picks(layer_, leases_.size(), source, [&](size_t i) { return leases_[i].expert; });
  return leases_;
}

void ExpertCache::lease_residents(int32_t limit) {
  const size_t first = next_resident_;
  next_resident_ = std::min(residents_.size(), first + limit);
  for (size_t i = first; i < next_resident_; ++i) {
    lease(residents_[i], table_[index({layer_, residents_[i]})], false);
  }
  for (CacheStats* stats : {&total_, &by_layer_[layer_]}) {
    stats->hits += static_cast<int64_t>(next_resident_ - first);
  }
  recorder_.picks(layer_, next_resident_ - first, PickSource::kResident,
                  [&](size_t i) { return residents_[first + i]; });
}

void ExpertCache::lease(int32_t expert, SlotId slot, bool is_passing) {
  SlotPool& slots = size_class(layer_).slots;
  slots.lease(slot);
  leased_.push_back({slot, slots.generation(slot), is_passing});
  leases_.push_back({expert, slots.bytes(slot).data()});
}

// Packs and leases what has landed and finds a slot. Slots are missing only where more have landed
// than pass through at once: the rest waits for the next wave.
void ExpertCache::load_landed(std::unique_lock<std::mutex>& lock, int32_t limit) {
  SlotPool& slots = size_class(layer_).slots;
  const auto most = static_cast<size_t>(limit);
  const auto find_slots = [&] {
    size_t ready = 0;
    for (Load& load : landed_) {
      if (load.slot < 0) load.slot = slots.take(load.landed.id);
      if (load.slot >= 0) std::swap(load, landed_[ready++]);
    }
    return ready;
  };
  size_t ready = find_slots();
  if (ready == 0) {
    HOTSET_CHECK(!reading_.empty(), "somebody has a slot, or a slot is free");
    size_t count = 0;
    lock.unlock();
    try {
      auto wait = recorder_.range(RangeName::kReadWait, layer_);
      count = reader_.take_landed(taken_);
      int64_t bytes = 0;
      for (size_t i = 0; i < count; ++i) bytes += taken_[i].bytes_read;
      wait.moved(static_cast<int64_t>(count), bytes);
    } catch (...) {
      lock.lock();
      abandon_event();
      throw;
    }
    lock.lock();
    for (const ExpertReader::Landed& landed : std::span(taken_).first(count)) {
      const auto load = std::find_if(reading_.begin(), reading_.end(),
                                     [&](const Load& l) { return l.landed.id == landed.id; });
      landed_.push_back({landed, load->slot});
      reading_.erase(load);
    }
    ready = find_slots();
  }
  pack(lock, std::span(landed_).first(std::min(ready, most)));
}

// On the pool and without the mutex. Most often a single expert has landed, whose tasks keep all
// threads busy.
void ExpertCache::pack(std::unique_lock<std::mutex>& lock, std::span<Load> loads) {
  SlotPool& slots = size_class(layer_).slots;
  const auto has_landed_in_place = [&](const Load& load) {
    return load.landed.bytes == slots.bytes(load.slot).data();
  };
  const bool is_there = std::all_of(loads.begin(), loads.end(), has_landed_in_place);
  const int32_t tasks = is_there ? 0 : source_.pack_tasks();
  lock.unlock();
  try {
    pool_.run(std::ssize(loads) * tasks, [&](int64_t task, int) {
      const Load& load = loads[task / tasks];
      if (has_landed_in_place(load)) return;
      source_.pack(load.landed.id, static_cast<int32_t>(task % tasks), load.landed.bytes,
                   slots.bytes(load.slot));
    });
  } catch (...) {
    // What was half loaded is nobody's: its slots are free again, the residents keep theirs.
    lock.lock();
    abandon_event();
    throw;
  }
  lock.lock();
  for (const Load& load : loads) {
    const ExpertId id = load.landed.id;
    reader_.release(load.landed.read);
    for (CacheStats* stats : {&total_, &by_layer_[layer_]}) {
      stats->bytes_read += load.landed.bytes_read;
    }
    recorder_.read(load.landed.was_guess ? TransferCause::kPrefetch : TransferCause::kMiss, id,
                   load.landed.bytes_read, load.landed.read_ns);
    const bool is_admitted = admit(id);
    if (is_admitted) {
      publish(id, load.slot);
      for (CacheStats* stats : {&total_, &by_layer_[layer_]}) ++stats->admissions;
    } else {
      table_[index(id)] = kAbsent;
    }
    lease(id.expert, load.slot, !is_admitted);
  }
  landed_.erase(landed_.begin(), landed_.begin() + std::ssize(loads));
}

// One of those that fillers were loading when the event asked.
void ExpertCache::settle_awaited(std::unique_lock<std::mutex>& lock) {
  const int32_t expert = awaited_.back();
  const SlotId& entry = table_[index({layer_, expert})];
  {
    const auto wait =
        recorder_.range(RangeName::kFillWait, layer_, 1, size_class(layer_).slots.slot_bytes());
    loaded_.wait(lock, [&] { return entry != kLoading; });
  }
  awaited_.pop_back();
  if (entry >= 0) {
    lease(expert, entry, false);
  } else {
    // The filler failed. If reading it fails here as well, it is this step that hears of it.
    absent_.push_back(expert);
    start_reads();
  }
}

// Whether a newcomer becomes resident, for which somebody may have to go.
bool ExpertCache::admit(ExpertId id) {
  SizeClass& c = size_class(id.layer);
  if (c.slots.residents() + c.filling < c.residents_max) return true;
  if (kind_ == EventKind::kPrompt) {
    // A prompt's layers come one after another, and the last must not own all slots.
    const auto share = c.residents_max / static_cast<int32_t>(c.layers.size());
    if (!is_kept_[id.expert] || kept_ >= share) return false;
  }
  const std::optional<ExpertId> victim =
      c.policy->offer_victims([&](ExpertId resident) { return may_evict(resident); });
  if (!victim) return false;
  const bool has_floor = residents_of_layer_[id.layer] >= options_.floor;
  if (has_floor && !c.policy->admits(id, *victim, 0)) return false;
  ++kept_;
  evict(*victim);
  return true;
}

bool ExpertCache::may_evict(ExpertId id) const {
  const SizeClass& c = size_class(id.layer);
  const SlotId slot = table_[index(id)];
  if (c.slots.is_leased(slot) || c.slots.is_read(slot)) return false;
  if (id.layer == layer_) return kind_ == EventKind::kPrompt || !is_picked_[id.expert];
  const int32_t floor =
      std::min(options_.floor, c.residents_max / static_cast<int32_t>(c.layers.size()));
  return residents_of_layer_[id.layer] > floor;
}

void ExpertCache::publish(ExpertId id, SlotId slot) {
  SizeClass& c = size_class(id.layer);
  c.slots.set_resident(slot);
  c.policy->admit(id);
  table_[index(id)] = slot;
  ++residents_of_layer_[id.layer];
  resident_bytes_ += c.slots.slot_bytes();
  recorder_.admit(id, slot, c.slots.slot_bytes());
}

void ExpertCache::evict(ExpertId id) {
  SizeClass& c = size_class(id.layer);
  c.policy->evict(id);
  const SlotId slot = std::exchange(table_[index(id)], kAbsent);
  c.slots.give_back(slot);
  recorder_.evict(id, slot, c.slots.slot_bytes());
  --residents_of_layer_[id.layer];
  resident_bytes_ -= c.slots.slot_bytes();
  fill_next_ = std::min<size_t>(fill_next_, fill_place_[index(id)]);
  for (CacheStats* stats : {&total_, &by_layer_[id.layer]}) ++stats->evictions;
}

void ExpertCache::end() {
  HOTSET_CHECK(layer_ >= 0, "end outside an event");
  const std::lock_guard lock(mutex_);
  HOTSET_CHECK(reading_.empty() && landed_.empty() && awaited_.empty() &&
                   next_absent_ == absent_.size() && next_resident_ == residents_.size(),
               "an event ends when all of it has been leased, or is cancelled");
  end_leases();
  end_event();
}

void ExpertCache::cancel() {
  const std::lock_guard lock(mutex_);
  if (layer_ >= 0) abandon_event();
}

void ExpertCache::abandon_event() {
  reader_.cancel_needed();
  SlotPool& slots = size_class(layer_).slots;
  for (std::vector<Load>* loads : {&reading_, &landed_}) {
    for (const Load& load : *loads) {
      if (load.slot >= 0) slots.give_back(load.slot);
      table_[index(load.landed.id)] = kAbsent;
      fill_next_ = std::min<size_t>(fill_next_, fill_place_[index(load.landed.id)]);
    }
    loads->clear();
  }
  awaited_.clear();
  end_leases();
  end_event();
}

void ExpertCache::end_leases() {
  SlotPool& slots = size_class(layer_).slots;
  for (const Leased& leased : leased_) {
    HOTSET_CHECK(slots.generation(leased.slot) == leased.generation,
                 "a leased slot was given to another expert");
    slots.end_lease(leased.slot);
    if (leased.is_passing) slots.give_back(leased.slot);
  }
  leased_.clear();
  leases_.clear();
}

void ExpertCache::end_event() {
  layer_ = -1;
  turn_.notify_all();
}

void ExpertCache::note_use(int32_t layer, std::span<const Pick> picks, int64_t now) {
  const std::lock_guard lock(mutex_);
  size_class(layer).policy->use(layer, picks, now);
}

void ExpertCache::expect(int32_t layer, std::span<const int32_t> experts) {
  const std::lock_guard lock(mutex_);
  if (guessed_layer_ >= 0) reader_.drop_expected(guessed_layer_);
  guessed_layer_ = layer;
  std::fill(is_guessed_.begin(), is_guessed_.end(), uint8_t{0});
  for (const int32_t expert : experts) {
    if (std::exchange(is_guessed_[expert], uint8_t{1}) != 0) continue;
    ++prefetch_.guessed;
    if (table_[index({layer, expert})] == kAbsent) reader_.expect({layer, expert});
  }
}

}  // namespace hotset
