// Residents ordered by decayed use, s <- s * 2^(-dt / h) + w, h the half-life in tokens. All scores
// decay by the same factor, so none is touched for it: what is kept is s in units that shrink with
// time, a later use counts for more of them, and the order of two experts changes only by use.
#pragma once

#include <cstdint>

#include "cache/victim_order.h"

namespace hotset {

class DecayedUse {
 public:
  DecayedUse(int32_t experts, double half_life) : order_(experts), half_life_(half_life) {}

  void advance(int64_t now);  // never back
  void use(int32_t i, double weight) { order_.raise(i, order_.key(i) + weight * unit_); }
  double score(int32_t i) const { return order_.key(i) / unit_; }
  void set_score(int32_t i, double score) { order_.set(i, score * unit_); }

  double half_life() const { return half_life_; }
  void set_half_life(double half_life);  // scores and order stay

  VictimOrder& order() { return order_; }
  const VictimOrder& order() const { return order_; }

 private:
  void rebase();

  VictimOrder order_;
  double half_life_;
  int64_t now_ = 0, base_ = 0;
  double unit_ = 1.0;  // 2^((now - base) / h): a key of this size is a score of 1
};

}  // namespace hotset
