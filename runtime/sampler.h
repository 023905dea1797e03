// Chooses the next token from logits. The order is: ids without a token are left out; repetition
// penalty; then, unless greedy, temperature, top-k, top-p, min-p, and a draw from what remains.
// Ties go to the lowest id. A seed means the same choices on every machine that gives the same
// logits: the generator is our own. Thread-compatible; allocates at construction only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hotset {

struct SamplerOptions {
  double temperature = 0;         // 0: greedy
  int64_t top_k = 0;              // keep the k largest; 0: all
  double top_p = 1;               // keep the fewest, largest first, that sum up to p; 1: all
  double min_p = 0;               // keep those of at least p times the best one's probability
  double repetition_penalty = 1;  // of ids seen: positive logits are divided by it, others times it
  uint64_t seed = 0;
};

// The id of the largest logit of those that are allowed ([ids] of 0 or 1), the lowest of equal
// ones; NaN is less than all else. -1: none is allowed.
int32_t largest_logit(std::span<const float> logits, std::span<const uint8_t> allowed);

class Sampler {
 public:
  // `allowed`: for each id of the model whether it may be chosen. Throws Error if none may.
  Sampler(const SamplerOptions& options, const std::vector<bool>& allowed);

  const SamplerOptions& options() const { return options_; }
  // A token of the text so far, for the repetition penalty: prompt and chosen ones alike.
  void accept(int32_t token);
  // The text begins anew; the generator goes on.
  void forget();
  int32_t sample(std::span<const float> logits);
  // Where every choice is the largest_logit, whatever the text so far: of which ids. Else empty.
  std::span<const uint8_t> greedy_ids() const;

 private:
  struct Candidate {
    double logit;
    int32_t id;
  };
  bool is_greedy() const { return options_.temperature == 0 || options_.top_k == 1; }
  double adjusted(std::span<const float> logits, int32_t id) const;
  size_t keep_top(size_t count);
  size_t keep_probable(double best, double enough, double& kept_sum);
  double next_uniform();

  const SamplerOptions options_;
  const std::vector<uint8_t> allowed_;
  std::vector<bool> seen_;
  std::vector<Candidate> candidates_;  // the best `sorted` first, in order
  uint64_t state_;
};

}  // namespace hotset
