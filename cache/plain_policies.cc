#include "cache/plain_policies.h"

#include <algorithm>

namespace hotset {

void LruPolicy::use(int32_t layer, std::span<const Pick> picks, int64_t) {
  ++events_;
  for (const Pick& pick : picks) {
    const double rank = static_cast<double>(pick.rank) / shape_.experts_per_layer;
    order_.raise(index({layer, pick.expert}), static_cast<double>(events_ + 1) - rank);
  }
}

double LruPolicy::score(ExpertId expert) const {
  const double key = order_.key(index(expert));
  return key == 0 ? 0.0 : 1.0 / (static_cast<double>(events_ + 2) - key);
}

void LruPolicy::restore(std::span<const float> scores) {
  const float most = *std::max_element(scores.begin(), scores.end());
  for (int32_t i = 0; i < index_count(); ++i) {
    order_.set(i, most == 0 ? 0.0 : static_cast<double>(scores[i]) / most);
  }
}

void LfuPolicy::use(int32_t layer, std::span<const Pick> picks, int64_t now) {
  counts_.advance(now / kHalveEvery);
  for (const Pick& pick : picks) counts_.use(index({layer, pick.expert}), 1.0);
}

bool LfuPolicy::admits(ExpertId newcomer, ExpertId victim, double) {
  return score(newcomer) > score(victim);
}

void LfuPolicy::restore(std::span<const float> scores) {
  for (int32_t i = 0; i < index_count(); ++i) counts_.set_score(i, scores[i]);
}

bool StaticPolicy::admits(ExpertId newcomer, ExpertId victim, double) {
  return score(newcomer) > score(victim);
}

void StaticPolicy::restore(std::span<const float> scores) {
  for (int32_t i = 0; i < index_count(); ++i) order_.set(i, scores[i]);
}

}  // namespace hotset
