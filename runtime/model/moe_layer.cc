#include "runtime/model/moe_layer.h"

#include "runtime/engine.h"
#include "runtime/model/expert_predictor.h"

namespace hotset {

MoeLayer::MoeLayer(Device& device, Recorder& recorder, const ModelConfig& c, int64_t rows_max)
    : device_(device), recorder_(recorder) {
  const int64_t shared = c.shared_expert_intermediate_size;
  normed_ = device.allocate_activations(rows_max, c.hidden_size);
  router_logits_ = device.allocate_rows(rows_max, c.num_experts);
  routing_ = device.allocate_routing(rows_max, c.num_experts_per_tok);
  guess_ = device.allocate_routing(kGuessRowsMax, c.num_experts_per_tok);
  forced_picks_.resize(static_cast<size_t>(rows_max * c.num_experts_per_tok));
  if (shared == 0) return;
  shared_gate_ = device.allocate_rows(rows_max, 1);
  gate_ = device.allocate_rows(rows_max, shared);
  up_ = device.allocate_rows(rows_max, shared);
  hidden_ = device.allocate_activations(rows_max, shared);
  shared_ = device.allocate_rows(rows_max, c.hidden_size);
}

void MoeLayer::forward(int32_t layer, const MoeWeights& w, Rows x, ExpertPredictor* predictor,
                       StepObserver* observer) {
  const int64_t n = x.rows;
  const Activations normed = normed_.slice(0, n);
  const Rows logits = router_logits_.slice(0, n);
  Routing routing = routing_;
  routing.rows = n;
  Rows shared, shared_gate;

  {
    const auto range = recorder_.stage(RangeName::kRouter, layer);
    device_.norm(normed, x, w.norm);
    device_.project(normed, {{w.router, logits}});
    if (forced_) {
      forced_(layer, forced_picks_.data(), n);
      device_.set_picks(routing, forced_picks_.data(), logits);
    } else {
      device_.route(routing, logits);
    }
  }
  if (observer) {
    const Routing seen = device_.on_host(routing);
    observer->on_routing(layer, seen.experts, seen.weights, n);
  }
  {
    const auto range = recorder_.stage(RangeName::kExperts, layer);
    device_.begin_experts(layer, routing, normed);
    if (predictor != nullptr) {  // while what this layer misses is read
      Routing guess = guess_;
      guess.rows = n;
      if (predictor->predict(layer + 1, x, guess)) device_.expect_experts(layer + 1, guess);
    }
    if (w.has_shared_expert) {
      const Rows gate = gate_.slice(0, n), up = up_.slice(0, n);
      const Activations hidden = hidden_.slice(0, n);
      shared = shared_.slice(0, n);
      shared_gate = shared_gate_.slice(0, n);
      device_.project(normed,
                      {{w.shared_gate, shared_gate}, {w.shared.gate, gate}, {w.shared.up, up}});
      device_.swiglu(hidden, gate, up);
      device_.project(hidden, {{w.shared.down, shared}});
    }
    device_.experts();
  }
  const auto range = recorder_.stage(RangeName::kCombine, layer);
  device_.combine(x, routing, shared, shared_gate);
}

}  // namespace hotset
