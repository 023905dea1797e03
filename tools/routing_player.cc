#include "tools/routing_player.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace hotset {

RoutingPlayer::RoutingPlayer(const std::string& path, const ModelConfig& config)
    : layers_(config.num_hidden_layers),
      k_(config.num_experts_per_tok),
      experts_(static_cast<int32_t>(config.num_experts)) {
  const RoutingTrace trace = load_trace(path);
  const TraceHeader& h = trace.header;
  if (h.layers != layers_ || h.experts != config.num_experts || h.top_k != k_) {
    throw Error(
        fmt::format("{}: found {} layers of {} experts, top-{}, expected {} of {}, top-{}, as "
                    "the model has",
                    path, h.layers, h.experts, h.top_k, layers_, config.num_experts, k_));
  }
  picks_ = decoded_picks(trace);
  if (picks_.empty()) throw Error(path + ": holds no decoded token with all layers");
}

void RoutingPlayer::play(int32_t layer, int32_t* experts, int64_t rows) {
  if (layer <= layer_ && !is_held_) token_ = (token_ + rows_) % tokens();
  layer_ = layer;
  rows_ = rows;
  for (int64_t r = 0; r < rows; ++r) {
    const std::span<const uint16_t> row = picks(layer, r);
    std::copy(row.begin(), row.end(), experts + r * k_);
  }
}

std::span<const uint16_t> RoutingPlayer::picks(int32_t layer, int64_t row) const {
  return picks_of((token_ + row) % tokens(), layer);
}

std::span<const uint16_t> RoutingPlayer::picks_of(int64_t token, int32_t layer) const {
  return std::span(picks_).subspan(static_cast<size_t>((token * layers_ + layer) * k_),
                                   static_cast<size_t>(k_));
}

RoutingTrace RoutingPlayer::trace() const {
  RoutingTrace trace;
  const auto layers = static_cast<int32_t>(layers_), k = static_cast<int32_t>(k_);
  trace.header = {0, layers, experts_, k, false, std::vector<int64_t>(layers_), ""};
  for (int64_t token = 0; token < tokens(); ++token) {
    for (int32_t layer = 0; layer < layers; ++layer) {
      trace.events.push_back(
          {static_cast<uint32_t>(token), layer, 1, TracePhase::kDecode, trace.ids.size()});
      const std::span<const uint16_t> row = picks_of(token, layer);
      trace.ids.insert(trace.ids.end(), row.begin(), row.end());
    }
  }
  return trace;
}

bool DrawnPredictor::predict(int32_t layer, Rows x, const Routing& guess) {
  if (player_.is_held()) return false;  // its wrong guesses would be read beside what is measured
  for (int64_t r = 0; r < x.rows; ++r) {
    const std::span<const uint16_t> picks = player_.picks(layer, r);
    int32_t* const out = guess.experts + r * guess.k;
    for (int64_t i = 0; i < guess.k; ++i) {
      out[i] = picks[i];
      if (std::uniform_real_distribution<double>()(random_) < recall_) continue;
      // Not a pick, and not guessed twice; a model of few experts may have no such one.
      const auto is_taken = [&] {
        return std::find(picks.begin(), picks.end(), out[i]) != picks.end() ||
               std::find(out, out + i, out[i]) != out + i;
      };
      for (int32_t tries = 0; tries < 2 * experts_ && is_taken(); ++tries) {
        const auto token =
            static_cast<int64_t>(random_() % static_cast<uint64_t>(player_.tokens()));
        const auto any = random_();
        out[i] = tries < experts_ ? player_.picks_of(token, layer)[any % picks.size()]
                                  : static_cast<int32_t>(any % static_cast<uint64_t>(experts_));
      }
    }
  }
  return true;
}

}  // namespace hotset
