// The expert cache: fixed slots that hold packed experts, over a source that can produce any of
// them. A layer of a step asks for all its picks at once (an event); the cache leases them in waves
// that fit its slots, loading what is absent. An event's own picks are never each other's victims
// before they have been used, and a leased slot is never given up.
//
// Policy chooses the victim, the cache evicts exactly that, loading never chooses. All memory is
// taken at construction. One event at a time (the step thread's); loads run on the pool.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cache/eviction_policy.h"
#include "cache/expert_id.h"
#include "kernels/memory.h"
#include "kernels/thread_pool.h"

namespace hotset {

struct CacheStats {
  int64_t hits = 0, misses = 0;  // distinct experts of each event
  int64_t evictions = 0, bytes_read = 0;
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

using PolicyFactory = std::function<std::unique_ptr<EvictionPolicy>(int32_t slot_count)>;

class ExpertCache {
 public:
  ExpertCache(ExpertSource& source, SlotPlan plan, ThreadPool& pool, const PolicyFactory& policy);
  ~ExpertCache();

  // Starts an event; the one before must have ended. `picks` are distinct.
  void begin(int32_t layer, std::span<const Pick> picks);
  // Ends the leases of the last wave and leases the next experts of the event, at most `limit` of
  // them: residents first, then what had to be loaded. Empty when every pick has been leased once.
  // An Error from the source ends the event; the cache stays usable.
  std::span<const Lease> next_wave(int32_t limit);
  void end();

  // Loads experts into free slots until none is free or all are resident. `progress(bytes done,
  // bytes in all)` may throw to stop.
  void fill(const std::function<void(int64_t, int64_t)>& progress);

  bool is_resident(ExpertId id) const;
  const SlotPlan& plan() const { return plan_; }
  const CacheStats& stats() const { return total_; }
  std::span<const CacheStats> layer_stats() const { return by_layer_; }
  void verify() const;  // recomputes every total and link; aborts on a contradiction

 private:
  struct SizeClass;
  SizeClass& size_class(int32_t layer) const;
  SlotId take_slot(SizeClass& slots);
  void load_wave(SizeClass& slots, std::span<const Pick> misses);

  ExpertSource& source_;
  SlotPlan plan_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<SizeClass>> classes_;
  std::vector<int32_t> class_of_layer_;
  std::vector<SlotId> table_;  // [layer][expert] -> slot, or kAbsent
  int32_t experts_per_layer_;
  CacheStats total_;
  std::vector<CacheStats> by_layer_;

  // The running event.
  int32_t layer_ = -1;
  std::vector<Pick> waiting_;  // residents first; consumed from the front
  size_t next_ = 0;
  std::vector<Lease> leases_;
  std::vector<SlotId> leased_slots_;
};

}  // namespace hotset
