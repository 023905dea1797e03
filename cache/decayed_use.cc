#include "cache/decayed_use.h"

#include <cmath>

#include "kernels/check.h"

namespace hotset {

void DecayedUse::advance(int64_t now) {
  if (now == now_) return;
  HOTSET_CHECK(now > now_, "time went back");
  now_ = now;
  unit_ = std::exp2(static_cast<double>(now_ - base_) / half_life_);
  constexpr double kUnitMax = 0x1p500;
  if (unit_ > kUnitMax) rebase();
}

// What is 500 half-lives old or older comes out as (nearly) nothing.
void DecayedUse::rebase() {
  order_.scale(1.0 / unit_);
  base_ = now_;
  unit_ = 1.0;
}

void DecayedUse::set_half_life(double half_life) {
  rebase();
  half_life_ = half_life;
}

}  // namespace hotset
