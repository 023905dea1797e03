#include "runtime/model/forward.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/engine.h"
#include "runtime/model/expert_predictor.h"

namespace hotset {

ForwardPass::ForwardPass(Device& device, Recorder& recorder, const ModelConfig& c,
                         const Weights& weights, int64_t rows_max, int64_t logits_max)
    : device_(device),
      recorder_(recorder),
      config_(c),
      weights_(weights),
      moe_(device, recorder, c, rows_max) {
  const int64_t tile = std::min(rows_max, kMixerTileRows);
  const int64_t heads = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  x_ = device.allocate_rows(rows_max, c.hidden_size);
  normed_ = device.allocate_activations(tile, c.hidden_size);
  q_ = device.allocate_rows(tile, heads * (c.attention_gate ? 2 : 1));
  k_ = device.allocate_rows(tile, kv);
  v_ = device.allocate_rows(tile, kv);
  qkv_ = device.allocate_rows(tile, c.conv_channels());
  z_ = device.allocate_rows(tile, c.linear_value_dim());
  ba_ = device.allocate_rows(tile, 2 * c.linear_num_value_heads);
  mixed_ = device.allocate_activations(tile, std::max(heads, c.linear_value_dim()));
  projected_ = device.allocate_rows(tile, c.hidden_size);
  logit_rows_ = device.allocate_rows(logits_max, c.hidden_size);
  logits_normed_ = device.allocate_activations(logits_max, c.hidden_size);
  logits_ = device.allocate_rows(logits_max, c.vocab_size);
  tiles_.reserve(static_cast<size_t>(2 * rows_max));
  tile_runs_.reserve(static_cast<size_t>(2 * rows_max));
}

StepOutput ForwardPass::run(const Batch& batch, ExpertPredictor* predictor,
                            StepObserver* observer) {
  const Rows x = x_.slice(0, std::ssize(batch.tokens));
  const bool is_decode = batch.tokens.size() == batch.runs.size();
  const StepKind kind = is_decode ? StepKind::kDecode : StepKind::kPrompt;
  plan_tiles(batch.runs);
  try {
    device_.begin_step(x.rows, tile_runs_, kind);
    return device_.end_step(compute(batch, x, kind, predictor, observer), batch.greedy_ids);
  } catch (...) {
    device_.abandon_step();
    throw;
  }
}

Rows ForwardPass::compute(const Batch& batch, Rows x, StepKind kind, ExpertPredictor* predictor,
                          StepObserver* observer) {
  const auto show = [&](int32_t layer) {
    if (observer) observer->on_hidden(layer, device_.on_host(x).data, x.rows);
  };
  device_.embed(x, batch.tokens);
  show(-1);
  const bool is_plain = kind == StepKind::kDecode &&
                        batch.rows_with_logits.size() == batch.tokens.size() &&
                        observer == nullptr && predictor == nullptr && !moe_.is_forced();
  if (is_plain && device_.repeat_step()) return logits_.slice(0, x.rows);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    const LayerWeights& layer = weights_.layers[i];
    for (const Tile& tile : tiles_) {
      const auto range = recorder_.stage(RangeName::kMixer, static_cast<int32_t>(i));
      mix(layer, x.slice(tile.first_row, tile.rows),
          std::span(tile_runs_).subspan(tile.first_run, tile.runs));
    }
    const bool can_guess =
        kind == StepKind::kDecode && x.rows <= kGuessRowsMax && i + 1 < weights_.layers.size();
    moe_.forward(static_cast<int32_t>(i), layer.moe, x, can_guess ? predictor : nullptr, observer);
    show(static_cast<int32_t>(i));
  }
  return head(batch, x);
}

Rows ForwardPass::head(const Batch& batch, Rows x) {
  const auto range = recorder_.stage(RangeName::kHead);
  const auto count = std::ssize(batch.rows_with_logits);
  for (int64_t r = 0; r < count; ++r) {
    device_.copy(logit_rows_.slice(r, 1), x.slice(batch.rows_with_logits[r], 1));
  }
  const Activations normed = logits_normed_.slice(0, count);
  const Rows logits = logits_.slice(0, count);
  if (count > 0) {
    device_.norm(normed, logit_rows_.slice(0, count), weights_.final_norm);
    device_.project(normed, {{weights_.output, logits}});
  }
  return logits;
}

void ForwardPass::mix(const LayerWeights& layer, Rows x, std::span<const RowRun> runs) {
  device_.norm(normed_.slice(0, x.rows), x, layer.mixer_norm);
  if (layer.is_delta_net) {
    delta_net(layer.delta_net, x.rows, runs);
  } else {
    attention(layer.attention, x.rows, runs);
  }
  device_.add(x, projected_.slice(0, x.rows));
}

void ForwardPass::attention(const AttentionWeights& w, int64_t rows, std::span<const RowRun> runs) {
  const Rows q = q_.slice(0, rows), k = k_.slice(0, rows), v = v_.slice(0, rows);
  const Activations mixed = mixed_.narrowed(rows, w.o.shape.k);
  device_.project(normed_.slice(0, rows), {{w.q, q}, {w.k, k}, {w.v, v}});
  device_.attend(mixed, w, q, k, v, runs);
  device_.project(mixed, {{w.o, projected_.slice(0, rows)}});
}

void ForwardPass::delta_net(const DeltaNetWeights& w, int64_t rows, std::span<const RowRun> runs) {
  const Rows qkv = qkv_.slice(0, rows), z = z_.slice(0, rows), ba = ba_.slice(0, rows);
  const Activations mixed = mixed_.narrowed(rows, w.out.shape.k);
  device_.project(normed_.slice(0, rows), {{w.qkv, qkv}, {w.z, z}, {w.ba, ba}});
  device_.delta_net(mixed, w, qkv, z, ba, runs);
  device_.project(mixed, {{w.out, projected_.slice(0, rows)}});
}

// Cuts the runs into tiles of at most kMixerTileRows rows. A run is cut only at a multiple of
// kDeltaChunk positions; what does not fit before such a cut goes into the next tile.
void ForwardPass::plan_tiles(std::span<const RowRun> runs) {
  tiles_.clear();
  tile_runs_.clear();
  Tile tile{0, 0, 0, 0};
  const auto close = [&] {
    if (tile.rows > 0) tiles_.push_back(tile);
    tile = {tile.first_row + tile.rows, 0, tile_runs_.size(), 0};
  };
  for (RowRun rest : runs) {
    while (rest.rows > 0) {
      int64_t rows = std::min(rest.rows, kMixerTileRows - tile.rows);
      if (rows < rest.rows) {
        const int64_t past = (rest.position + rows) % kDeltaChunk;
        // A tile of its own always has room for a cut.
        rows = std::max<int64_t>(0, rows - past);
      }
      if (rows > 0) {
        RowRun piece = rest;
        piece.first_row = tile.rows;
        piece.rows = rows;
        tile_runs_.push_back(piece);
        ++tile.runs;
        tile.rows += rows;
        rest.position += rows;
        rest.rows -= rows;
      }
      if (rest.rows > 0) close();
    }
    if (tile.rows == kMixerTileRows) close();
  }
  close();
}

}  // namespace hotset
