// The routed experts of a step with a card: hits are computed on it from the tier's slots, misses
// by the CPU through mailboxes, and both have the same bits. Of a prompt the host sees the picks of
// each layer, and has misses with many rows copied to the card, too (cache/prompt_plan.h).
// Thread-compatible, as Device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cache/card_tier.h"
#include "cache/prompt_plan.h"
#include "cache/recorder.h"
#include "kernels/cuda/card_runtime.h"
#include "runtime/card/card_copier.h"
#include "runtime/card/card_workspace.h"
#include "runtime/card/miss_server.h"
#include "runtime/card/prompt_ring.h"
#include "runtime/host/host_experts.h"

namespace hotset {

struct CardExpertsOptions {
  SlotPlan slots;
  PolicyFactory policy;
  CardTierOptions tier;
  PromptOptions prompts;
  double wait_s = 60;  // most that the card waits for the host's answer
  int64_t rows_max = 0;
};

class CardExperts : private MissComputer {
 public:
  CardExperts(const ModelConfig& config, CardRuntime& card, const CardKernels& kernels,
              CardStream stream, HostExperts& host, ExpertCache& cache, Recorder& recorder,
              const CardExpertsOptions& options);
  ~CardExperts();

  void begin_step(int64_t rows, StepKind kind);
  void begin(int32_t layer, const Routing& routing, const Activations& in);
  void run();
  void combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate);
  // Puts the last of the step on the stream; then, when the stream has been waited for, finish_step
  // lets the tier choose, and throws what went wrong.
  void end_step();
  void finish_step();
  void abandon_step() noexcept;  // the stream has been waited for

  // Beside no step: the plan for so many bytes of slots, and as many slots as a plan says. The best
  // experts stay. Throws Error if the card has no room; then all is as before.
  SlotPlan plan_slots(int64_t bytes) const;
  // Whether steps have other launches from here on: of a size without slots nothing is launched.
  bool resize(SlotPlan plan);
  int64_t slot_bytes() const { return tier_.bytes().slots; }
  // Beside no step, too: what prompts copy experts into, if there is none yet.
  void make_ring() { ring_.take_memory(); }
  // Once, what is not copied to the card any more, and why, if that has failed.
  std::string take_failure();
  uint32_t* not_finite() const { return &errors_->not_finite; }
  int64_t tokens() const { return tokens_; }  // the caches' time
  CardTier& tier() { return tier_; }
  const CardTier& tier() const { return tier_; }
  PromptStats prompt_stats() const { return ring_.stats(); }
  int64_t ring_bytes() const { return ring_.card_bytes(); }
  // Bytes of slots that lie behind the link (spill_probe.h). Nobody is in a slot yet.
  int64_t slow_bytes() const;
  int64_t card_bytes() const { return workspace_.bytes(); }  // without slots and ring
  int64_t pinned_bytes() const {
    return workspace_.pinned_bytes() + ring_.pinned_bytes() + copier_->pinned_bytes();
  }

 private:
  void compute(int32_t layer, const Routing& picks, const Activations& in, StepKind kind,
               int64_t now, float* outputs) override;
  MissServer::Mailboxes make_mailboxes(bool needs_floats);
  CardMailbox& mailbox(int32_t layer) { return mailboxes_[layer % 2]; }
  CardSequence sequence(int32_t layer) const { return {step_, layers_, layer}; }
  std::byte* slot_address(int32_t size_class, SlotId slot) const;
  uint32_t* held_at(int32_t size_class, SlotId slot) const;
  void move_generation(const CardMove& move);
  void check_slots() const;
  void plan_prompt(int32_t layer, const Routing& routing);
  void note_copied(int32_t layer, const int32_t* picks, int64_t rows);
  void run_prompt(CardExpertsArgs args);
  void tell_tier();
  void gather(const int32_t* picks, int64_t rows);

  CardRuntime& card_;
  const CardKernels& kernels_;
  const CardStream stream_;
  HostExperts& host_;
  ExpertCache& cache_;
  const int64_t layers_, experts_, k_, width_, rows_max_;
  const int64_t wait_ns_;
  CardWorkspace workspace_;
  CardTier tier_;
  OwnStream resizing_;
  std::vector<CardReservation> slots_;  // by size class: addresses for all of its experts
  bool is_half_resized_ = false;  // the card has failed in between: its table is not the tier's

  uint32_t* table_;                    // card: [layers][experts]
  uint32_t *named_, *held_;            // card: by CardTier::slot_index; null: not checked
  CardResidencyDelta* deltas_;         // pinned: [deltas_max]
  uint32_t* delta_count_;              // pinned
  uint32_t *step_, *step_next_;        // card; pinned
  CardErrors *errors_, *errors_seen_;  // card; pinned
  int32_t *picks_log_, *picks_seen_;   // [layers][rows_max][k]: card; pinned
  int32_t* places_;                    // card: [rows][k]
  uint32_t* misses_;                   // card
  CardExpertsArgs args_;               // workspace of experts on the card
  // Of a prompt's layer, pinned and on the card: [experts], and the list of pairs.
  uint32_t *prompt_table_next_, *prompt_table_;
  CardListedPair *prompt_list_next_, *prompt_list_;
  PromptPlan prompt_;
  PromptRing ring_;
  MissServer::Mailboxes mailboxes_;

  // The running step.
  int64_t rows_ = 0, tokens_ = 0;
  StepKind kind_ = StepKind::kDecode;
  int32_t layer_ = -1;
  Activations in_;
  std::vector<Pick> picks_;         // distinct ones of some rows
  std::vector<int32_t> best_rank_;  // [experts]

  std::unique_ptr<CardCopier> copier_;
  std::unique_ptr<MissServer> server_;  // last: ends before what it uses
};

}  // namespace hotset
