// The Mixture-of-Experts layer (Qwen3NextSparseMoeBlock of modeling_qwen3_next.py): router, routed
// experts, shared expert, combined in router rank order.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "cache/recorder.h"
#include "runtime/device.h"
#include "runtime/model/weights.h"

namespace hotset {

class ExpertPredictor;
class StepObserver;

class MoeLayer {
 public:
  MoeLayer(Device& device, Recorder& recorder, const ModelConfig& config, int64_t rows_max);
  // Picks that take the place of the router's (Engine::force_routing); empty: its own.
  void force_routing(std::function<void(int32_t, int32_t*, int64_t)> forced) {
    forced_ = std::move(forced);
  }
  bool is_forced() const { return forced_ != nullptr; }
  // x += moe(norm(x)) for all rows of a batch at once, so that each expert is read once a batch.
  // `predictor` guesses what the next layer will pick; null: nobody does.
  void forward(int32_t layer, const MoeWeights& w, Rows x, ExpertPredictor* predictor,
               StepObserver* observer);

 private:
  Device& device_;
  std::function<void(int32_t, int32_t*, int64_t)> forced_;
  std::vector<int32_t> forced_picks_;  // [rows][k]
  Recorder& recorder_;
  Activations normed_;  // [rows][H]
  Rows router_logits_;  // [rows][experts]
  Routing routing_;     // [rows][k]
  Routing guess_;       // [kGuessRowsMax][k]
  Rows shared_gate_;    // [rows][1]
  Rows gate_, up_;      // [rows][shared I]
  Activations hidden_;  // [rows][shared I]
  Rows shared_;         // [rows][H]
};

}  // namespace hotset
