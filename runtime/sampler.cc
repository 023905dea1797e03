#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace hotset {
namespace {

// The first guess of how many of the best candidates top-p needs: sorting the whole vocabulary of
// 151,936 costs 10 ms a token.
constexpr size_t kFirstSorted = 64;

// The card's argmax kernel has the same order (kernels/cuda/router.cuh).
template <class LogitOf>
int32_t largest(std::span<const uint8_t> allowed, const LogitOf& logit_of) {
  int32_t best = -1;
  auto best_logit = logit_of(0);
  for (int32_t id = 0; id < std::ssize(allowed); ++id) {
    if (!allowed[id]) continue;
    const auto logit = logit_of(id);
    const bool is_larger = logit > best_logit || (std::isnan(best_logit) && !std::isnan(logit));
    if (best >= 0 && !is_larger) continue;
    best = id;
    best_logit = logit;
  }
  return best;
}

}  // namespace

int32_t largest_logit(std::span<const float> logits, std::span<const uint8_t> allowed) {
  HOTSET_CHECK(logits.size() == allowed.size() && !logits.empty(), "a logit for each id");
  return largest(allowed, [&](int32_t id) { return logits[id]; });
}

Sampler::Sampler(const SamplerOptions& options, const std::vector<bool>& allowed)
    : options_(options),
      allowed_(allowed.begin(), allowed.end()),
      seen_(allowed_.size()),
      state_(options.seed) {
  HOTSET_CHECK(options.repetition_penalty > 0 && options.temperature >= 0, "sampler options");
  if (std::find(allowed_.begin(), allowed_.end(), 1) == allowed_.end()) {
    throw Error("sampler: the tokenizer has no token for any id of the model");
  }
  candidates_.reserve(allowed_.size());
}

void Sampler::accept(int32_t token) {
  if (token >= 0 && static_cast<size_t>(token) < seen_.size()) seen_[token] = true;
}

void Sampler::forget() {
  seen_.assign(seen_.size(), false);
}

double Sampler::adjusted(std::span<const float> logits, int32_t id) const {
  const double logit = logits[id];
  if (!seen_[id]) return logit;
  return logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
}

std::span<const uint8_t> Sampler::greedy_ids() const {
  if (!is_greedy() || options_.repetition_penalty != 1) return {};
  return allowed_;
}

// Puts the best `count` candidates first, in order.
size_t Sampler::keep_top(size_t count) {
  count = std::min(count, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(count),
                    candidates_.end(), [](const Candidate& a, const Candidate& b) {
                      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
                    });
  return count;
}

// What top-p and min-p keep is a prefix of the order; it is sorted only as far as it reaches.
size_t Sampler::keep_probable(double best, double enough, double& kept_sum) {
  size_t sorted = 0, kept = 0;
  kept_sum = 0;
  for (; kept < candidates_.size() && (kept == 0 || kept_sum < enough); ++kept) {
    if (kept == sorted) sorted = keep_top(std::max(kFirstSorted, 4 * sorted));
    const double weight = std::exp(candidates_[kept].logit - best);
    if (kept > 0 && weight < options_.min_p) break;
    kept_sum += weight;
  }
  return kept;
}

int32_t Sampler::sample(std::span<const float> logits) {
  HOTSET_CHECK(logits.size() == allowed_.size(), "a logit for each id");
  if (is_greedy()) {
    return largest(allowed_, [&](int32_t id) { return adjusted(logits, id); });
  }

  candidates_.clear();
  for (int32_t id = 0; id < std::ssize(logits); ++id) {
    if (allowed_[id]) candidates_.push_back({adjusted(logits, id) / options_.temperature, id});
  }
  if (options_.top_k > 0) candidates_.resize(keep_top(static_cast<size_t>(options_.top_k)));

  double best = candidates_.front().logit, sum = 0;
  for (const Candidate& c : candidates_) best = std::max(best, c.logit);
  for (const Candidate& c : candidates_) sum += std::exp(c.logit - best);

  double kept_sum = sum;
  const bool keeps_all = options_.top_p >= 1 && options_.min_p <= 0;
  const size_t kept =
      keeps_all ? candidates_.size() : keep_probable(best, options_.top_p * sum, kept_sum);

  double left = next_uniform() * kept_sum;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= std::exp(candidates_[i].logit - best);
    if (left < 0) return candidates_[i].id;
  }
  return candidates_[kept - 1].id;
}

// SplitMix64; its 53 high bits make a number in [0, 1).
double Sampler::next_uniform() {
  state_ += 0x9E3779B97F4A7C15;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

}  // namespace hotset
