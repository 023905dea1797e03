#include "cache/policy.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "cache/plain_policies.h"
#include "cache/score_policy.h"
#include "kernels/check.h"

namespace hotset {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"score", "lru", "lfu", "static"};

}  // namespace

std::vector<uint32_t> best_first(std::span<const float> scores) {
  std::vector<uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  return order;
}

void Policy::save(std::span<float> scores) const {
  for (const int32_t layer : shape_.layers) {
    for (int32_t expert = 0; expert < shape_.experts_per_layer; ++expert) {
      const ExpertId id{layer, expert};
      scores[index(id)] = static_cast<float>(score(id));
    }
  }
}

std::span<const std::string_view> policy_names() {
  return kNames;
}

std::optional<PolicyKind> policy_named(std::string_view name) {
  const auto at = std::find(kNames.begin(), kNames.end(), name);
  if (at == kNames.end()) return std::nullopt;
  return static_cast<PolicyKind>(at - kNames.begin());
}

std::unique_ptr<Policy> make_policy(const PolicyOptions& options, PolicyShape shape) {
  switch (options.kind) {
    case PolicyKind::kScore:
      return std::make_unique<ScorePolicy>(std::move(shape), options.half_life);
    case PolicyKind::kLru:
      return std::make_unique<LruPolicy>(std::move(shape));
    case PolicyKind::kLfu:
      return std::make_unique<LfuPolicy>(std::move(shape));
    case PolicyKind::kStatic:
      return std::make_unique<StaticPolicy>(std::move(shape));
  }
  HOTSET_CHECK(false, "a policy kind without a policy");
  return nullptr;
}

}  // namespace hotset
