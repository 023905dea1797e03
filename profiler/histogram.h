// Counts of whole numbers in buckets that widen with the value: exact below 16, then 16 buckets an
// octave, so a quantile is at most 1/16 above the truth.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace hotset {

class Histogram {
 public:
  static constexpr int kSteps = 16, kBuckets = kSteps * 61;

  static int bucket(uint64_t value) {
    if (value < kSteps) return static_cast<int>(value);
    const auto octave = static_cast<int>(std::bit_width(value)) - 5;  // 0 for 16..31
    return kSteps * (octave + 1) + static_cast<int>((value >> octave) - kSteps);
  }
  // The least value of a bucket. Its largest is one less than the next bucket's least.
  static uint64_t least(int bucket) {
    if (bucket < kSteps) return static_cast<uint64_t>(bucket);
    const int octave = bucket / kSteps - 1;
    return static_cast<uint64_t>(bucket % kSteps + kSteps) << octave;
  }

  void add(uint64_t value, uint64_t times = 1) {
    counts_[bucket(value)] += times;
    count_ += times;
    sum_ += static_cast<double>(value) * static_cast<double>(times);
  }
  uint64_t count() const { return count_; }
  double sum() const { return sum_; }

  // The largest value of the bucket in which the q-th part of all values ends; 0 without values.
  uint64_t quantile(double q) const {
    const auto rank = static_cast<uint64_t>(std::ceil(q * static_cast<double>(count_)));
    uint64_t seen = 0;
    for (int b = 0; b < kBuckets; ++b) {
      seen += counts_[b];
      if (seen >= rank && seen > 0) return b + 1 < kBuckets ? least(b + 1) - 1 : UINT64_MAX;
    }
    return 0;
  }
  // How many are at most `value`, which must be the largest of a bucket to be exact.
  uint64_t count_up_to(uint64_t value) const {
    uint64_t seen = 0;
    for (int b = 0; b <= bucket(value); ++b) seen += counts_[b];
    return seen;
  }

 private:
  std::array<uint64_t, kBuckets> counts_ = {};
  uint64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace hotset
