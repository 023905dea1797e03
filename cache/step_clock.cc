#include "cache/step_clock.h"

#include <chrono>
#include <fstream>
#include <string>

namespace hotset {
namespace {

// The kernel counts these ticks itself if they are as fast at all times and on all processors.
bool kernel_trusts_ticks() {
#ifdef __x86_64__
  std::ifstream file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  std::string source;
  return file >> source && source == "tsc";
#else
  return false;
#endif
}

}  // namespace

uint64_t monotonic_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

StepClock::StepClock() : has_ticks_(kernel_trusts_ticks()) {}

// The clock was looked at between two looks at the ticks. Where these lie far apart, the thread was
// interrupted there, and who knows when it was: no time is counted from that.
uint64_t StepClock::look() {
  constexpr uint64_t kNearTicks = 1000;
  ticks_most_ = 0;
  if (!has_ticks_) return advance(monotonic_ns());
  const uint64_t before = read_ticks();
  at_ns_ = monotonic_ns();
  const uint64_t between = read_ticks() - before;
  if (between < kNearTicks) {
    at_ticks_ = before + between / 2;
    measure_ticks();
  }
  return advance(at_ns_);
}

// Their length is known to some millionths after milliseconds, and measured again ten times a
// second, for the clock is made to go faster and slower to be right in the long run.
void StepClock::measure_ticks() {
  constexpr uint64_t kFirstNs = 5000000, kAgainNs = 100000000, kCountedNs = 1000000;
  const uint64_t ns = at_ns_ - measured_ns_, ticks = at_ticks_ - measured_ticks_;
  const bool is_first = measured_ns_ == 0;
  if (is_first || ns >= (ns_per_tick_ == 0 ? kFirstNs : kAgainNs)) {
    constexpr uint64_t kLongAgoNs = uint64_t{1} << 31;  // the fraction below has 64 bits
    const bool is_usable = !is_first && ns < kLongAgoNs && ticks > 0;
    if (is_usable) ns_per_tick_ = (ns << kFraction) / ticks;
    measured_ns_ = at_ns_;
    measured_ticks_ = at_ticks_;
  }
  if (ns_per_tick_ != 0) ticks_most_ = (kCountedNs << kFraction) / ns_per_tick_;
}

}  // namespace hotset
