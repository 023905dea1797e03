// `bench --routing F`: a trace's picks in place of the router's, so that a cache is timed with the
// locality of a real text on a model whose weights mean nothing.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "profiler/routing_trace.h"
#include "runtime/model/expert_predictor.h"
#include "runtime/weights/model_description.h"

namespace hotset {

class RoutingPlayer {
 public:
  // Takes the decoded tokens of the trace that have all layers. Throws Error naming file, found and
  // expected: not of the model's shape, or no such token.
  RoutingPlayer(const std::string& path, const ModelConfig& config);

  int64_t tokens() const { return std::ssize(picks_) / (layers_ * k_); }
  // Picks of the next tokens, one a row, in this layer; from the start again after the last.
  void play(int32_t layer, int32_t* experts, int64_t rows);
  // While held, every step is given the picks of the last one.
  void hold(bool is_held) { is_held_ = is_held; }
  bool is_held() const { return is_held_; }
  // All of it, as a trace of decoded tokens; sizes of experts are not known.
  RoutingTrace trace() const;
  // Those of a row of the running step, in any layer.
  std::span<const uint16_t> picks(int32_t layer, int64_t row) const;
  std::span<const uint16_t> picks_of(int64_t token, int32_t layer) const;

 private:
  const int64_t layers_, k_;
  const int32_t experts_;
  std::vector<uint16_t> picks_;  // [tokens][layers][k]
  int64_t token_ = 0;            // of the running step's first row
  int64_t rows_ = 0;
  int32_t layer_ = -1;
  bool is_held_ = false;
};

// `bench --predict-recall R`: in place of the next layer's router, which means nothing on forced
// picks, a guess that names each coming pick with probability R, and otherwise an expert that the
// same layer picks for some other token: what a router nearly picks is popular, too, and often
// resident. Drawn with a fixed seed.
class DrawnPredictor : public ExpertPredictor {
 public:
  // The player must outlive this.
  DrawnPredictor(const RoutingPlayer& player, int32_t experts, double recall)
      : player_(player), experts_(experts), recall_(recall) {}
  bool predict(int32_t layer, Rows x, const Routing& guess) override;

 private:
  const RoutingPlayer& player_;
  const int32_t experts_;
  const double recall_;
  std::mt19937_64 random_{7};
};

}  // namespace hotset
