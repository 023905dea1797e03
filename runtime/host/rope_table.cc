#include "runtime/host/rope_table.h"

#include <cmath>

namespace hotset {

RopeTable rope_table(const ModelConfig& c, int64_t positions) {
  const int64_t half = c.rotary_dim / 2;
  RopeTable table;
  table.cos.resize(static_cast<size_t>(positions * half));
  table.sin.resize(table.cos.size());
  for (int64_t j = 0; j < half; ++j) {
    const double frequency =
        std::pow(c.rope_theta, -2.0 * static_cast<double>(j) / static_cast<double>(c.rotary_dim));
    for (int64_t p = 0; p < positions; ++p) {
      // The angle is rounded to float32, as the reference computes it; its cosine is not.
      const float angle = static_cast<float>(p) * static_cast<float>(frequency);
      table.cos[p * half + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
      table.sin[p * half + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return table;
}

}  // namespace hotset
