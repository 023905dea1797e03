#include "cache/admission_price.h"

#include <algorithm>
#include <cmath>

namespace hotset {

void AdmissionPrice::Mean::add(int64_t more, double took) {
  if (more <= 0 || !(took > 0) || !std::isfinite(took)) return;
  const double kept = std::exp2(-static_cast<double>(more) / kHalfLife);
  count = count * kept + static_cast<double>(more);
  seconds = seconds * kept + took;
  seen += more;
}

double AdmissionPrice::lambda() const {
  if (copies_.seen < kFirst || misses_.seen < kFirst) return kUnmeasured;
  const double copy = copies_.seconds / copies_.count, miss = misses_.seconds / misses_.count;
  return std::clamp(copy / miss, kLeast, kMost);
}

}  // namespace hotset
