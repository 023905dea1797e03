// What samples say of a mean, and how sure that is.
#pragma once

#include <span>

namespace hotset {

struct Interval {
  double mean = 0, half_width = 0;
  double low() const { return mean - half_width; }
  double high() const { return mean + half_width; }
};

// Of samples in the order of their time, at least 3. Neighbours may resemble each other, as blocks
// of a text on one topic do: the interval is wider by what their first autocorrelation says.
Interval mean_interval(std::span<const double> samples, double confidence);

// Of Student's distribution: the t that is exceeded with a probability of 1 - p, 0.5 <= p < 1.
// Right to a thousandth from 8 degrees of freedom on.
double student_quantile(double p, int freedom);

}  // namespace hotset
