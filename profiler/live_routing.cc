#include "profiler/live_routing.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr int64_t kBytesMax = 64 << 20;

int32_t checked_top_k(const RingHeader& header) {
  const int32_t k = header.picks_per_row;
  if (k < 1 || k > header.experts_per_layer || k > 1024) {
    throw Error("a ring whose engine says that it picks " + std::to_string(k) +
                " experts of a layer cannot be replayed");
  }
  return k;
}

size_t tokens_that_fit(const RingHeader& header, int64_t tokens_max) {
  const int64_t bytes = int64_t{header.layers} * (2 * header.picks_per_row + 6) + 128;
  return static_cast<size_t>(std::clamp<int64_t>(kBytesMax / bytes, 1, tokens_max));
}

float median(std::vector<float>& values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

LiveRouting::LiveRouting(const RingHeader& header, int64_t tokens_max)
    : layers_(header.layers),
      experts_(header.experts_per_layer),
      top_k_(checked_top_k(header)),
      tokens_max_(tokens_that_fit(header, tokens_max)),
      hits_(layers_),
      missed_(layers_) {}

void LiveRouting::absorb(std::span<const Record> records,
                         const std::function<void(double)>& on_token) {
  for (const Record& record : records) {
    if (record.type == RecordType::kStepBegin) begin_step(record);
    if (!is_open_ || record.step != step_) continue;
    if (record.type == RecordType::kLayer) add_layer(record);
    if (record.type == RecordType::kRange) add_wait(record);
    if (record.type == RecordType::kCard) is_open_ = false;  // of its hits nobody says who they are
    if (record.type == RecordType::kStepEnd) end_step(record, on_token);
  }
}

void LiveRouting::begin_step(const Record& record) {
  is_open_ = record.as<StepRecord>().rows == 1;
  step_ = record.step;
  token_ = {0, 0, std::vector<uint16_t>(static_cast<size_t>(layers_) * top_k_),
            std::vector<uint16_t>(layers_), std::vector<float>(layers_)};
  for (auto* picks : {&hits_, &missed_}) {
    for (std::vector<uint16_t>& of_layer : *picks) of_layer.clear();
  }
}

void LiveRouting::add_layer(const Record& record) {
  const auto layer = record.as<LayerRecord>();
  auto& of = (layer.source == PickSource::kResident ? hits_ : missed_)[record.layer];
  for (const uint16_t expert : std::span(layer.experts).first(layer.picks)) {
    if (std::ssize(of) < top_k_) of.push_back(expert);
  }
  LayerRecord parts = layer;
  token_.experts_ms[record.layer] +=
      static_cast<float>(static_cast<double>(parts.of(RangeName::kExperts)) / 1e6);
}

void LiveRouting::add_wait(const Record& record) {
  const auto name = static_cast<RangeName>(record.detail);
  if (name != RangeName::kReadWait && name != RangeName::kFillWait) return;
  token_.waited_ms += static_cast<double>(record.as<RangeRecord>().duration_ns) / 1e6;
}

bool LiveRouting::rank_picks(int32_t layer) {
  const std::vector<uint16_t>&hits = hits_[layer], &missed = missed_[layer];
  if (std::ssize(hits) + std::ssize(missed) != top_k_) return false;
  std::vector<Ranked> ranked;
  for (const auto* picks : {&hits, &missed}) {
    for (size_t i = 0; i < picks->size(); ++i) {
      const double place = (static_cast<double>(i) + 0.5) / static_cast<double>(picks->size());
      ranked.push_back({place, (*picks)[i]});
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.place < b.place; });
  const size_t first = static_cast<size_t>(layer) * top_k_;
  for (size_t i = 0; i < ranked.size(); ++i) token_.ids[first + i] = ranked[i].expert;
  token_.misses[layer] = static_cast<uint16_t>(missed.size());
  return true;
}

void LiveRouting::end_step(const Record& record, const std::function<void(double)>& on_token) {
  is_open_ = false;
  const auto step = record.as<StepRecord>();
  if (step.failed != 0) return;
  for (int32_t layer = 0; layer < layers_; ++layer) {
    if (!rank_picks(layer)) return;
  }
  token_.ms = static_cast<double>(step.duration_ns) / 1e6;
  tokens_.push_back(std::move(token_));
  if (tokens_.size() > tokens_max_) tokens_.pop_front();
  on_token(tokens_.back().ms);
}

RoutingTrace LiveRouting::trace() const {
  RoutingTrace trace;
  trace.header = {0, layers_, experts_, top_k_, false, std::vector<int64_t>(layers_), ""};
  uint32_t step = 0;
  for (const Token& token : tokens_) {
    for (int32_t layer = 0; layer < layers_; ++layer) {
      const size_t first = trace.ids.size() + static_cast<size_t>(layer) * top_k_;
      trace.events.push_back({step, layer, 1, TracePhase::kDecode, first});
    }
    trace.ids.insert(trace.ids.end(), token.ids.begin(), token.ids.end());
    ++step;
  }
  trace.weights.resize(trace.ids.size());
  return trace;
}

// The line is drawn through the medians of the tokens that missed as many, each weighed by its
// tokens, and not through all of them: a neighbour who has a core for some milliseconds makes one
// layer as slow as a hundred misses do. What was waited for reads is no estimate but seen, of the
// tokens' median likewise: where all else is noise, that is left.
TuneCosts LiveRouting::costs() const {
  if (tokens_.empty()) return {};
  double together = 0, squares = 0, misses = 0, ms = 0;
  std::vector<float> waited_ms;  // a miss, of tokens that had any
  const auto n = static_cast<double>(tokens_.size());
  for (int32_t layer = 0; layer < layers_; ++layer) {
    std::map<int, std::vector<float>> groups;  // by how many were missed
    for (const Token& token : tokens_) {
      groups[token.misses[layer]].push_back(token.experts_ms[layer]);
    }
    double x = 0, y = 0, xx = 0, xy = 0;
    for (auto& [missed, group] : groups) {
      const double weight = static_cast<double>(group.size()), took = median(group);
      x += weight * missed;
      y += weight * took;
      xx += weight * missed * missed;
      xy += weight * missed * took;
    }
    together += xy - x * y / n;
    squares += xx - x * x / n;
    misses += x;
  }
  for (const Token& token : tokens_) {
    ms += token.ms;
    const int missed = std::accumulate(token.misses.begin(), token.misses.end(), 0);
    if (missed > 0) waited_ms.push_back(static_cast<float>(token.waited_ms / missed));
  }
  const double longer = squares > 0 ? together / squares : 0;
  const double waited = waited_ms.empty() ? 0 : median(waited_ms);
  TuneCosts costs;
  costs.miss_ms = std::max(longer, waited);
  costs.rest_ms = std::max(ms / n - costs.miss_ms * misses / n, 0.0);
  return costs;
}

}  // namespace hotset
