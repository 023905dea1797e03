// What an insertion into a card's slots costs, in hits (lambda of cache/policy.h): the time that a
// copy takes over the time that the host takes for a miss, which a hit saves. (What the card takes
// for the hit itself is some tenth of it and not counted.) Both are means that forget. Knows no
// clock.
#pragma once

#include <cstdint>

namespace hotset {

class AdmissionPrice {
 public:
  // Until both are known: a copy of 71 to 142 us, misses of 28 to 44 us, by calculation.
  static constexpr double kUnmeasured = 3;
  // What a bad measurement may do at most: everything is copied, or next to nothing.
  static constexpr double kLeast = 0.1, kMost = 100;
  static constexpr int64_t kFirst = 16;      // so many are needed to be believed
  static constexpr double kHalfLife = 1024;  // copies, misses

  // So many of them took so long together; nothing is learned from a time that is none.
  void add_copies(int64_t count, double seconds) { copies_.add(count, seconds); }
  void add_misses(int64_t count, double seconds) { misses_.add(count, seconds); }
  double lambda() const;

 private:
  struct Mean {
    int64_t seen = 0;
    double count = 0, seconds = 0;  // decayed
    void add(int64_t more, double took);
  };
  Mean copies_, misses_;
};

}  // namespace hotset
