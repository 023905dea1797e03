// The expert cache: fixed slots that hold packed experts, over a source that can produce any of
// them. A layer of a step asks for all its picks at once (an event): residents are leased at once
// while the others are read, then those as they land, in waves that fit the slots. What an event
// needs is never given up for it, and a leased slot never at all.
//
// Policy orders the residents and prices newcomers, the cache evicts exactly what it offers,
// reading never chooses. Layers of one size class compete for its slots; each keeps at least top_k.
// Who is not admitted passes through a slot kept for that. All memory is taken at construction.
//
// One event at a time (the step thread's); any number of threads may fill free slots (fill_one) or
// change the number of slots (resize) beside it. One mutex guards everything but the slots' bytes.
// A load holds its slot and marks the expert as loading under the mutex, writes without it, and
// names the slot in the table under it again: who finds the slot there sees all of its bytes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "cache/expert_reader.h"
#include "cache/expert_source.h"
#include "cache/policy.h"
#include "cache/recorder.h"
#include "cache/slot_plan.h"
#include "cache/slot_pool.h"
#include "kernels/thread_pool.h"

namespace hotset {

struct CacheStats {
  // Distinct experts of each event, by whether they were resident when it began: an expert that
  // somebody was loading just then counts as a miss, since the step may have had to wait for it.
  int64_t hits = 0, misses = 0;
  int64_t admissions = 0, evictions = 0;  // of what steps loaded: filling is neither
  int64_t bytes_read = 0;                 // filling included, guesses that were wrong not
  double hit_rate() const {
    return hits + misses == 0 ? 0.0
                              : static_cast<double>(hits) / static_cast<double>(hits + misses);
  }
};

// Guesses of a layer's picks, resident or not, beside what was picked; and what reading the absent
// ones ahead was worth.
struct PrefetchStats {
  int64_t guessed = 0, right = 0, picked = 0;
  ReadAheadStats reads;
  double precision() const { return guessed == 0 ? 0.0 : double(right) / double(guessed); }
  double recall() const { return picked == 0 ? 0.0 : double(right) / double(picked); }
};

// An expert whose slot is held until the next wave or the end of the event.
struct Lease {
  int32_t expert = 0;
  const std::byte* blob = nullptr;
};

// A prompt uses what is resident and fills what is free, but evicts only for `keep`.
enum class EventKind { kDecode, kPrompt };

enum class Residency { kAbsent, kLoading, kResident };

// Makes the policy of one size class; the shape comes without its top_k.
using PolicyFactory = std::function<std::unique_ptr<Policy>(PolicyShape)>;

struct CacheOptions {
  int32_t floor = 1;  // experts that a layer keeps: top_k
  int reading_threads = 4;
  int32_t reads = 32;            // queued, under way or landed at once; each has a landing
  Recorder* recorder = nullptr;  // hears of all that happens, if anybody does
};

class ExpertCache {
 public:
  ExpertCache(ExpertSource& source, SlotPlan plan, ThreadPool& pool, const PolicyFactory& policy,
              const CacheOptions& options);
  ~ExpertCache();

  // Starts an event and its reads; the one before must have ended. `picks` are distinct; `now` in
  // tokens. `keep` of a prompt: which of its picks are worth an eviction, best first.
  void begin(int32_t layer, std::span<const Pick> picks, int64_t now,
             EventKind kind = EventKind::kDecode, std::span<const int32_t> keep = {});
  // Ends the leases of the last wave and leases the next experts of the event, at most `limit`:
  // first the residents, then those that have landed (at least one, which is waited for), last
  // those that fillers were loading. Empty when every pick has been leased once. An Error from the
  // source ends the event; the cache stays usable.
  std::span<const Lease> next_wave(int32_t limit);
  void end();
  void cancel();  // ends an event at any point; nothing if there is none
  // Tells the policy of uses without an event: the last rows of a prompt, one after another.
  void note_use(int32_t layer, std::span<const Pick> picks, int64_t now);
  // Guesses what a coming event of the layer will pick, likeliest first: only orders and hides
  // reads.
  void expect(int32_t layer, std::span<const int32_t> experts);

  // Loads the next absent expert into a free slot: the best scores of the last restore_scores or
  // resize first, then, where all have a slot, in the source's order. False where there is none or
  // nothing is left to load. Filling is not use: no hit, no miss. Thread-safe beside the running
  // event. An Error from the source leaves the expert absent.
  bool fill_one();

  // As many slots as the plan says, which is one of the same source: the experts that the policy
  // thinks best stay. Waits for the running event; the next ones wait for it. Any thread.
  void resize(SlotPlan plan);
  // Another policy over the same residents; it takes over the scores. Any thread.
  void replace_policy(const PolicyFactory& policy);
  // Scores of all experts, [layer][expert], see Policy.
  void save_scores(std::span<float> scores) const;
  void restore_scores(std::span<const float> scores);

  // The bytes of a resident expert (expert_bytes of its layer), which stays resident and where it
  // is until it is released, beside events. Null: it is not resident. Any thread; while it holds
  // one, it waits for nothing of which a part is an event or a change of the cache's size: these
  // wait for the release.
  const std::byte* hold_resident(ExpertId id);
  void release_resident(ExpertId id);

