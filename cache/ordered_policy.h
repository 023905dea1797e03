// A policy whose whole opinion is a VictimOrder: what all of ours share.
#pragma once

#include "cache/policy.h"
#include "cache/victim_order.h"

namespace hotset {

class OrderedPolicy : public Policy {
 public:
  void admit(ExpertId expert) override { order().insert(index(expert)); }
  void evict(ExpertId expert) override { order().remove(index(expert)); }
  std::optional<ExpertId> offer_victims(const std::function<bool(ExpertId)>& accept) override {
    const int32_t i = order().offer([&](int32_t i) { return accept(expert_at(i)); });
    return i < 0 ? std::nullopt : std::optional(expert_at(i));
  }
  void verify() override { order().verify(); }

 protected:
  using Policy::Policy;
  virtual VictimOrder& order() = 0;
};

}  // namespace hotset
