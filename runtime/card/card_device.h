// Device on a card: dense weights, sequences and hot experts in its memory, misses through the host
// (CardExperts). Every operation puts kernels of the same bits as the CPU's on one stream; the host
// waits for it once a step, at the end, and in a prompt once a layer.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/card_kernels.h"
#include "runtime/card/card_experts.h"
#include "runtime/card/card_room.h"
#include "runtime/card/turns.h"
#include "runtime/sequence_pool.h"

namespace hotset {

struct CardOptions {
  int32_t sequences = 1;
  int64_t positions = 0;  // each
  bool kv_f16 = true;
  CardRoom room;
  CardExpertsOptions experts;
};

class CardDevice : public Device {
 public:
  // Moves the dense image to the card: `weights` keeps the embedding only. `host` computes misses.
  CardDevice(const ModelConfig& config, Weights& weights, CardRuntime& card,
             const CardKernels& kernels, HostExperts& host, ExpertCache& cache, Recorder& recorder,
             const CardOptions& options);
  ~CardDevice() override;

  const Weights& weights() const override { return weights_; }
  DeviceMemory memory() const override;
  CardTier& tier() { return experts_.tier(); }
  const CardTier& tier() const { return experts_.tier(); }

  // From any thread; waits for the running step. The best experts stay in their slots. Throws Error
  // if the card has no such room; then all is as before. Where not all experts can have a slot any
  // more prompts are given a ring, which take_failure tells if there is no memory for it.
  void set_room(const CardRoom& room);
  int64_t shared_bytes() const;  // that slots and sequences have of it now
  int64_t tokens() const { return experts_.tokens(); }
  std::string take_failure() { return experts_.take_failure(); }
  PromptStats prompt_stats() const { return experts_.prompt_stats(); }
  int64_t ring_bytes() const;                         // that prompts copy experts into
  int64_t slow_bytes() const { return slow_bytes_; }  // of the slots at the start: spill_probe.h

  Rows allocate_rows(int64_t rows, int64_t width) override { return workspace_.rows(rows, width); }
  Activations allocate_activations(int64_t rows, int64_t width) override {
    return workspace_.activations(rows, width);
  }
  Routing allocate_routing(int64_t rows, int64_t k) override { return workspace_.routing(rows, k); }

  void begin_step(int64_t rows, std::span<const RowRun> runs, StepKind kind) override;
  bool repeat_step() override;
  StepOutput end_step(Rows logits, std::span<const uint8_t> greedy_ids) override;
  void abandon_step() noexcept override;
  Rows on_host(Rows rows) override;
  Routing on_host(const Routing& routing) override;

  void embed(Rows x, std::span<const int32_t> tokens) override;
  void norm(const Activations& out, Rows x, const float* weight) override;
  void project(const Activations& in, std::initializer_list<Projection> projections) override;
  void copy(Rows to, Rows from) override;
  void add(Rows x, Rows y) override;
  void swiglu(const Activations& out, Rows gate, Rows up) override;
  void attend(const Activations& out, const AttentionWeights& w, Rows q, Rows k, Rows v,
              std::span<const RowRun> runs) override;
  void delta_net(const Activations& out, const DeltaNetWeights& w, Rows qkv, Rows z, Rows ba,
                 std::span<const RowRun> runs) override;
  void route(const Routing& routing, Rows logits) override;
  void set_picks(const Routing& routing, const int32_t* picks, Rows logits) override;
  void begin_experts(int32_t layer, const Routing& routing, const Activations& in) override {
    experts_.begin(layer, routing, in);
  }
  // The host does not see a guess before it would be too late: nothing is read for it.
  void expect_experts(int32_t, const Routing&) override {}
  void experts() override { experts_.run(); }
  void combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) override {
    experts_.combine(x, routing, shared, shared_gate);
  }

  SequencePool& sequences() override { return sequences_; }

 private:
  class SequenceBytes;
  void fit_slots(const CardRoom& room, int64_t kv_bytes);
  void make_ring(const CardRoom& room);
  void grow_sequences(int64_t bytes);
  void shrink_sequences();
  struct StepGraph;
  void launch(const StepGraph& graph);
  void finish_capture();
  void tell_watchers();
  std::span<const int32_t> choose(Rows logits, std::span<const uint8_t> allowed);
  void quantise(const Activations& a, const uint32_t* order, const Activations& to);
  void quantise(const Activations& a) { quantise(a, nullptr, a); }
  CardStep step_of(std::span<const RowRun> runs, int64_t rows) const;
  int64_t context_blocks(std::span<const RowRun> runs, int64_t rows) const;

  const ModelConfig& config_;
  const Weights& host_weights_;
  CardRuntime& card_;
  const CardKernels& kernels_;
  OwnStream own_stream_;
  const CardStream stream_;
  CardMemory image_;
  Weights weights_;  // views of the image
  Recorder& recorder_;
  CacheStats told_;  // what watchers know
  CardWorkspace workspace_;
  mutable Turns turns_;  // a step has one, and who changes what slots and sequences have
  std::unique_lock<Turns> step_turn_;
  CardRoom room_;
  CardReservation kv_;
  SequencePool sequences_;
  CardExperts experts_;
  int64_t slow_bytes_ = 0;
  const bool kv_f16_;

  float *cos_, *sin_;           // card: [positions][rotary_dim / 2]
  CardRun *runs_, *runs_next_;  // card; pinned: of the step's tiles
  int64_t runs_max_;
  std::byte **blocks_, **blocks_next_;  // card; pinned: [sequences][blocks_each]
  float* embedded_;                     // pinned: [rows_max][H]
  Rows rotated_;                        // [tile][heads * dim]
  float* attend_scratch_;
  Rows convolved_, delta_gates_, delta_raw_;
  float* delta_scratch_;
  Activations ordered_;                      // inputs in the order that a dense matrix wants
  CardMemory logits_, seen_, seen_routing_;  // pinned: what the host reads
  uint8_t *allowed_, *allowed_next_;         // card; pinned: [vocab], ids to choose from
  int32_t *chosen_, *chosen_seen_;           // card; pinned: [sequences]
  uint64_t* argmax_scratch_;
  std::span<const RowRun> step_runs_;

  // The kernels of a decoding step of some shape, kept when it first came: one launch a token.
  struct StepGraph {
    int64_t rows = 0, context_blocks = 0;
    CardGraph graph;
  };
  std::vector<StepGraph> graphs_;
  bool is_capturing_ = false;
};

}  // namespace hotset
