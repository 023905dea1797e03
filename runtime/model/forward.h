// The forward pass of Qwen3-Next and Qwen3-MoE, as prose over a Device. Owns the activation
// buffers; computes one batch at a time.
#pragma once

#include <span>
#include <vector>

#include "cache/recorder.h"
#include "runtime/device.h"
#include "runtime/model/moe_layer.h"
#include "runtime/model/weights.h"

namespace hotset {

class ExpertPredictor;
class StepObserver;

// The rows of a step, already checked.
struct Batch {
  std::span<const int32_t> tokens;            // [rows]
  std::span<const RowRun> runs;               // first_row counts from the batch's start
  std::span<const int32_t> rows_with_logits;  // indices of rows, rising
  std::span<const uint8_t> greedy_ids = {};   // see Device::end_step
};

class ForwardPass {
 public:
  // At most `rows_max` rows a batch, `logits_max` of them with logits.
  ForwardPass(Device& device, Recorder& recorder, const ModelConfig& config, const Weights& weights,
              int64_t rows_max, int64_t logits_max);

  // Of the rows_with_logits, in their order. `predictor`: see MoeLayer.
  StepOutput run(const Batch& batch, ExpertPredictor* predictor, StepObserver* observer);
  MoeLayer& moe() { return moe_; }

 private:
  Rows compute(const Batch& batch, Rows x, StepKind kind, ExpertPredictor* predictor,
               StepObserver* observer);
  Rows head(const Batch& batch, Rows x);
  void mix(const LayerWeights& layer, Rows x, std::span<const RowRun> runs);
  void attention(const AttentionWeights& w, int64_t rows, std::span<const RowRun> runs);
  void delta_net(const DeltaNetWeights& w, int64_t rows, std::span<const RowRun> runs);
  void plan_tiles(std::span<const RowRun> runs);

  Device& device_;
  Recorder& recorder_;
  const ModelConfig& config_;
  const Weights& weights_;
  MoeLayer moe_;

  // Mixers work on tiles of at most kMixerTileRows rows, whatever the batch's size.
  struct Tile {
    int64_t first_row, rows;
    size_t first_run, runs;
  };
  std::vector<Tile> tiles_;
  std::vector<RowRun> tile_runs_;  // first_row counts from the tile's start

  Rows x_;                     // [rows_max][H]: the residual stream
  Activations normed_;         // [tile][H]
  Rows q_, k_, v_;             // [tile][...]: projections of attention
  Rows qkv_, z_, ba_;          // [tile][...]: projections of the delta net
  Activations mixed_;          // [tile][heads * dim]
  Rows projected_;             // [tile][H]
  Rows logit_rows_;            // [logits_max][H]
  Activations logits_normed_;  // [logits_max][H]
  Rows logits_;                // [logits_max][vocab]
};

}  // namespace hotset
