// Device on the CPU: packed weights in RAM, experts through the cache. Every output is computed
// whole by one thread in an order that docs/numerics.md fixes, so neither the number of threads nor
// what else is in the batch changes a bit.
#pragma once

#include <memory>
#include <vector>

#include "cache/expert_cache.h"
#include "kernels/memory.h"
#include "kernels/thread_pool.h"
#include "runtime/device.h"
#include "runtime/host/sequence_pool.h"

namespace hotset {

struct HostOptions {
  int32_t sequences = 1;
  int64_t positions = 0;  // each
  bool kv_f16 = true;
  int64_t rows_max = 0;  // rows of a batch
};

class HostDevice : public Device {
 public:
  HostDevice(const ModelConfig& config, const Weights& weights, const HostOptions& options,
             const KernelTable& kernels, ThreadPool& pool, ExpertCache& cache,
             std::vector<ExpertShape> expert_shapes);

  Rows allocate_rows(int64_t rows, int64_t width) override;
  Activations allocate_activations(int64_t rows, int64_t width) override;
  Routing allocate_routing(int64_t rows, int64_t k) override;

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
  void weigh(const Routing& routing, Rows logits) override;
  void begin_experts(int32_t layer, const Routing& routing, StepKind kind) override;
  void expect_experts(int32_t layer, const Routing& guess) override;
  void experts(const Activations& in) override;
  void combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) override;

  SequenceState open_sequence() override { return sequences_.open(); }
  void close_sequence(SequenceState& s) override { sequences_.close(s); }
  void resize_sequence(SequenceState& s, int64_t positions) override {
    sequences_.resize(s, positions);
  }
  void clear_recurrent(SequenceState& s) override { sequences_.clear_recurrent(s); }
  Snapshot save(const SequenceState& s, int64_t positions) const override {
    return sequences_.save(s, positions);
  }
  void load(SequenceState& s, const Snapshot& snapshot) override { sequences_.load(s, snapshot); }
  std::vector<float> recurrent_state(const SequenceState& s, int64_t index) const override;
  std::vector<float> conv_state(const SequenceState& s, int64_t index) const override;

  const SequencePool& sequences() const { return sequences_; }
  int64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  std::byte* take(int64_t bytes);
  // Quantises x into row r of q; an activation that is not finite is an Error of the step.
  void quantise(const float* x, int64_t width, const QuantisedRows& q, int64_t r);
  void quantise(const Activations& a, int64_t r) { quantise(a.x.row(r), a.x.width, a.q, r); }
  // Gathers row `from` of x into row r of `to`, input order[j] as input j, and quantises it.
  void reorder(const float* from, const uint32_t* order, const Activations& to, int64_t r);
  void project_alike(const Activations& in, std::span<const Projection> projections);
  int64_t groups_per_task(const PackedShape& shape, int64_t bytes_in_all) const;
  float* thread_scratch(int thread) const;
  void rotate_and_store(const AttentionWeights& w, Rows q, Rows k, Rows v, const RowRun& run,
                        int64_t r);
  void delta_heads(const DeltaNetWeights& w, Rows qkv, Rows ba, Rows out, const RowRun& run,
                   int64_t key_head, float* scratch);
  void convolve(const DeltaNetWeights& w, Rows qkv, const RowRun& run, int64_t first_channel,
                int64_t channels);
  void sort_pairs(const Routing& routing);
  void keep_last_rows(int32_t layer, const Routing& routing);
  void run_wave(const ExpertShape& shape, std::span<const Lease> wave, const Activations& in);
  // Gate (first part 0) or up (1) or both of all leased experts.
  void gate_and_up(const ExpertShape& shape, std::span<const Lease> wave, const Activations& in,
                   int64_t first_part, int64_t parts);
  void reorder_pairs(const ExpertShape& shape, std::span<const Lease> wave, const Activations& in,
                     bool is_up);

  const ModelConfig& config_;
  const Weights& weights_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  ExpertCache& cache_;
  const std::vector<ExpertShape> expert_shapes_;  // by layer
  SequencePool sequences_;

  const bool kv_f16_;
  int64_t kv_blocks_max_ = 0;   // a sequence
  std::vector<Memory> memory_;  // what was allocated for others
  int64_t workspace_bytes_ = 0;
  int64_t scratch_floats_ = 0;  // a thread
  float* scratch_ = nullptr;
  std::vector<float> rope_cos_, rope_sin_;  // [positions][rotary_dim / 2]
  Rows attention_q_, attention_out_;        // [tile][heads * dim]
  Rows convolved_, delta_gates_;  // [tile][channels], [tile][2 * value heads]: log decay | beta
  std::vector<const void*> kv_pointers_;  // [threads][2][blocks]

  // Experts: the picks of a batch sorted by expert. Pair p is (row, rank); its output is pair_out_
  // row p.
  std::vector<int32_t> pair_begin_;        // [experts + 1]
  std::vector<int32_t> pair_row_;          // [pairs]
  std::vector<int32_t> pair_of_;           // [rows][k] -> pair
  std::vector<int32_t> best_rank_, fill_;  // [experts]
  std::vector<Pick> picks_;                // distinct experts of the batch
  std::vector<int32_t> keep_;              // those of a prompt that decoding is likely to use
  std::vector<Pick> row_picks_;            // [k]
  int32_t layer_ = -1;                     // whose experts were begun last
  int64_t tokens_ = 0;                     // the cache's time
  Rows pair_out_;            // [pairs][max(H, 2 I)]: gate | up, later the expert's output
  Rows combined_;            // [threads][H]
  Activations pair_hidden_;  // [pairs][I]
  // Inputs in the order that a matrix wants (packed.h): of a dense matrix [rows][its k], of gate or
  // up [pairs][H]. Empty where no matrix has an order.
  Activations ordered_, pair_ordered_;
};

}  // namespace hotset
