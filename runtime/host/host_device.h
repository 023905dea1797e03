// Device on the CPU: packed weights in RAM, experts through the cache. Every output is computed
// whole by one thread in an order that docs/numerics.md fixes, so neither the number of threads nor
// what else is in the batch changes a bit.
#pragma once

#include <memory>
#include <vector>

#include "kernels/thread_pool.h"
#include "runtime/device.h"
#include "runtime/host/host_experts.h"
#include "runtime/host/packed_rows.h"
#include "runtime/host/rope_table.h"
#include "runtime/sequence_pool.h"

namespace hotset {

struct HostOptions {
  int32_t sequences = 1;
  int64_t positions = 0;  // each
  bool kv_f16 = true;
  int64_t rows_max = 0;      // rows of a batch
  int64_t cache_tokens = 0;  // the cache's time at the first step
};

class HostDevice : public Device {
 public:
  HostDevice(const ModelConfig& config, const Weights& weights, const HostOptions& options,
             const KernelTable& kernels, ThreadPool& pool, ExpertCache& cache,
             std::vector<ExpertShape> expert_shapes);

  const Weights& weights() const override { return weights_; }
  DeviceMemory memory() const override {
    return {sequences_.kv_bytes(), sequences_.recurrent_bytes(),
            workspace_.bytes() + experts_.workspace_bytes()};
  }
  Rows allocate_rows(int64_t rows, int64_t width) override { return workspace_.rows(rows, width); }
  Activations allocate_activations(int64_t rows, int64_t width) override {
    return workspace_.activations(rows, width);
  }
  Routing allocate_routing(int64_t rows, int64_t k) override { return workspace_.routing(rows, k); }

  void begin_step(int64_t rows, std::span<const RowRun>, StepKind kind) override {
    tokens_ += rows;
    kind_ = kind;
  }
  bool repeat_step() override { return false; }
  StepOutput end_step(Rows logits, std::span<const uint8_t> greedy_ids) override;
  void abandon_step() noexcept override {}  // the cache's next event ends what is left of this one
  Rows on_host(Rows rows) override { return rows; }
  Routing on_host(const Routing& routing) override { return routing; }

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
  void begin_experts(int32_t layer, const Routing& routing, const Activations& in) override;
  void expect_experts(int32_t layer, const Routing& guess) override {
    experts_.expect(layer, guess);
  }
  void experts() override { experts_.run(experts_in_); }
  void combine(Rows x, const Routing& routing, Rows shared, Rows shared_gate) override;

  SequencePool& sequences() override { return sequences_; }

 private:
  void quantise(const Activations& a, int64_t r) {
    quantise_row(kernels_, a.x.row(r), a.x.width, a.q, r);
  }
  void project_alike(const Activations& in, std::span<const Projection> projections);
  float* thread_scratch(int thread) const;
  void rotate_and_store(const AttentionWeights& w, Rows q, Rows k, Rows v, const RowRun& run,
                        int64_t r);
  void delta_heads(const DeltaNetWeights& w, Rows qkv, Rows ba, Rows out, const RowRun& run,
                   int64_t key_head, float* scratch);
  void convolve(const DeltaNetWeights& w, Rows qkv, const RowRun& run, int64_t first_channel,
                int64_t channels);

  const ModelConfig& config_;
  const Weights& weights_;
  const KernelTable& kernels_;
  ThreadPool& pool_;
  SequencePool sequences_;
  Workspace workspace_;
  HostExperts experts_;

  const bool kv_f16_;
  const RopeTable rope_;
  int64_t kv_blocks_max_ = 0;   // a sequence
  int64_t scratch_floats_ = 0;  // a thread
  float* scratch_ = nullptr;
  Rows attention_q_, attention_out_;  // [tile][heads * dim]
  Rows convolved_, delta_gates_;      // [tile][channels], [tile][2 * value heads]: log decay | beta
  std::vector<const void*> kv_pointers_;  // [threads][2][blocks]

  std::vector<int32_t> chosen_;  // [sequences]
  int64_t tokens_;               // the cache's time
  StepKind kind_ = StepKind::kDecode;
  Activations experts_in_;  // of the layer that has begun
  Rows combined_;           // [threads][H]
  // Inputs in the order that a dense matrix wants (packed.h): [rows][its k]. Empty where none has
  // an order.
  Activations ordered_;
};

}  // namespace hotset
