#include "runtime/model/expert_predictor.h"

namespace hotset {

RouterPredictor::RouterPredictor(Device& device, const ModelConfig& config, const Weights& weights)
    : device_(device),
      weights_(weights),
      normed_(device.allocate_activations(kGuessRowsMax, config.hidden_size)),
      logits_(device.allocate_rows(kGuessRowsMax, config.num_experts)) {}

bool RouterPredictor::predict(int32_t layer, Rows x, const Routing& guess) {
  const MoeWeights& next = weights_.layers[layer].moe;
  const Activations normed = normed_.slice(0, x.rows);
  const Rows logits = logits_.slice(0, x.rows);
  device_.norm(normed, x, next.norm);
  device_.project(normed, {{next.router, logits}});
  device_.route(guess, logits);
  return true;
}

}  // namespace hotset
