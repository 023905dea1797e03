// Never slower than without: measures steps with a helper on and off in alternating windows, and
// keeps it off until it clearly wins. Knows no clock and no helper: times are passed in.
#pragma once

#include <array>
#include <cstdint>

namespace hotset {

class StepGuard {
 public:
  // Whether the helper is on in the next step.
  bool is_on() const;
  // What the step took that was just made. True if that decided otherwise than the time before:
  // on is what a guard begins with.
  bool add(double seconds);

  bool has_decided_on() const { return keeps_on_; }
  // Of the last decision: mean seconds of a step.
  double seconds_on() const { return seconds_[1]; }
  double seconds_off() const { return seconds_[0]; }

  static constexpr int kSteps = 8;    // a window; its first step is not counted
  static constexpr int kPairs = 4;    // of windows, in the order on off, off on, on off, off on:
                                      // a cache that warms up favours neither
  static constexpr int kHold = 1536;  // steps until it measures again

 private:
  bool decide();

  bool keeps_on_ = true;
  int window_ = 0, step_ = 0;  // window_ == 2 * kPairs: holding
  std::array<double, 2 * kPairs> sums_ = {};
  std::array<double, 2> seconds_ = {};
};

}  // namespace hotset
