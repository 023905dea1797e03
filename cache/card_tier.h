// Which experts are in a card's slots: a tier over the host's, with the same policies, and pure
// logic: it touches neither the card nor bytes. A miss here is computed by the CPU, so nothing
// waits for this tier: what is worth a slot is copied behind the steps.
//
// Life of a slot. A step's kernels see the residency table as the deltas at the step's head left
// it:
//   resident  since a step whose deltas named its expert; kernels read it
//   draining  another expert was chosen for it at a step's end; the table still names the old one
//   loading   the next step's deltas took the old one out. A kernel can have read the slot only in
//             steps before, and these have ended when the next step's deltas are made: from then on
//             the slot is the copy's
//   ready     the copy has completed; the deltas of the next step name the new expert
// Slots that nobody has chosen yet are filled behind the steps with the best of the scores that
// restore_scores or a growing resize left.
// Thread-safe: steps are one thread's (begin_step, use, end_step in turn), copies another's; what
// resizes sees to it that no step runs meanwhile.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "cache/admission_price.h"
#include "cache/expert_cache.h"
#include "kernels/cuda/card_kernels.h"

namespace hotset {

struct CardTierOptions {
  int32_t copies_max = 8;  // chosen by steps and not yet resident, at most
  // What a copy costs in hits (cache/policy.h); none: measured.
  std::optional<double> lambda = {};
};

// A copy that has been ordered: the expert's bytes into the slot.
struct CardCopy {
  ExpertId id;
  SlotId slot = -1;  // of its layer's size class
  bool is_fill = false;
  uint32_t generation = 0;  // of the slot, from 1: no two copies have the same
};

// A resident whose slot goes, and the one that it keeps its place in.
struct CardMove {
  int32_t size_class = 0;
  SlotId from = -1, to = -1;
};

class CardTier {
 public:
  CardTier(SlotPlan plan, int32_t layers, int32_t experts_per_layer, const PolicyFactory& policy,
           const CardTierOptions& options);

  // Changes of the card's table, at a step's head: valid until the next call. The step before has
  // ended on the card.
  std::span<const CardResidencyDelta> begin_step();
  // A layer's picks in the running step at `now` in tokens: distinct, hits and misses. Counts them,
  // tells the policy, and notes what is missing.
  void use(int32_t layer, std::span<const Pick> picks, int64_t now);
  // A prompt's last rows: the policy hears of them, nothing is chosen for them.
  void note_use(int32_t layer, std::span<const Pick> picks, int64_t now);
  // Of a prompt: only counts.
  void count(int32_t layer, std::span<const Pick> picks);
  // The step has ended on the card: chooses what to copy next.
  void end_step();

  // The next copy that may write its slot; waits for one. Nothing when a stop is requested, or when
  // fills that were abandoned are to be tried again: after `retry`, and at every step's head.
  std::optional<CardCopy> next_copy(const std::stop_token& stop, std::chrono::nanoseconds retry);
  std::optional<CardCopy> take_copy();   // likewise, without waiting
  void copied(const CardCopy& copy);     // it has completed
  void abandoned(const CardCopy& copy);  // it cannot be made: the slot is free again

  // What was measured: copies one after another, and misses that the host computed for a step.
  void add_copies(int64_t count, double seconds);
  void add_misses(int64_t count, double seconds);
  double lambda() const;  // of the next choice

  // As many slots as the plan says, which is one of the same experts. The best stay: the caller
  // moves the bytes of those whose slot goes, and gives the whole table() to the card. Waits for
  // copies that write.
  std::vector<CardMove> resize(SlotPlan plan);
  std::span<const SlotId> table() const { return table_; }  // [layer][expert], -1: absent
  // By slot_index, of those that the table names; 0: nobody's (CardSlotCheck::named). Beside no
  // step.
  std::vector<uint32_t> generations() const;
  // What was learned before, [layer][expert]: see Policy::restore.
  void restore_scores(std::span<const float> scores);
  // Another policy over the same residents; it takes over the scores. Any thread.
  void replace_policy(const PolicyFactory& policy);

