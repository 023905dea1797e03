#include "profiler/token_model.h"

#include <algorithm>

#include "kernels/check.h"

namespace hotset {

// The link works on what is queued while other things take their time.
void TokenModel::pass(double seconds) {
  queued_bytes_ = std::max(0.0, queued_bytes_ - seconds * rates_.link_gbps * 1e9);
}

double TokenModel::read_on_card(double bytes) {
  const double seconds = bytes / (rates_.card_gbps * rates_.card_efficiency * 1e9);
  pass(seconds);
  return seconds;
}

// Two lanes side by side; the events are the end of the queue of copies and the end of each lane.
double TokenModel::lanes(double card_bytes, double cpu_bytes, TokenTime& time) {
  const double link = std::min(rates_.link_gbps, rates_.dram_gbps / 2) * 1e9;
  const double dram = rates_.dram_gbps * 1e9;
  // Until the queue is empty the misses have what the link leaves.
  const double copying = queued_bytes_ / (rates_.link_gbps * 1e9);
  const double until_then = copying * (dram - link);
  const double cpu = cpu_bytes <= until_then ? cpu_bytes / (dram - link)
                                             : copying + (cpu_bytes - until_then) / dram;
  const double card = card_bytes / (rates_.card_gbps * rates_.card_efficiency * 1e9);
  (cpu > card ? time.cpu : time.card) += std::max(cpu, card);
  return std::max(cpu, card);
}

TokenTime TokenModel::token(std::span<const LayerPicks> picks) {
  HOTSET_CHECK(picks.size() == bytes_.layers.size(), "picks of every layer");
  TokenTime time;
  for (size_t i = 0; i < picks.size(); ++i) {
    const TokenBytes::Layer& layer = bytes_.layers[i];
    const auto expert = static_cast<double>(layer.expert);
    time.mixers += read_on_card(static_cast<double>(layer.mixer));
    queued_bytes_ += picks[i].copies * expert;
    pass(lanes(static_cast<double>(layer.shared) + picks[i].hits * expert, picks[i].misses * expert,
               time));
    time.sync += rates_.sync_us * 1e-6;
    pass(rates_.sync_us * 1e-6);
  }
  time.mixers += read_on_card(static_cast<double>(bytes_.head));
  return time;
}

}  // namespace hotset
