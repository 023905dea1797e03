// The expert cache: fixed slots that hold packed experts, over a source that can produce any of
// them. A layer of a step asks for all its picks at once (an event); the cache leases them in waves
// that fit its slots, loading what is absent. An event's own picks are never each other's victims
// before they have been used, and a leased slot is never given up.
//
// Policy chooses the victim, the cache evicts exactly that, loading never chooses. All memory is
// taken at construction. One event at a time (the step thread's); its loads run on the pool.
//
// Any number of threads may fill free slots beside it (fill_one). One mutex guards everything but
// the slots' bytes. A load reserves its slot and marks the expert as loading under the mutex, reads
// without it, and names the slot in the table under it again: who finds the slot there sees all of
// its bytes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "cache/expert_id.h"
#include "cache/policy.h"
#include "kernels/memory.h"
#include "kernels/thread_pool.h"

namespace hotset {

struct CacheStats {
  // Distinct experts of each event, by whether they were resident when it began: an expert that
  // somebody was loading just then counts as a miss, since the step may have had to wait for it.
  int64_t hits = 0, misses = 0;
  int64_t evictions = 0, bytes_read = 0;  // bytes_read: filling included
  double hit_rate() const {
    return hits + misses == 0 ? 0.0
                              : static_cast<double>(hits) / static_cast<double>(hits + misses);
  }
};

// An expert whose slot is held until the next wave or the end of the event.
struct Lease {
  int32_t expert = 0;
  const std::byte* blob = nullptr;
};

// Slots of each size class for a budget: in proportion to the classes' bytes, at least
// `least_slots` each (or all it has).
struct SlotPlan {
  struct Class {
    int64_t slot_bytes = 0;
    int32_t experts = 0, slots = 0;
    std::vector<int32_t> layers;
  };
  std::vector<Class> classes;
  int64_t slot_bytes_total = 0, expert_bytes_total = 0, least_bytes = 0;
  bool all_resident() const { return slot_bytes_total == expert_bytes_total; }
};
SlotPlan plan_slots(const ExpertSource& source, int64_t budget_bytes, int32_t least_slots);

// Makes the policy of one size class; the shape comes without its top_k.
using PolicyFactory = std::function<std::unique_ptr<Policy>(PolicyShape)>;

class ExpertCache {
 public:
  ExpertCache(ExpertSource& source, SlotPlan plan, ThreadPool& pool, const PolicyFactory& policy);
  ~ExpertCache();

  // Starts an event; the one before must have ended. `picks` are distinct; `now` in tokens.
  void begin(int32_t layer, std::span<const Pick> picks, int64_t now);
  // Ends the leases of the last wave and leases the next experts of the event, at most `limit` of
  // them: residents first, then what had to be loaded here, then what others were loading, which is
  // waited for (one load at most, since nobody begins another of the event's). Empty when every
  // pick has been leased once. An Error from the source ends the event; the cache stays usable.
  std::span<const Lease> next_wave(int32_t limit);
  void end();

  // Loads the next absent expert, in the source's order, into a free slot; false where none is left
  // to load. Filling is not use: no hit, no miss. Only where there is a slot for every expert, so
  // that a filler never takes one that a step needs. Thread-safe beside the running event. An Error
  // from the source leaves the expert absent.
  bool fill_one();

  bool is_resident(ExpertId id) const;
  int64_t resident_bytes() const;
  const SlotPlan& plan() const { return plan_; }
  CacheStats stats() const;
  std::vector<CacheStats> layer_stats() const;
  void verify() const;  // recomputes every total and link; aborts on a contradiction

 private:
  struct SizeClass;
  struct Load {
    ExpertId id;
    SlotId slot = 0;
  };
  SizeClass& size_class(int32_t layer) const;
  size_t index(ExpertId id) const;
  SlotId take_slot(SizeClass& slots);
  bool lease_or_reserve(SizeClass& slots, const Pick& pick);
  void lease(SizeClass& slots, int32_t expert, SlotId slot);
  void load_reserved(std::unique_lock<std::mutex>& lock);
  void lease_awaited(std::unique_lock<std::mutex>& lock, SizeClass& slots);
  std::optional<Load> reserve_next();
  void publish(const Load& load);
  void abandon(const Load& load);
  void end_leases();

  ExpertSource& source_;
  const SlotPlan plan_;
  ThreadPool& pool_;
  mutable std::mutex mutex_;
  std::condition_variable loaded_;  // a filler's load has ended, well or not
  std::vector<std::unique_ptr<SizeClass>> classes_;
  std::vector<int32_t> class_of_layer_;
  std::vector<SlotId> table_;  // [layer][expert] -> slot, kAbsent or kLoading
  int32_t experts_per_layer_;
  int64_t resident_bytes_ = 0;
  size_t fill_next_ = 0;      // no expert of the table before it is absent
  size_t fill_expected_ = 0;  // the source has had a hint about those before it
  CacheStats total_;
  std::vector<CacheStats> by_layer_;

  // The running event.
  int32_t layer_ = -1;
  std::vector<Pick> waiting_;  // residents first; consumed from the front
  size_t next_ = 0, residents_ = 0;
  std::vector<Lease> leases_;
  std::vector<SlotId> leased_slots_;
  std::vector<Load> loads_;    // of the wave, by this event
  std::vector<Pick> awaited_;  // of the wave, loaded by others
};

}  // namespace hotset
