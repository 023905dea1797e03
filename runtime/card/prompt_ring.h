// The slots that a prompt's layer copies missing experts into, in the order of its plan
// (cache/prompt_plan.h), while those before are computed. The ring is in no residency table: what
// was in it is nobody's when the layer has ended.
//
// An expert's way: its bytes from the host's cache, which holds them until then, into pinned
// staging; from there into the ring on a stream of its own; then the steps' stream computes it. A
// few experts, a part of the ring, go together. Who waits for whom:
//  - The host writes a staging buffer when the copies from it have completed (`copied`).
//  - Copies into a part wait until the kernels of its last use have read it (`used`).
//  - Kernels wait for the copies into their part (`copied`, as it was recorded for them).
// Nothing here waits for the CPU's misses, so holding experts blocks nobody for ever.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cache/admission_price.h"
#include "cache/expert_cache.h"
#include "cache/prompt_plan.h"
#include "cache/recorder.h"
#include "kernels/cuda/card_runtime.h"
#include "runtime/card/prompt_stats.h"

namespace hotset {

// A step's thread calls it; add_computed and stats are for any.
class PromptRing {
 public:
  // `compute` puts the kernels of these entries of the plan's list on the steps' stream.
  using Compute = std::function<void(int64_t begin, int64_t end)>;

  // What a ring of so many experts holds: all of a layer at most, and whole parts of four.
  static int32_t slots_of(int32_t ring, int32_t experts_per_layer);
  // slot_bytes: of the largest expert. Has no memory yet.
  PromptRing(CardRuntime& card, CardStream steps, ExpertCache& cache, Recorder& recorder,
             int32_t experts_per_layer, int64_t slot_bytes, const PromptOptions& options);

  // Beside no step: the memory of it, unless it has it or options ask for none. Where the card has
  // no room the ring has no slots, which take_failure tells, and may be tried again.
  void take_memory();
  // Slots that plans may name; 0 where it has none, or a copy has failed.
  int32_t slots() const;
  double break_even() const;
  std::byte* data() const { return memory_.data(); }
  int64_t slot_bytes() const { return slot_bytes_; }

  // Keeps an expert's bytes where they are; until it has been copied, or cancel.
  bool hold(ExpertId id);
  // Of a layer whose experts have `bytes` each; `copied` are those that were held, in their order.
  // A copy that fails is a CardError, after which the ring has no slots.
  void run(int64_t bytes, std::span<const PromptPlan::Copied> copied, const Compute& compute);
  void cancel() noexcept;  // at any point; nothing if nobody is held
  // The copies so far have completed, since the steps' stream has been waited for: watchers hear of
  // those that they do not know of.
  void tell_watchers();

  // The CPU has computed so many experts with so many rows together.
  void add_computed(int64_t experts, int64_t rows, double seconds);
  PromptStats stats() const;
  int64_t card_bytes() const { return memory_.bytes(); }
  int64_t pinned_bytes() const;  // that it has, or takes when a card gets too small for all
  std::string take_failure();    // once, why it has no slots: a copy has failed, or its memory

 private:
  using Clock = std::chrono::steady_clock;
  struct Held {
    ExpertId id;
    const std::byte* bytes;
  };
  struct Staging {
    CardMemory memory;
    OwnEvent copied;
    std::vector<ExpertId> holds;  // whose copies nobody has been told of
    int64_t bytes = 0;            // of each
    Clock::time_point begin;
    Staging(CardRuntime& card, int64_t bytes)
        : memory(card, CardMemory::Place::kPinned, bytes, "staging for prompts"), copied(card) {}
  };
  void start(std::span<const Held> part, Staging& staging, std::byte* to, CardEvent used,
             int64_t bytes);
  void tell_watchers(Staging& staging);

  CardRuntime& card_;
  const CardStream steps_;
  ExpertCache& cache_;
  Recorder& recorder_;
  const int64_t slot_bytes_;
  const int32_t part_;  // slots that go together
  const int32_t parts_;
  const std::optional<double> fixed_break_even_;
  CardMemory memory_;
  std::deque<OwnEvent> used_;  // by part
  std::deque<Staging> stagings_;
  std::vector<Held> held_;
  size_t released_ = 0;  // of held_
  mutable std::mutex mutex_;
  AdmissionPrice price_;  // of a copy in the CPU's rows
  PromptStats stats_;
  bool has_failed_ = false;
  std::string failure_;
  OwnStream stream_;  // last: ends before what it uses
};

}  // namespace hotset
