// The default policy: decayed use, a higher router rank counting for more, and admission at a
// price. The half-life is either given or the best of 8, 16 and 32 tokens by shadow replay.
//
// The price: s * ln 2 / h estimates an expert's uses a token, and who is admitted stays for about
// R = slots / (evictions a token) tokens. So the exchange is worth (s_new - s_victim) * R * ln 2 /
// h hits, which must be more than lambda. A high lambda admits less, which makes R longer: it
// settles by itself.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "cache/decayed_use.h"
#include "cache/ordered_policy.h"

namespace hotset {

// Decayed use with the price: what the policy itself and each of its shadows go by.
class PricedUse {
 public:
  PricedUse(int32_t experts, double half_life) : scores(experts, half_life) {}
  void advance(int64_t now);
  void evict(int32_t i);
  bool admits(int32_t newcomer, int32_t victim, double lambda) const;

  DecayedUse scores;

 private:
  int64_t now_ = 0;
  double evictions_ = 0;  // decayed
};

// What-if: three small caches over a fixed sample of the class's experts, with the slots that the
// real one has for as many, replay the same events with a half-life each (miniature simulation:
// Waldspurger and others 2017). A sample is every 4th to 16th expert, some 2,000 where there are
// enough: for 24,576 experts the three cost a quarter of what the policy itself does, and 100 KB.
class HalfLifeShadows {
 public:
  static constexpr std::array<double, 3> kHalfLives = {8, 16, 32};

  explicit HalfLifeShadows(const PolicyShape& shape);
  // The event with the weights that the policy gave its picks; `resident_share` of all experts of
  // the class are resident.
  void use(int32_t layer, std::span<const Pick> picks, int64_t now, double resident_share);
  void set_lambda(double lambda) { lambda_ = lambda; }
  // The half-life that has done best of late; `present` unless another one is clearly better.
  double best(double present) const;

 private:
  struct Shadow {
    PricedUse use;
    double gain = 0;  // hits - lambda * insertions; decayed
  };
  void replay(Shadow& shadow, int32_t slots);

  const int32_t top_k_, stride_, experts_;  // experts_: sampled ones of a layer
  std::vector<int32_t> place_;              // [layers of the model] -> which of the class's own
  std::vector<Shadow> shadows_;
  std::vector<Pick> picks_;         // sampled ones of the running event, by place in the sample
  std::vector<uint8_t> is_picked_;  // [sampled experts of all layers]
  int64_t now_ = 0;
  double lambda_ = 0;
};

class ScorePolicy : public OrderedPolicy {
 public:
  ScorePolicy(PolicyShape shape, double half_life);  // 0: by shadow replay
  std::string_view name() const override { return "score"; }
  void use(int32_t layer, std::span<const Pick> picks, int64_t now) override;
  void evict(ExpertId expert) override { use_.evict(index(expert)); }
  bool admits(ExpertId newcomer, ExpertId victim, double lambda) override;
  double score(ExpertId expert) const override { return use_.scores.score(index(expert)); }
  void restore(std::span<const float> scores) override;

  double half_life() const { return use_.scores.half_life(); }
  // What a use at this rank adds to a score: 1 in the mean.
  static double weight(int32_t rank, int32_t top_k);

 private:
  VictimOrder& order() override { return use_.scores.order(); }
  PricedUse use_;
  std::unique_ptr<HalfLifeShadows> shadows_;  // none: the half-life is given
  int64_t choose_at_ = 0;
};

}  // namespace hotset
