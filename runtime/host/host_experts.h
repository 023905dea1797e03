// The routed experts of a layer on the CPU, through the cache: all of a step's picks where there is
// no card, and the misses where there is one. Thread-compatible; one layer at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/expert_cache.h"
#include "kernels/thread_pool.h"
#include "runtime/device.h"
#include "runtime/host/workspace.h"

namespace hotset {

class HostExperts {
 public:
  // `shapes`: by layer. At most `rows_max` rows at once.
  HostExperts(const ModelConfig& config, const KernelTable& kernels, ThreadPool& pool,
              ExpertCache& cache, std::vector<ExpertShape> shapes, int64_t rows_max);

  // The picks of a layer are known, at `now` in tokens: what has to be read for them is on its way
  // when this returns. A pick of -1 is computed elsewhere. The weights are not looked at.
  void begin(int32_t layer, const Routing& routing, StepKind kind, int64_t now);
  // Guesses of a later layer's picks (Device::expect_experts).
  void expect(int32_t layer, const Routing& guess) {
    cache_.expect(layer, {guess.experts, static_cast<size_t>(guess.rows * guess.k)});
  }
  // Computes what has begun, on these rows. An Error of the cache ends the layer.
  void run(const Activations& in);
  // [H], of a pick that was not -1; until the next begin.
  const float* output(int64_t row, int64_t rank) const {
    return pair_out_.row(pair_of_[row * k_ + rank]);
  }

  // Distinct experts of the layer that has begun.
  int64_t experts() const { return std::ssize(picks_); }
  const ExpertShape& shape(int32_t layer) const { return shapes_[layer]; }
  int64_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  void sort_pairs(const Routing& routing);
  void keep_last_rows(int32_t layer, const Routing& routing, int64_t now);
  void run_wave(const ExpertShape& shape, std::span<const Lease> wave, const Activations& in);
  // Gate (first part 0) or up (1) or both of all leased experts.
  void gate_and_up(const ExpertShape& shape, std::span<const Lease> wave, const Activations& in,
                   int64_t first_part, int64_t parts);
  void reorder_pairs(const ExpertShape& shape, std::span<const Lease> wave, const Activations& in,
                     bool is_up);
  void down(const ExpertShape& shape, std::span<const Lease> wave);

  const KernelTable& kernels_;
  ThreadPool& pool_;
  ExpertCache& cache_;
  const std::vector<ExpertShape> shapes_;
  const int32_t expert_count_;
  const int64_t inner_, k_;
  Workspace workspace_;

  // The picks of a batch sorted by expert. Pair p is (row, rank); its output is pair_out_ row p.
  std::vector<int32_t> pair_begin_;        // [experts + 1]
  std::vector<int32_t> pair_row_;          // [pairs]
  std::vector<int32_t> pair_of_;           // [rows][k] -> pair
  std::vector<int32_t> best_rank_, fill_;  // [experts]
  std::vector<Pick> picks_;                // distinct experts of the batch
  std::vector<int32_t> keep_;              // those of a prompt that decoding is likely to use
  std::vector<Pick> row_picks_;            // [k]
  int32_t layer_ = -1;                     // that has begun
  Rows pair_out_;            // [pairs][max(H, 2 I)]: gate | up, later the expert's output
  Activations pair_hidden_;  // [pairs][I]
  Rows products_;            // [threads][I]
  // Inputs in the order that gate or up wants (packed.h) [pairs][H]. Empty where none has an order.
  Activations pair_ordered_;
};

}  // namespace hotset
