#include "runtime/step_guard.h"

#include <algorithm>

namespace hotset {

namespace {

bool window_is_on(int window) {
  return window % 4 == 0 || window % 4 == 3;
}

}  // namespace

bool StepGuard::is_on() const {
  return window_ == 2 * kPairs ? keeps_on_ : window_is_on(window_);
}

bool StepGuard::add(double seconds) {
  if (window_ == 2 * kPairs) {
    if (++step_ == kHold) window_ = step_ = 0;
    return false;
  }
  if (step_ == 0) sums_[window_] = 0;
  if (step_ > 0) sums_[window_] += seconds;  // the first still has the other window's reads
  if (++step_ < kSteps) return false;
  step_ = 0;
  return ++window_ == 2 * kPairs && decide();
}

// The helper loses if a step takes at least 1 % longer with it in the median pair of windows: a
// neighbour on the same disk that comes and goes spoils one pair, not three. Once off it must gain
// as much: where it hardly matters, a run of hours would hear of it every few minutes.
bool StepGuard::decide() {
  constexpr double kClearly = 1.01;
  std::array<double, kPairs> ratios;
  seconds_ = {};
  for (int pair = 0; pair < kPairs; ++pair) {
    const bool first_is_on = window_is_on(2 * pair);
    const double on = sums_[2 * pair + (first_is_on ? 0 : 1)];
    const double off = sums_[2 * pair + (first_is_on ? 1 : 0)];
    ratios[pair] = off > 0 ? on / off : 1.0;
    seconds_[1] += on / (kPairs * (kSteps - 1));
    seconds_[0] += off / (kPairs * (kSteps - 1));
  }
  std::sort(ratios.begin(), ratios.end());
  const double median = (ratios[kPairs / 2 - 1] + ratios[kPairs / 2]) / 2;
  const bool was_on = keeps_on_;
  keeps_on_ = median < (was_on ? kClearly : 1 / kClearly);
  return keeps_on_ != was_on;
}

}  // namespace hotset
