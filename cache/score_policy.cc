#include "cache/score_policy.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr double kEvictionHalfLife = 64;  // tokens, of the measured evictions a token
constexpr double kGainHalfLife = 256;     // of what a shadow has won
constexpr int64_t kChooseEvery = 64;      // tokens
// Another half-life must be this much better: each is a good one, and going back and forth is not.
constexpr double kClearly = 1.005;
constexpr int32_t kSampledExperts = 2048;

}  // namespace

void PricedUse::advance(int64_t now) {
  if (now == now_) return;
  evictions_ *= std::exp2(-static_cast<double>(now - now_) / kEvictionHalfLife);
  now_ = now;
  scores.advance(now);
}

void PricedUse::evict(int32_t i) {
  scores.order().remove(i);
  ++evictions_;
}

bool PricedUse::admits(int32_t newcomer, int32_t victim, double lambda) const {
  const double evictions_per_token = evictions_ * std::numbers::ln2 / kEvictionHalfLife;
  const double least = lambda * scores.half_life() * evictions_per_token /
                       (std::numbers::ln2 * scores.order().size());
  return scores.score(newcomer) - scores.score(victim) > least;
}

HalfLifeShadows::HalfLifeShadows(const PolicyShape& shape)
    : top_k_(shape.top_k),
      stride_(std::clamp(
          static_cast<int32_t>(shape.layers.size()) * shape.experts_per_layer / kSampledExperts, 4,
          16)),
      experts_((shape.experts_per_layer + stride_ - 1) / stride_),
      place_(shape.layer_count, -1) {
  int32_t layers = 0;
  for (const int32_t layer : shape.layers) place_[layer] = layers++;
  picks_.reserve(experts_);
  is_picked_.resize(static_cast<size_t>(layers) * experts_);
  for (const double half_life : kHalfLives) {
    shadows_.push_back({PricedUse(layers * experts_, half_life)});
  }
}

void HalfLifeShadows::use(int32_t layer, std::span<const Pick> picks, int64_t now,
                          double resident_share) {
  // Every stride-th expert, of each layer others: a popular place in all layers does not count for
  // more.
  picks_.clear();
  for (const Pick& pick : picks) {
    if (pick.expert % stride_ != layer % stride_) continue;
    picks_.push_back({place_[layer] * experts_ + pick.expert / stride_, pick.rank});
  }
  const double decay =
      now == now_ ? 1.0 : std::exp2(-static_cast<double>(now - now_) / kGainHalfLife);
  now_ = now;
  const auto slots = static_cast<int32_t>(resident_share * static_cast<double>(is_picked_.size()));
  for (const Pick& pick : picks_) is_picked_[pick.expert] = 1;
  for (Shadow& shadow : shadows_) {
    shadow.use.advance(now);
    shadow.gain *= decay;
    replay(shadow, slots);
  }
  for (const Pick& pick : picks_) is_picked_[pick.expert] = 0;
}

void HalfLifeShadows::replay(Shadow& shadow, int32_t slots) {
  VictimOrder& order = shadow.use.scores.order();
  for (const Pick& pick : picks_) {
    shadow.use.scores.use(pick.expert, ScorePolicy::weight(pick.rank, top_k_));
    if (order.contains(pick.expert)) ++shadow.gain;
  }
  for (const Pick& pick : picks_) {
    if (order.contains(pick.expert)) continue;
    if (order.size() >= slots) {
      const int32_t victim = order.offer([&](int32_t i) { return !is_picked_[i]; });
      if (victim < 0 || !shadow.use.admits(pick.expert, victim, lambda_)) continue;
      shadow.use.evict(victim);
    }
    order.insert(pick.expert);
    shadow.gain -= lambda_;
  }
  while (order.size() > slots) shadow.use.evict(order.offer([](int32_t) { return true; }));
}

double HalfLifeShadows::best(double present) const {
  const auto by_gain = [](const Shadow& a, const Shadow& b) { return a.gain < b.gain; };
  const Shadow& best = *std::max_element(shadows_.begin(), shadows_.end(), by_gain);
  for (const Shadow& shadow : shadows_) {
    if (shadow.use.scores.half_life() == present && best.gain <= shadow.gain * kClearly) {
      return present;
    }
  }
  return best.use.scores.half_life();
}

ScorePolicy::ScorePolicy(PolicyShape shape, double half_life)
    : OrderedPolicy(std::move(shape)),
      use_(index_count(), half_life > 0 ? half_life : HalfLifeShadows::kHalfLives[1]),
      shadows_(half_life > 0 ? nullptr : std::make_unique<HalfLifeShadows>(shape_)) {}

double ScorePolicy::weight(int32_t rank, int32_t top_k) {
  constexpr double kSpread = 0.25;  // the first rank's weight over the mean
  if (top_k < 2) return 1.0;
  return 1.0 + kSpread - 2.0 * kSpread * std::min(rank, top_k - 1) / (top_k - 1);
}

void ScorePolicy::use(int32_t layer, std::span<const Pick> picks, int64_t now) {
  use_.advance(now);
  for (const Pick& pick : picks) {
    use_.scores.use(index({layer, pick.expert}), weight(pick.rank, shape_.top_k));
  }
  if (!shadows_) return;
  const auto experts = static_cast<double>(shape_.layers.size()) * shape_.experts_per_layer;
  shadows_->use(layer, picks, now, use_.scores.order().size() / experts);
  if (now < choose_at_) return;
  choose_at_ = now + kChooseEvery;
  const double best = shadows_->best(half_life());
  if (best != half_life()) use_.scores.set_half_life(best);
}

bool ScorePolicy::admits(ExpertId newcomer, ExpertId victim, double lambda) {
  if (shadows_) shadows_->set_lambda(lambda);
  return use_.admits(index(newcomer), index(victim), lambda);
}

void ScorePolicy::restore(std::span<const float> scores) {
  for (int32_t i = 0; i < index_count(); ++i) use_.scores.set_score(i, scores[i]);
}

}  // namespace hotset
