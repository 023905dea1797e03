// CLOCK_MONOTONIC for who asks it some dozen times in a tenth of a millisecond, as a step's thread
// does. Between two looks at the clock itself time is counted in the processor's ticks, which take
// half as long to read and do not make it wait for what it has begun. Where the kernel does not
// trust these, every look is at the clock. Thread-compatible.
#pragma once

#include <cstdint>

namespace hotset {

// The clock itself, in ns.
uint64_t monotonic_ns();

class StepClock {
 public:
  StepClock();

  // ns, never less than before; off the clock by tens of ns, and by as much as the clock's speed
  // changes (half a thousandth where it is being set) in the last millisecond.
  uint64_t now() {
    const uint64_t ticks = read_ticks() - at_ticks_;
    if (ticks >= ticks_most_) return look();
    return advance(at_ns_ + (ticks * ns_per_tick_ >> kFraction));
  }
  // The same, as the clock itself says, from which is counted until it is looked at again.
  uint64_t look();

 private:
  static constexpr int kFraction = 32;
  static uint64_t read_ticks() {
#ifdef __x86_64__
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
  }
  uint64_t advance(uint64_t ns) {
    return last_ns_ = ns > last_ns_ ? ns : last_ns_;
  }
  void measure_ticks();

  const bool has_ticks_;
  uint64_t last_ns_ = 0;
  uint64_t at_ns_ = 0, at_ticks_ = 0;              // the last look
  uint64_t ticks_most_ = 0;                        // so many are counted until the next one
  uint64_t ns_per_tick_ = 0;                       // in parts of 2^kFraction; 0: not known yet
  uint64_t measured_ns_ = 0, measured_ticks_ = 0;  // ... was found from here on
};

}  // namespace hotset