  Residency residency(ExpertId id) const;
  bool is_resident(ExpertId id) const { return residency(id) == Residency::kResident; }
  int64_t resident_bytes() const;
  SlotPlan plan() const;
  bool has_all_slots() const;  // one for every expert
  CacheStats stats() const;
  std::vector<CacheStats> layer_stats() const;
  PrefetchStats prefetch_stats() const;
  int64_t landing_bytes() const { return reader_.landing_bytes(); }
  void verify() const;  // recomputes every total and link; aborts on a contradiction

 private:
  struct SizeClass {
    explicit SizeClass(const SlotPlan::Class& planned)
        : slots(planned.slot_bytes, planned.experts, planned.slots),
          residents_max(planned.residents_max()),
          layers(planned.layers) {}
    SlotPool slots;
    int32_t residents_max;
    int32_t filling = 0;  // slots that fillers hold
    const std::vector<int32_t> layers;
    std::unique_ptr<Policy> policy;
  };
  struct Leased {
    SlotId slot;
    uint32_t generation;
    bool is_passing;
  };
  struct Load {
    ExpertReader::Landed landed;  // until then only its id
    SlotId slot = -1;
  };
  SizeClass& size_class(int32_t layer) const { return *classes_[class_of_layer_[layer]]; }
  size_t index(ExpertId id) const {
    return static_cast<size_t>(id.layer) * experts_per_layer_ + id.expert;
  }
  // An event has ended and none begins while one of these lives. They and the events take turns: an
  // event waits for one of them at most, however often the slots are resized.
  class AtRest {
   public:
    explicit AtRest(ExpertCache& cache);
    ~AtRest();
    std::unique_lock<std::mutex>& lock() { return lock_; }

   private:
    ExpertCache& cache_;
    std::unique_lock<std::mutex> lock_;
  };
  std::unique_ptr<Policy> new_policy(const PolicyFactory& policy, const SizeClass& c) const;
  void sort_picks(std::span<const Pick> picks);
  void start_reads();
  void lease(int32_t expert, SlotId slot, bool is_passing);
  void lease_residents(int32_t limit);
  void load_landed(std::unique_lock<std::mutex>& lock, int32_t limit);
  void pack(std::unique_lock<std::mutex>& lock, std::span<Load> loads);
  void settle_awaited(std::unique_lock<std::mutex>& lock);
  bool admit(ExpertId id);
  bool may_evict(ExpertId id) const;
  void publish(ExpertId id, SlotId slot);
  void evict(ExpertId id);
  void end_leases();
  void end_event();
  void abandon_event();
  void shrink(SizeClass& c, std::unique_lock<std::mutex>& lock);
  std::optional<ExpertId> next_to_fill();
  void order_fill(std::span<const float> scores);
  bool has_room_to_fill(int32_t layer) const {
    const SizeClass& c = size_class(layer);
    return c.slots.residents() + c.filling < c.residents_max;
  }

  ExpertSource& source_;
  ThreadPool& pool_;
  Recorder silent_;
  Recorder& recorder_;
  const CacheOptions options_;
  const int32_t experts_per_layer_;
  SlotPlan plan_;
  mutable std::mutex mutex_;
  std::condition_variable loaded_;  // a filler's load has ended, well or not
  std::condition_variable turn_;    // an event or an AtRest has begun or ended
  int32_t rests_waiting_ = 0;
  int32_t readers_ = 0;  // of residents that are held
  bool is_at_rest_ = false, is_events_turn_ = false;
  std::atomic<bool> is_event_waiting_ = false;  // set before the mutex is had: it is not fair
  std::vector<std::unique_ptr<SizeClass>> classes_;
  std::vector<int32_t> class_of_layer_;
  std::vector<SlotId> table_;  // [layer][expert] -> slot, kAbsent or kLoading
  std::vector<int32_t> residents_of_layer_;
  int64_t resident_bytes_ = 0;
  std::vector<uint32_t> fill_order_, fill_place_;  // of the table, and where in the order each is
  size_t fill_scored_ = 0;                         // so many of the order have a score
  size_t fill_next_ = 0;      // no expert of the order before it is absent, if its class has room
  size_t fill_expected_ = 0;  // the source has had a hint about those before it
  CacheStats total_;
  std::vector<CacheStats> by_layer_;

  // The running event.
  int32_t layer_ = -1;
  EventKind kind_ = EventKind::kDecode;
  std::vector<int32_t> residents_, absent_;  // its picks; consumed from the front
  size_t next_resident_ = 0, next_absent_ = 0;
  std::vector<Load> reading_;                 // asked for; those in place have a slot
  std::vector<Load> landed_;                  // not packed yet: waits for a slot
  std::vector<int32_t> awaited_;              // loaded by fillers
  std::vector<uint8_t> is_picked_, is_kept_;  // [experts]
  int32_t kept_ = 0;                          // evictions for the prompt so far
  std::vector<Lease> leases_;
  std::vector<Leased> leased_;
  std::vector<ExpertReader::Landed> taken_;

  // The guess that is out.
  int32_t guessed_layer_ = -1;
  std::vector<uint8_t> is_guessed_;  // [experts]
  PrefetchStats prefetch_;

  ExpertReader reader_;  // last: ends before what it reads into
};

}  // namespace hotset
