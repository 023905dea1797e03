#include "profiler/interval.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/check.h"

namespace hotset {
namespace {

double normal_quantile(double p) {
  double low = 0, high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    const double below = 1 - std::erfc(middle / std::numbers::sqrt2) / 2;
    (below < p ? low : high) = middle;
  }
  return low;
}

}  // namespace

// The expansion in powers of 1 / freedom of Abramowitz and Stegun, 26.7.5.
double student_quantile(double p, int freedom) {
  const double z = normal_quantile(p), n = freedom, s = z * z;
  return z + z * (s + 1) / (4 * n) + z * ((5 * s + 16) * s + 3) / (96 * n * n) +
         z * (((3 * s + 19) * s + 17) * s - 15) / (384 * n * n * n) +
         z * ((((79 * s + 776) * s + 1482) * s - 1920) * s - 945) / (92160 * n * n * n * n);
}

Interval mean_interval(std::span<const double> samples, double confidence) {
  HOTSET_CHECK(samples.size() >= 3, "an interval needs samples");
  constexpr double kMostAlike = 0.9;
  const auto n = static_cast<double>(samples.size());
  double sum = 0, squares = 0, neighbours = 0;
  for (const double x : samples) sum += x;
  const double mean = sum / n;
  for (size_t i = 0; i < samples.size(); ++i) {
    squares += (samples[i] - mean) * (samples[i] - mean);
    if (i > 0) neighbours += (samples[i] - mean) * (samples[i - 1] - mean);
  }
  if (squares == 0) return {mean, 0};
  const double found = neighbours / squares;
  // Estimated from so few, it comes out too low by about (1 + 4 r) / n.
  const double alike = std::clamp(found + (1 + 4 * found) / n, 0.0, kMostAlike);
  const double error = std::sqrt(squares / (n - 1) / n * (1 + alike) / (1 - alike));
  const int freedom = static_cast<int>(samples.size()) - 1;
  return {mean, student_quantile((1 + confidence) / 2, freedom) * error};
}

}  // namespace hotset
