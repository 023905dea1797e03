// Timed repetitions of one thing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <vector>

namespace hotset {

struct Samples {
  std::vector<double> values;

  double at(double part) const {  // 0: minimum, .5: median, 1: maximum
    if (values.empty()) return 0;
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    const size_t last = sorted.size() - 1;
    const double place = part * static_cast<double>(last);
    const auto low = static_cast<size_t>(place);
    const double over = place - static_cast<double>(low);
    return sorted[low] * (1 - over) + sorted[std::min(low + 1, last)] * over;
  }
  nlohmann::ordered_json json() const {
    return {{"min", at(0)}, {"median", at(.5)}, {"max", at(1)}, {"values", values}};
  }
};

}  // namespace hotset
