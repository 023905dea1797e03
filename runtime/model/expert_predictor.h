// Guesses of what the next layer's router will pick, made while this layer's experts are still to
// be computed. They only order and hide reads: a wrong guess costs disk time, never a bit.
#pragma once

#include "runtime/device.h"
#include "runtime/model/weights.h"

namespace hotset {

class ExpertPredictor {
 public:
  virtual ~ExpertPredictor() = default;
  // Writes the experts that layer `layer` is likely to pick, for each row the likeliest first, into
  // `guess` [rows][k]. `x` [rows][H] is the residual stream as it enters the experts of the layer
  // before. False: no guess.
  virtual bool predict(int32_t layer, Rows x, const Routing& guess) = 0;
};

// The layer's own norm and router, one layer early: the residual stream changes little from one
// layer to the next.
class RouterPredictor : public ExpertPredictor {
 public:
  RouterPredictor(Device& device, const ModelConfig& config, const Weights& weights);
  bool predict(int32_t layer, Rows x, const Routing& guess) override;

 private:
  Device& device_;
  const Weights& weights_;
  Activations normed_;  // [kGuessRowsMax][H]
  Rows logits_;         // [kGuessRowsMax][experts]
};

// A step of more rows needs most experts of a layer anyway.
inline constexpr int64_t kGuessRowsMax = 8;

}  // namespace hotset