  int32_t deltas_max() const { return options_.copies_max + kFillsMax; }  // of a step
  // The size class of a layer, an index of plan().classes.
  int32_t class_of(int32_t layer) const { return class_of_layer_[layer]; }
  int64_t slot_bytes(int32_t size_class) const { return classes_[size_class].slot_bytes; }
  // Among all slots that there may be, one for each expert; those of a class follow each other.
  int32_t slot_index(int32_t size_class, SlotId slot) const {
    return classes_[size_class].first_index + slot;
  }
  SlotPlan plan() const;
  CacheStats stats() const;
  struct Bytes {
    int64_t slots = 0, resident = 0;  // all of them, and those that the table names
  };
  Bytes bytes() const;
  void verify() const;  // recomputes every total and link; aborts on a contradiction

 private:
  static constexpr int32_t kFillsMax = 64;  // that a step's deltas name; more wait for the next
  enum class SlotState : uint8_t { kFree, kResident, kDraining, kLoading, kReady };
  struct Slot {
    SlotState state = SlotState::kFree;
    ExpertId holds;           // resident, draining: whom the table names
    ExpertId next;            // draining, loading, ready: who comes
    uint32_t generation = 0;  // resident, draining: of the copy that brought whom it holds
  };
  struct SizeClass {
    std::unique_ptr<Policy> policy;
    std::vector<Slot> slots;
    std::vector<SlotId> free;
    std::vector<int32_t> layers;
    int64_t slot_bytes;
    int32_t first_index;
  };
  struct Missing {
    ExpertId id;
    double score;
  };
  SizeClass& size_class(int32_t layer) { return classes_[class_of_layer_[layer]]; }
  size_t index(ExpertId id) const {
    return static_cast<size_t>(id.layer) * experts_per_layer_ + id.expert;
  }
  int32_t slot_index(const CardCopy& copy) const {
    return slot_index(class_of(copy.id.layer), copy.slot);
  }
  void choose(const Missing& missing);
  CardCopy order(ExpertId id, bool is_fill);
  void make_resident(const CardCopy& copy);
  void drop(const CardCopy& copy);
  void end_coming(const CardCopy& copy);
  bool has_copy();
  CardCopy take_first();
  double price() const { return options_.lambda.value_or(price_.lambda()); }
  void rest(std::unique_lock<std::mutex>& lock);
  void forget(ExpertId id);
  void set_slots(int32_t size_class, int32_t slots, std::vector<CardMove>& moves);
  std::vector<float> save_scores() const;
  void order_fills(std::span<const float> scores);

  SlotPlan plan_;
  const int32_t layers_, experts_per_layer_;
  const CardTierOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable_any ordered_, settled_;
  std::vector<SizeClass> classes_;
  std::vector<int32_t> class_of_layer_;
  std::vector<SlotId> table_;       // as the running step sees it; -1: absent
  std::vector<uint8_t> is_coming_;  // by expert: chosen and not yet resident
  std::vector<uint8_t> is_picked_;  // by expert, in the running step
  std::vector<uint32_t> picked_;    // those marked so
  std::vector<Missing> missing_;    // of the running step
  std::vector<CardCopy> draining_, queue_, ready_;
  int32_t coming_ = 0, filling_ = 0, under_way_ = 0;
  uint32_t generation_ = 0;  // the last copy's
  int64_t resident_bytes_ = 0;
  bool is_resting_ = false;           // no copy begins
  std::vector<uint32_t> fill_order_;  // indices of the table, of those with a score
  size_t fill_next_ = 0;
  bool is_fill_missed_ = false;  // one before fill_next_ was abandoned
  std::vector<CardResidencyDelta> deltas_;
  AdmissionPrice price_;
  CacheStats stats_;
};

}  // namespace hotset
