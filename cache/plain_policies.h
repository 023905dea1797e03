// The policies to compare with, and for those who know their workload better.
#pragma once

#include "cache/decayed_use.h"
#include "cache/ordered_policy.h"

namespace hotset {

// Least recently used. Events, not touches, make the order; within an event, a heavier pick counts
// as the later use. Admits everything.
class LruPolicy : public OrderedPolicy {
 public:
  explicit LruPolicy(PolicyShape shape) : OrderedPolicy(std::move(shape)), order_(index_count()) {}
  std::string_view name() const override { return "lru"; }
  void use(int32_t layer, std::span<const Pick> picks, int64_t now) override;
  bool admits(ExpertId, ExpertId, double) override { return true; }
  // 1 / (1 + how many events ago), up to 2; what was restored was before the first.
  double score(ExpertId expert) const override;
  void restore(std::span<const float> scores) override;

 private:
  VictimOrder& order() override { return order_; }
  VictimOrder order_;  // key: 1 + the event's number - rank / experts; 0 to 1: restored
  int64_t events_ = 0;
};

// Least frequently used, of all experts and not only residents. It ages: all counts are halved
// every 256 tokens, as in W-TinyLFU (Einziger, Friedman, Manes 2017), so that what was popular in
// another text gives way. Admits whom it has seen more often than the victim.
class LfuPolicy : public OrderedPolicy {
 public:
  static constexpr int64_t kHalveEvery = 256;  // tokens

  explicit LfuPolicy(PolicyShape shape)
      : OrderedPolicy(std::move(shape)), counts_(index_count(), 1) {}
  std::string_view name() const override { return "lfu"; }
  void use(int32_t layer, std::span<const Pick> picks, int64_t now) override;
  bool admits(ExpertId newcomer, ExpertId victim, double lambda) override;
  double score(ExpertId expert) const override { return counts_.score(index(expert)); }
  void restore(std::span<const float> scores) override;

 private:
  VictimOrder& order() override { return counts_.order(); }
  DecayedUse counts_;  // its time is in halvings
};

// A profile says who is kept, and use changes nothing: the scores of another run, restored.
class StaticPolicy : public OrderedPolicy {
 public:
  explicit StaticPolicy(PolicyShape shape)
      : OrderedPolicy(std::move(shape)), order_(index_count()) {}
  std::string_view name() const override { return "static"; }
  void use(int32_t, std::span<const Pick>, int64_t) override {}
  bool admits(ExpertId newcomer, ExpertId victim, double lambda) override;
  double score(ExpertId expert) const override { return order_.key(index(expert)); }
  void restore(std::span<const float> scores) override;

 private:
  VictimOrder& order() override { return order_; }
  VictimOrder order_;
};

}  // namespace hotset
